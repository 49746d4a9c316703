"""``python -m handler.openapi``: write ``handler/openapi.yaml`` from the schema and limits in code.

OpenAPI 3.1.0, whose schemas are JSON Schema 2020-12. The file is for a model of nz 100 and the
default limits; a server with others tells its own schema in its describe reply.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from boltons.fileutils import atomic_save

from handler.body import SIGNATURES, schema
from handler.errors import CONTENT_TYPE, Kind
from handler.latents import MAX_LATENT, MAX_SEED
from handler.request import SOURCES
from handler.settings import DIRECTION_NAME, MAX_DIRECTIONS, Limits
from handler.wire import FORMATS, MEDIA_TYPES

PATH = Path(__file__).with_name("openapi.yaml").resolve()
NZ = 100

# Bodies that a server answers with 200; the tests send each of them.
EXAMPLES: dict[str, dict[str, Any]] = {
    "random": {},
    "grid": {"seed": 1, "num_images": 64},
    "seeds": {"seeds": [3, 1, 4, 1, 5], "columns": 5, "padding": 0},
    "noise": {"noise": [0.0] * NZ},
    "base64": {"noise": "AACAPwAAgL8AAAA/" * 33 + "AACAPw=="},  # 1, -1, 0.5, ..., 1
    "walk": {"walk": {"between": [1, 7, 42], "steps": 12, "method": "slerp"}, "columns": 12},
    "mix": {
        "mix": [
            {"weight": 1, "seeds": [1, 2, 3]},
            {"weight": -1, "seeds": [4, 5, 6]},
            {"weight": 1, "seeds": [7, 8, 9]},
        ]
    },
    "truncation": {"seed": 1, "num_images": 4, "truncation": 0.7},
    "edit": {"seed": 1, "num_images": 16, "edit": {"glasses": 1.5}},
    "layout": {"seed": 9, "num_images": 6, "columns": 3, "padding": 4, "background": "#203040"},
    "json": {"seed": 1, "num_images": 2, "format": "json"},
    "npy": {"seed": 1, "num_images": 2, "format": "npy"},
    "webp": {"walk": {"between": [1, 7, 42], "steps": 12, "closed": True}, "format": "webp"},
    "gif": {"seeds": [3, 1, 4], "format": {"type": "gif", "fps": 2, "loop": 1}},
    "kserve": {"instances": [{"seed": 1}, {"seeds": [2, 3]}]},
    "vertex": {"instances": [{"seed": 1}, {"seeds": [2, 3]}], "parameters": {"truncation": 0.7}},
    "tensorflow": {"instances": [{"seed": 1}], "signature_name": "serving_default"},
}

_SOURCE_FIELDS = (*SOURCES, "num_images")
_STATUSES = sorted({kind.status for kind in Kind})
_REPLY_HEADERS = {
    "X-Source": "where the latents came from: seed, seeds, noise, walk or mix",
    "X-Seed": "the first seed, with `seed` or without a source",
    "X-Seeds": "the seeds, when they were listed; the first 60 of them",
    "X-Truncation": "the truncation, when there was one",
    "X-Edit": "the strength of each direction, when there was an edit; the first 15 of them",
    "X-Num-Images": "number of images",
    "X-Grid": "columns x rows of the grid",
    "X-Model-Version": "version of the served model",
    "X-Weights-SHA256": "digest of its weights",
    "X-Directions-SHA256": "digest of the names and steps of its directions, when it has any",
    "X-Backend": "torch_gpu, onnx, packed or torchscript",
    "X-Precision": "float32, bfloat16 or float16",
    "X-Device": "cpu or cuda:<index>",
    "X-Fallback": "cpu, when a GPU was meant and could not be used",
}
_CACHE_HEADERS = {
    "ETag": "of the picture; none of a random one",
    "Cache-Control": "how long a copy is good",
    "Cache-Status": "whether the proxy had it (RFC 9211)",
}
_TORCHSERVES_OWN = {
    500: "the worker died",
    503: "the queue is full or no worker is up",
    507: "the worker died",
}
_OF_A_WALK = ("steps", "method", "closed")
_SEEDS = "^[0-9]{1,16}(-[0-9]{1,16})?(,[0-9]{1,16}(-[0-9]{1,16})?)*$"
# Path -> what it is, its parameter with an example, further fields of the query.
_ADDRESSES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "/seed/{seed}.{format}": (
        "The picture of a seed",
        {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "examples": [42]},
        ("num_images",),
    ),
    "/seeds/{seeds}.{format}": (
        "Pictures of seeds and of ranges of them",
        {"type": "string", "pattern": _SEEDS, "examples": ["1-64", "1,5,9"]},
        (),
    ),
    "/walk/{between}.{format}": (
        "A walk through seeds",
        {"type": "string", "pattern": "^[0-9]{1,16}(-[0-9]{1,16})+$", "examples": ["1-7-42"]},
        _OF_A_WALK,
    ),
    "/name/{name}.{format}": (
        "The picture of a name: its seed is the first 53 bits of the SHA-256 of its UTF-8 in NFC",
        {"type": "string", "minLength": 1, "examples": ["alice"]},
        ("num_images",),
    ),
    "/random.{format}": ("A random picture, which no cache keeps", {}, ("num_images",)),
}


def document() -> dict[str, Any]:
    """The whole description, as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DCGAN for TorchServe",
            "version": "1.0.0",
            "description": "Seeds, noise, walks and mixes of latents to pictures.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "paths": {
            "/predictions/dcgan": {"post": _operation()},
            **{path: {"get": _address(path, *about)} for path, about in _ADDRESSES.items()},
        },
        "components": {
            "schemas": {**_requests(), **_replies()},
            "headers": {
                name: {"description": words, "schema": {"type": "string"}}
                for name, words in {**_REPLY_HEADERS, **_CACHE_HEADERS}.items()
            },
            "parameters": _query(),
            "responses": {
                "Reply": _pictures(
                    {"anyOf": [_ref("Images"), _ref("Predictions")]}, _REPLY_HEADERS
                ),
                "Pictures": _pictures(_ref("Images"), {**_REPLY_HEADERS, **_CACHE_HEADERS}),
                "304": {"description": "The copy that If-None-Match names is still good"},
                **{str(status): _problem(status) for status in _STATUSES},
            },
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _operation() -> dict[str, Any]:
    json_body = {
        "schema": {"anyOf": [_ref("GenerateRequest"), _ref("Instances"), {"type": "null"}]},
        "examples": {name: {"value": value} for name, value in EXAMPLES.items()},
    }
    raw = {
        "description": f"little-endian float32, n x {NZ} numbers -{MAX_LATENT} to {MAX_LATENT}",
        "type": "string",
        "minLength": 1,
    }
    return {
        "operationId": "generate",
        "summary": "Draw pictures",
        "requestBody": {
            "required": False,
            "content": {
                "application/json": json_body,
                "application/octet-stream": {"schema": raw},
            },
        },
        "responses": _answers("Reply"),
    }


def _answers(good: str, *others: str) -> dict[str, Any]:
    """Status -> reply, ``good`` being that of 200."""
    named = {"200": good} | {status: status for status in (*others, *map(str, _STATUSES))}
    return {status: {"$ref": f"#/components/responses/{name}"} for status, name in named.items()}


def _address(
    path: str, summary: str, parameter: dict[str, Any], more: tuple[str, ...]
) -> dict[str, Any]:
    """One kind of address; the fields of a POST are its query."""
    in_path = {name: parameter for name in re.findall("{([a-z]+)}", path) if name != "format"}
    layout = (name for name in _query() if name not in ("num_images", *_OF_A_WALK))
    kept = "" if path.startswith("/random") else ": such an address has the same picture for ever"
    return {
        "operationId": path.split("/")[1].partition(".")[0],
        "summary": summary,
        "description": "Behind the proxy. /v/ and the first 8 digits of X-Weights-SHA256 before "
        f"it name the weights, and for an edit a hyphen and those of X-Directions-SHA256{kept}. "
        "Fields of an object also go by their names: `walk.method=linear`.",
        "servers": [{"url": "https://127.0.0.1:8443"}],
        "security": [{"key": []}],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": words}
                for name, words in {**in_path, "format": {"enum": list(FORMATS)}}.items()
            ),
            *({"$ref": f"#/components/parameters/{name}"} for name in (*more, *layout)),
        ],
        "responses": _answers("Pictures", "304"),
    }


