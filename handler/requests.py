"""One request as TorchServe gives it -> GenerateRequest, or RequestError.

``handler.bodies`` brings every way a body can arrive in to field names and JSON values; this
module checks those and draws the latents.
"""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from handler import latents
from handler.bodies import fields
from handler.errors import Kind, RequestError, show
from handler.images import default_columns
from handler.limits import Limits

SOURCES = ("seed", "seeds", "noise")
DEFAULT_PADDING_PX = 2  # between tiles; a single image has none

_DIGITS = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True, eq=False)
class GenerateRequest:
    """What one request asks for, checked and with its latents drawn.

    Args:
        latents: float32 (n, nz), finite, n >= 1.
        source: where the latents come from; ``seed`` also when the seed was drawn here.
        seeds: the seed of each image; None when the latents came as noise.
        columns: tiles in a row, 1 to n.
        padding: px between tiles and around the grid.
        background: RGB, each 0 to 255.
        format: what the reply is to be; None leaves it to the Accept header.
        again: fields that, sent to the same model, give the same picture bit by bit.
    """

    latents: npt.NDArray[np.float32]
    source: Literal["seed", "seeds", "noise", "walk", "mix"]
    seeds: tuple[int, ...] | None
    columns: int
    padding: int
    background: tuple[int, int, int]
    format: Literal["png", "json", "npy"] | None
    again: Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """One HTTP or gRPC call.

    Args:
        items: what to draw; exactly one, unless ``kserve``.
        kserve: answer ``{"predictions": [...]}``, one element an item (KServe v1 protocol).
    """

    items: tuple[GenerateRequest, ...]
    kserve: bool


@dataclass(frozen=True)
class _Rules:
    """The numbers that the field validators need; pydantic passes it as their context."""

    nz: int
    limits: Limits

    def allowed(self, field: str) -> str:
        """What a field takes, in words: for error texts and for the schema."""
        limits = self.limits
        return {
            "seed": f"an integer 0 to {latents.MAX_SEED}, or its digits as a string",
            "seeds": f"a list of 1 to {limits.max_images} integers 0 to {latents.MAX_SEED}",
            "num_images": f"an integer 1 to {limits.max_images}",
            "noise": f"1 to {limits.max_images} rows of {self.nz} finite float32 numbers",
            "columns": f"an integer 1 to {limits.max_images}",
            "padding": f"an integer 0 to {limits.max_padding_px}, px",
            "background": "a colour such as #ffffff",
        }[field]

    def refuse(
        self, value: object, detail: str, *, at: str, kind: Kind = Kind.INVALID_FIELD
    ) -> RequestError:
        allowed = self.allowed(at.partition("[")[0])
        return RequestError(
            kind, f"{at} {detail}; use {allowed}", field=at, seen=show(value), allowed=allowed
        )


def _rules(info: ValidationInfo) -> _Rules:
    rules = info.context
    assert isinstance(rules, _Rules)  # parse() passes it
    return rules


def _seed(value: object, info: ValidationInfo, at: str = "seed") -> int:
    rules = _rules(info)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)  # digits survive clients whose numbers are float64
    if isinstance(value, bool) or not isinstance(value, int):
        raise rules.refuse(value, "is not an integer", at=at)
    if not 0 <= value <= latents.MAX_SEED:
        raise rules.refuse(value, "is out of range", at=at)
    return value


def _rows(value: object, at: str, rules: _Rules) -> list[Any]:
    """A list of 1 to max_images items."""
    if not isinstance(value, list):
        raise rules.refuse(value, "is not a list", at=at)
    if not value:
        raise rules.refuse(value, "is empty", at=at)
    if len(value) > rules.limits.max_images:
        raise rules.refuse(value, "has too many images", at=at, kind=Kind.TOO_LARGE)
    return value


def _seeds(value: object, info: ValidationInfo) -> list[int]:
    rows = _rows(value, "seeds", _rules(info))
    return [_seed(row, info, at=f"seeds[{i}]") for i, row in enumerate(rows)]


def _noise(value: object, info: ValidationInfo) -> npt.NDArray[np.float32]:
    """A list of rows, or one row, to float32 (n, nz)."""
    rules = _rules(info)
    if isinstance(value, list) and value and not any(isinstance(row, list) for row in value):
        value = [value]
    rows = _rows(value, "noise", rules)
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != rules.nz:
            raise rules.refuse(row, f"is not a row of {rules.nz} numbers", at=f"noise[{i}]")
        if not set(map(type, row)) <= {int, float}:
            j = next(j for j, item in enumerate(row) if type(item) not in (int, float))
            raise rules.refuse(row[j], "is not a number", at=f"noise[{i}][{j}]")
    try:
        with np.errstate(over="ignore"):
            noise = np.array(rows, np.float64).astype(np.float32)
    except OverflowError:
        raise rules.refuse(value, "holds an integer beyond float64", at="noise") from None
    if not np.isfinite(noise).all():
        i, j = np.argwhere(~np.isfinite(noise))[0]
        raise rules.refuse(rows[i][j], "is not finite in float32", at=f"noise[{i}][{j}]")
    return noise


_SEED_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": latents.MAX_SEED},
        {"type": "string", "pattern": "^[0-9]{1,16}$"},
    ]
}
_ROW: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1}