def _schema() -> dict[str, Any]:
    """That of a request, its references to where OpenAPI keeps schemas."""
    return schema(NZ, Limits(), references="#/components/schemas/{model}")


def _query() -> dict[str, Any]:
    """The fields that a query may have, each value JSON where it reads as JSON."""
    found = _schema()
    walk, motion = (found["$defs"][name]["properties"] for name in ("Walk", "Motion"))
    fields = {name: _ref(name) for name in found["properties"] if name not in (*SOURCES, "format")}
    fields |= {name: walk[name] for name in _OF_A_WALK}
    fields |= {name: motion[name] for name in ("fps", "loop")}
    return {
        name: {"name": name, "in": "query", "content": {"application/json": {"schema": words}}}
        for name, words in fields.items()
    }


def _pictures(in_json: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    return {
        "description": "The pictures, in the form that is asked for",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {
            media: {"schema": in_json} if form == "json" else binary
            for form, media in MEDIA_TYPES.items()
        },
    }


def _problem(status: int) -> dict[str, Any]:
    titles = [kind.title for kind in Kind if kind.status == status]
    content = {CONTENT_TYPE: {"schema": _ref("Problem")}}
    headers = {}
    if status in _TORCHSERVES_OWN:
        titles.append(f"TorchServe's own: {_TORCHSERVES_OWN[status]}")
        content["application/json"] = {"schema": _ref("TorchServeError")}
    if status == Kind.OVERLOADED.status:
        wait = "seconds to wait; not in TorchServe's own"
        headers["headers"] = {"Retry-After": {"description": wait, "schema": {"type": "string"}}}
    return {"description": " / ".join(titles), **headers, "content": content}


def _requests() -> dict[str, Any]:
    """A schema a field, and one request a source of latents: they exclude each other."""
    found = _schema()
    fields = found["properties"]
    fields["edit"]["description"] = "strengths by the names of the archive's directions"
    found["$defs"]["Edit"] = {  # of any archive; the describe reply names those of its own
        "type": "object",
        "propertyNames": {"pattern": f"^{DIRECTION_NAME}$"},
        "maxProperties": MAX_DIRECTIONS,
        "additionalProperties": {"type": ["number", "null"]},
    }
    layout = {name: _ref(name) for name in fields if name not in _SOURCE_FIELDS}
    requests = {}
    for source in SOURCES:
        own = {source, "num_images"} if source == "seed" else {source}
        requests[f"From{source.capitalize()}"] = {
            "type": "object",
            "additionalProperties": False,
            **({} if source == "seed" else {"required": [source]}),
            "properties": {
                **{name: _ref(name) for name in fields if name in own},
                **{name: {"type": "null"} for name in _SOURCE_FIELDS if name not in own},
                **layout,
            },
        }
    return {
        "GenerateRequest": {"oneOf": [_ref(name) for name in requests]},
        "Instances": {
            "description": "KServe v1: one answer an instance, each as in `format` json",
            "type": "object",
            "additionalProperties": False,
            "required": ["instances"],
            "properties": {
                "instances": {
                    "type": "array",
                    "items": _ref("GenerateRequest"),
                    "minItems": 1,
                    "maxItems": Limits().max_images,
                },
                "parameters": {
                    "description": "the fields that all instances have in common (Vertex AI)",
                    "type": ["object", "array", "null"],
                    "maxItems": 0,
                    "additionalProperties": False,
                    "properties": {
                        name: {"anyOf": [_ref(name), {"type": "null"}]} for name in fields
                    },
                },
                "signature_name": {"enum": [None, *SIGNATURES]},  # of TensorFlow Serving
            },
        },
        **requests,
        **{name: _given(name, prop) for name, prop in fields.items()},
        **found["$defs"],
    }


def _given(name: str, prop: dict[str, Any]) -> dict[str, Any]:
    """A field of a source that must be given is not null in that source's request."""
    kept = {key: value for key, value in prop.items() if key != "default"}
    if name in SOURCES and name != "seed":
        kept["anyOf"] = [choice for choice in prop["anyOf"] if choice != {"type": "null"}]
    return kept


def _replies() -> dict[str, Any]:
    text, integer = {"type": "string"}, {"type": "integer"}
    png = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
    images = _object(
        images={"type": "array", "items": png, "minItems": 1},
        source={"enum": list(SOURCES)},
        seeds={"anyOf": [{"type": "array", "items": integer}, {"type": "null"}]},
        model=_object(name=text, version=text, weights_sha256=text),
        grid=_object(columns=integer, rows=integer, padding=integer, background=text),
    )
    images["properties"] |= {name: _ref(name) for name in ("truncation", "edit")}  # when given
    return {
        "Images": images,
        "Predictions": _object(predictions={"type": "array", "items": _ref("Images")}),
        "Problem": {
            "description": "RFC 9457",
            **_object(
                type={"enum": [kind.type for kind in Kind]},
                title={"enum": [kind.title for kind in Kind]},
                status={"enum": sorted({kind.status for kind in Kind})},
                detail=text,
            ),
        }
        | {"additionalProperties": {"type": "string"}},
        "TorchServeError": _object(code=integer, type=text, message=text),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def text() -> str:
    """The file's text."""
    head = "# Written by `python -m handler.openapi`; a test holds it equal to the code.\n"
    values = json.loads(json.dumps(document()))  # what occurs twice is written twice, no anchor
    return head + yaml.safe_dump(values, sort_keys=False, width=100, default_flow_style=None)


if __name__ == "__main__":
    with atomic_save(str(PATH), overwrite_part=True) as file:
        file.write(text().encode("utf-8"))