def _described(schema: dict[str, Any]) -> WithJsonSchema:
    """A null is the same as leaving the field out."""
    return WithJsonSchema({"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]})


class _Body(BaseModel):
    """The fields of ``POST /predictions/dcgan``; ``{}`` gives one image of a random seed."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    seed: Annotated[int | None, PlainValidator(_seed), _described(_SEED_SCHEMA)] = None
    seeds: Annotated[
        list[int] | None,
        PlainValidator(_seeds),
        _described({"type": "array", "items": _SEED_SCHEMA, "minItems": 1}),
    ] = None
    num_images: int | None = Field(None, ge=1)
    noise: Annotated[
        npt.NDArray[np.float32] | None,
        PlainValidator(_noise),
        _described({"anyOf": [{"type": "array", "items": _ROW, "minItems": 1}, _ROW]}),
    ] = None
    columns: int | None = Field(None, ge=1)
    padding: int | None = Field(None, ge=0)
    background: str | None = Field(None, pattern="^#[0-9a-fA-F]{6}$")


def parse(raw: Mapping[str, Any], nz: int, limits: Limits) -> Call:
    """Check one request and draw its latents.

    Args:
        raw: what TorchServe gives for one request; see ``handler.bodies``.
        nz: length of a latent.
        limits: how much a request may ask for.

    Raises:
        RequestError: status 400, or 413 when it asks for more than the limits allow.
    """
    rules = _Rules(nz, limits)
    # A null is the same as leaving the field out.
    given = {name: value for name, value in fields(raw, limits).items() if value is not None}
    _check_names(given)
    body = _validate(given, rules)
    drawn, seeds = _draw(body, rules)
    count = len(drawn)
    padding = DEFAULT_PADDING_PX if count > 1 else 0
    red, green, blue = bytes.fromhex((body.background or "#ffffff")[1:])
    request = GenerateRequest(
        latents=drawn,
        source="noise" if seeds is None else "seed" if body.seeds is None else "seeds",
        seeds=seeds,
        columns=min(body.columns or default_columns(count), count),
        padding=padding if body.padding is None else body.padding,
        background=(red, green, blue),
        format=None,
        again={"seeds": seeds} if seeds else {"noise": drawn.tolist()},
    )
    return Call((request,), kserve=False)


def schema(nz: int, limits: Limits) -> dict[str, Any]:
    """JSON Schema (2020-12) of the body, with the limits of this server filled in."""
    rules = _Rules(nz, limits)
    document = _Body.model_json_schema()
    properties = document["properties"]
    for name, prop in properties.items():
        prop["description"] = rules.allowed(name)
        prop.pop("title", None)
    for name, most in _upper_bounds(limits).items():
        properties[name]["anyOf"][0]["maximum"] = most
    for name in ("seeds", "noise"):
        properties[name]["anyOf"][0]["maxItems"] = limits.max_images
    row = properties["noise"]["anyOf"][1]
    for target in (row, properties["noise"]["anyOf"][0]["items"]):
        target["minItems"] = target["maxItems"] = nz
    return document


def _upper_bounds(limits: Limits) -> dict[str, int]:
    return {
        "num_images": limits.max_images,
        "columns": limits.max_images,
        "padding": limits.max_padding_px,
    }


def _check_names(given: Mapping[str, Any]) -> None:
    """Only known fields, at most one source of latents, num_images only with ``seed``."""
    for name in given:
        if name not in _Body.model_fields:
            near = difflib.get_close_matches(name[:80], _Body.model_fields, n=1)
            hint = f"did you mean {near[0]}" if near else "remove it"
            raise RequestError(
                Kind.UNKNOWN_FIELD,
                f"there is no such field; {hint}",
                field=show(name)[1:-1],
                seen=show(name),
                allowed=", ".join(_Body.model_fields),
            )
    sources = [name for name in SOURCES if name in given]
    if "num_images" in given and sources and sources != ["seed"]:
        sources.append("num_images")
    if len(sources) > 1:
        raise RequestError(
            Kind.CONFLICT,
            f"{' and '.join(sources)} were given together; keep one of them",
            field=sources[-1],
            seen=", ".join(sources),
            allowed="one of seed, seeds, noise; num_images only with seed or alone",
        )


def _validate(given: Mapping[str, Any], rules: _Rules) -> _Body:
    try:
        body = _Body.model_validate(given, context=rules)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise rules.refuse(first["input"], "has a wrong value", at=name) from None
    for name, most in _upper_bounds(rules.limits).items():
        value = getattr(body, name)
        if value is not None and value > most:
            kind = Kind.TOO_LARGE if name == "num_images" else Kind.INVALID_FIELD
            raise rules.refuse(value, "is too large", at=name, kind=kind)
    return body


def _draw(body: _Body, rules: _Rules) -> tuple[npt.NDArray[np.float32], tuple[int, ...] | None]:
    """The latents, float32 (n, nz), and the seeds they came from, if any."""
    if body.noise is not None:
        return body.noise, None
    if body.seeds is not None:
        return latents.from_seeds(body.seeds, rules.nz), tuple(body.seeds)
    count = body.num_images or 1
    last_base = latents.MAX_SEED - count + 1
    base = secrets.randbelow(last_base + 1) if body.seed is None else body.seed
    if base > last_base:
        raise RequestError(
            Kind.INVALID_FIELD,
            "seed + num_images - 1 is beyond the largest seed; lower one of them",
            field="seed",
            seen=show(base),
            allowed=f"0 to {last_base} with num_images {count}",
        )
    seeds = tuple(range(base, base + count))
    return latents.from_seeds(seeds, rules.nz), seeds
