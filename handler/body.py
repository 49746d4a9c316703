"""The body of a request: its fields, checked against the ranges of one server.

``parse`` takes what TorchServe hands over and gives a ``Call``. A server has a model of its own
(``models``), for ranges depend on its limits and on its generator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from functools import lru_cache, partial
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    create_model,
    model_validator,
    with_config,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from handler import noise, wire
from handler.errors import Kind, RequestError, invalid, show
from handler.latents import MAX_LATENT, MAX_SEED, Method
from handler.request import DEFAULT_FPS, Call, Motion, Request, Term, Walk, compact, known_names
from handler.settings import NO_DIRECTIONS, Directions, Limits
from handler.wire import FORMATS, MOVING, NO_HEADERS, Format, Headers, Moving

MAX_KEYS = 64  # latents that a walk goes through
MAX_TERMS = 64  # of a mix
MAX_MIX_LATENTS = 1024  # in all terms: drawing them must stay cheap beside drawing the image
MIN_FPS, MAX_FPS = 0.1, 50.0  # 10 s a frame; 2/100 s, the least that browsers take of a GIF
MAX_LOOP = 65_535  # what a WebP can say
SIGNATURES = ("", "serving_default")  # of TensorFlow Serving; they say nothing

M = TypeVar("M", bound=BaseModel)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIGITS = "[0-9]{1,16}"
# Beyond their maximum: 413, not 400.
_COUNTS = {"num_images", "seeds", "noise", "steps", "instances"}


class Instances(BaseModel):
    """A KServe v1 body: each instance has the fields of a Request.

    Beside them may be ``parameters``, as Vertex AI has it: the fields that all have in common.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: list[Request]

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: dict[str, Any], info: ValidationInfo[int]) -> dict[str, Any]:
        """``parameters`` put into each instance; the context is the most bytes they may take."""
        for name, value in given.items():
            signature = name == "signature_name" and value in SIGNATURES
            if name not in ("instances", "parameters") and value is not None and not signature:
                raise invalid(
                    "is beside instances; move it into them, or into parameters",
                    show(name)[1:-1],
                    kind=Kind.CONFLICT,
                    seen=show(name),
                    allowed="instances, parameters, and the signature_name serving_default",
                )
        instances, shared = given["instances"], given.get("parameters")
        if shared in (None, [], {}) or not isinstance(instances, list):
            return {"instances": instances}
        if not isinstance(shared, dict):
            raise invalid("is not an object", "parameters", seen=show(shared))
        size = len(compact(shared)) * len(instances)
        if size > info.context:
            raise invalid(
                "would make the body too large if each instance had a copy; send several calls",
                "parameters",
                kind=Kind.TOO_LARGE,
                seen=f"{size} bytes in all",
                allowed=f"at most {info.context} bytes in all",
            )
        shared = {name: value for name, value in shared.items() if value is not None}
        return {"instances": [_with_shared(i, item, shared) for i, item in enumerate(instances)]}


def _with_shared(i: int, instance: object, shared: Mapping[str, Any]) -> object:
    """Instance ``i`` with the fields that all have; it may have none of them already."""
    if not isinstance(instance, dict):
        return instance
    for name in shared:
        if instance.get(name) is not None:
            raise invalid(
                f"is in instances[{i}] too; keep one of them",
                "parameters",
                show(name)[1:-1],
                kind=Kind.CONFLICT,
                seen=show(name),
                allowed="each field once",
            )
    return {**instance, **shared}


def parse(
    raw: Mapping[str, Any],
    nz: int,
    limits: Limits,
    headers: Headers = NO_HEADERS,
    directions: Directions = NO_DIRECTIONS,
) -> Call:
    """Check one call.

    Args:
        raw: what TorchServe gives for one request; see ``handler.wire``.
        headers: of the same request; over gRPC there are none.

    Raises:
        RequestError: status 400, 406 when no form of a reply is acceptable, 413 when it asks for
            more than the limits allow, or 415.
    """
    body = wire.fields(raw, nz, limits, headers)
    one, many, allowed = models(nz, limits, directions)
    try:
        if "instances" not in body:
            item = one.model_validate(body)
            if item.format is None:
                item.__dict__["format"] = wire.choose(headers.get("accept"))  # as in _complete
            return Call([item], kserve=False)
        items = many.model_validate(body, context=limits.max_body_bytes).instances
    except ValidationError as error:
        # The only one, or nearly: lists fail fast, and so do unknown names.
        first = error.errors(include_url=False)[0]
        raise _refusal(first, allowed, body.get("parameters")) from None
    form = wire.choose(headers.get("accept"), ("json",))
    for item in items:
        item.format = form
    return Call(items, kserve=True)


def _refusal(first: ErrorDetails, allowed_in: Mapping[str, str], shared: object) -> RequestError:
    """pydantic's account of one wrong place as a problem.

    Args:
        allowed_in: what each field takes.
        shared: the body's ``parameters``, whose fields are blamed there, not in an instance.
    """
    context = first.get("ctx", {})
    # Names in angle brackets are the tags of a union, no part of the client's body.
    at = [part for part in first["loc"] if not str(part).startswith("<")]
    at += context.get("within", ())
    of_all = [show(name)[1:-1] for name in shared] if isinstance(shared, dict) else []
    if at[0] == "instances" and len(at) > 2 and at[2] in of_all:
        at[:2] = ["parameters"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)[1:]
    names = [part for part in at if isinstance(part, str)]
    inside = [name for name in names if name not in ("instances", "parameters")] or names
    allowed = context.get("allowed") or allowed_in[".".join(inside)]
    seen = context.get("seen") or show(first["input"])
    kind, detail = Kind.INVALID_FIELD, f"is {seen}"
    if first["type"] in Kind.__members__:  # an error of our own
        kind, detail = Kind[first["type"]], first["msg"]
    elif first["type"] == "missing":
        detail = "is missing"
    elif first["type"] in ("too_long", "less_than_equal") and at[-1] in _COUNTS:
        kind = Kind.TOO_LARGE
    sentence = f"{path} {detail}; use {allowed}"
    return RequestError(kind, sentence, field=path, seen=seen, allowed=allowed)


def schema(
    nz: int,
    limits: Limits,
    directions: Directions = NO_DIRECTIONS,
    references: str = "#/$defs/{model}",
) -> dict[str, Any]:
    """JSON Schema (2020-12) of the body, with the limits of this server filled in.

    Every body that ``parse`` takes fits it. It cannot say that a source of latents
    goes alone, that ``steps`` is at least the number of latents, or what base64 decodes to.
    """
    request = models(nz, limits, directions).request
    document = request.model_json_schema(ref_template=references, schema_generator=_Untitled)
    return {"$schema": _DIALECT, **document}


class _Untitled(GenerateJsonSchema):
    """A field's title would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


class Models(NamedTuple):
    """Request, and a list of it, with the ranges of one server.

    Args:
        allowed: what each field takes, in words; those of objects by names such as ``walk.steps``.
    """

    request: type[Request]
    instances: type[Instances]
    allowed: dict[str, str]


@lru_cache(maxsize=8)
def models(nz: int, limits: Limits, directions: Directions = NO_DIRECTIONS) -> Models:
    """The types of all fields, each beside the words for what it takes."""
    most = limits.max_images
    in_range: Any = _whole(0, MAX_SEED)
    digits = Annotated[str, Field(pattern=f"^{_DIGITS}$")]
    seed: Any = Annotated[
        in_range, BeforeValidator(_from_digits, json_schema_input_type=in_range | digits)
    ]
    seeds = (
        _listed(seed, 1, most),
        f"a list of 1 to {most} seeds, each an integer 0 to {MAX_SEED}",
    )

    row: Any = _listed(_number(-MAX_LATENT, MAX_LATENT), nz, nz)
    a_row = f"{nz} numbers -{MAX_LATENT} to {MAX_LATENT}"
    rows = _listed(row, 1, most)
    base64_text = Annotated[
        str,
        Field(
            pattern="^[A-Za-z0-9+/]+={0,2}$",
            min_length=noise.base64_length(1, nz),
            max_length=noise.base64_length(most, nz),
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ]
    noises = (
        Annotated[
            rows,
            WrapValidator(noise.reader(nz, most), json_schema_input_type=rows | row | base64_text),
        ],
        f"1 to {most} rows of {a_row}, or base64 of them as little-endian float32",
    )
    latent = Annotated[
        Annotated[seed, Tag("<seed>")] | Annotated[row, Tag("<row>")],
        Discriminator(lambda value: "<row>" if isinstance(value, list) else "<seed>"),
    ]

    walk = _with_ranges(
        Walk,
        between=_needed(
            _listed(latent, 2, MAX_KEYS),
            f"a list of 2 to {MAX_KEYS} latents, each a seed 0 to {MAX_SEED} or a list of {a_row}",
        ),
        steps=_needed(
            Annotated[_whole(2, most), AfterValidator(partial(_a_step_each, most=most))],
            f"the number of images, an integer 2 to {most}",
        ),
        method=_optional(Method, "slerp or linear", "slerp"),
        closed=_optional(bool, "true for a round, which goes back to where it began, or false"),
    )
    term = _with_ranges(
        Term,
        weight=_needed(
            Annotated[float, Field(allow_inf_nan=False)],
            f"a finite number; the result stays within -{MAX_LATENT} to {MAX_LATENT}",
        ),
        seeds=_optional(*seeds),
        noise=_optional(*noises),
    )
    motion = _with_ranges(
        Motion,
        type=_needed(Moving, f"{', '.join(MOVING[:-1])} or {MOVING[-1]}"),
        fps=_optional(
            _number(MIN_FPS, MAX_FPS),
            f"frames a second, a number {MIN_FPS} to {MAX_FPS}; {DEFAULT_FPS} by default",
            DEFAULT_FPS,
        ),
        loop=_optional(
            _whole(0, MAX_LOOP), f"how often it is played, an integer 0 (for ever) to {MAX_LOOP}", 0
        ),
    )
    # Not a model: a name of a direction may be that of a model's method.
    strengths, of_directions = {}, {}
    for name, direction in directions.named.items():
        least, largest = direction.range
        of_directions[name] = words = f"a number {least} to {largest}"
        strengths[name] = Annotated[_number(least, largest) | None, Field(description=words)]
    typed_dict: Any = TypedDict
    edit = with_config(extra="forbid", strict=True)(typed_dict("Edit", strengths, total=False))

    request = _with_ranges(
        Request,
        seed=_optional(seed, f"an integer 0 to {MAX_SEED}, or its digits as a string"),
        seeds=_optional(*seeds),
        num_images=_optional(_whole(1, most), f"an integer 1 to {most}"),
        noise=_optional(*noises),
        walk=_optional(walk, "an object with between, steps and, if wanted, method and closed"),
        mix=_optional(
            Annotated[_listed(term, 1, MAX_TERMS), AfterValidator(_few_latents)],
            f"a list of 1 to {MAX_TERMS} objects with weight and either seeds or noise, "
            f"at most {MAX_MIX_LATENTS} latents in all",
        ),
        truncation=_optional(Annotated[float, Field(gt=0, le=1)], "a number above 0, at most 1"),
        edit=_optional(
            Annotated[edit, BeforeValidator(partial(_known_direction, directions.named.keys()))],
            "an object of strengths by the names of directions: "
            + (", ".join(directions.named) or "this archive has none"),
        ),
        columns=_optional(_whole(1, most), f"an integer 1 to {most}"),
        padding=_optional(
            _whole(0, limits.max_padding_px), f"an integer 0 to {limits.max_padding_px}, px"
        ),
        background=_optional(
            Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")], "a colour such as #ffffff"
        ),
        format=_optional(
            Annotated[
                Annotated[Format, Tag("<name>")] | Annotated[motion, Tag("<motion>")],
                Discriminator(lambda value: "<motion>" if isinstance(value, dict) else "<name>"),
            ],
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or an object with type and, if wanted, "
            "fps and loop",
        ),
    )
    many = f"a list of 1 to {most} objects with the fields of a request"
    instances: Any = Annotated[
        _listed(request, 1, most), AfterValidator(partial(_few_images, most=most))
    ]
    objects = {"": request, "walk.": walk, "mix.": term, "format.": motion}
    allowed = {
        within + name: found.description or ""
        for within, model in objects.items()
        for name, found in model.model_fields.items()
    }
    allowed |= {f"edit.{name}": words for name, words in of_directions.items()}
    allowed |= {
        "instances": many,
        "parameters": "an object with the fields that all instances have in common",
    }
    return Models(request, _with_ranges(Instances, instances=_needed(instances, many)), allowed)


def _whole(least: int, most: int) -> Any:
    return Annotated[int, Field(ge=least, le=most)]


def _number(least: float, most: float) -> Any:
    return Annotated[float, Field(ge=least, le=most, allow_inf_nan=False)]


def _listed(kind: Any, least: int, most: int) -> Any:
    """A list of so many, of which only the first wrong one is told."""
    return Annotated[list[kind], Field(min_length=least, max_length=most, fail_fast=True)]


def _needed(kind: Any, words: str) -> tuple[Any, Any]:
    """A field that must be there."""
    return kind, Field(description=words)


def _optional(kind: Any, words: str, default: object = None) -> tuple[Any, Any]:
    """A field that is ``default`` when it is left out or null."""
    if default is None:
        return kind | None, Field(None, description=words)
    filled = AfterValidator(lambda given: default if given is None else given)
    return Annotated[kind | None, filled], Field(None, validate_default=True, description=words)


def _with_ranges(base: type[M], **fields: Any) -> type[M]:
    """The same class, described by its first sentence, whose fields have these types."""
    doc = (base.__doc__ or "").partition("\n")[0]
    return create_model(base.__name__, __base__=base, __doc__=doc, **fields)


def _a_step_each(steps: int, info: ValidationInfo, most: int) -> int:
    """Of a walk that goes through so many latents; none are known when they are wrong."""
    least = len(info.data.get("between", ()))
    if steps < least:
        raise invalid(
            "is less than the number of latents in between",
            allowed=f"an integer {least} to {most}",
        )
    return steps


def _few_images(items: list[Request], most: int) -> list[Request]:
    """KServe instances, which are answered in one JSON object."""
    images = 0
    for i, item in enumerate(items):
        images += item.num_images
        if item.format not in (None, "json"):
            raise invalid(
                "cannot be that among instances",
                i,
                "format",
                seen=show(item.format),
                allowed="json, or no format at all",
            )
        if images > most:
            raise invalid(
                "asks for too many images together with those before it; send several calls",
                i,
                kind=Kind.TOO_LARGE,
                seen=f"{images} images or more",
                allowed=f"at most {most} images in all instances",
            )
    return items


def _few_latents(terms: list[Any]) -> list[Any]:
    count = sum(len(term.seeds if term.noise is None else term.noise) for term in terms)
    if count > MAX_MIX_LATENTS:
        raise invalid(
            "has too many latents in its terms",
            kind=Kind.TOO_LARGE,
            seen=f"{count} latents",
            allowed=f"at most {MAX_MIX_LATENTS} in all terms",
        )
    return terms


def _known_direction(names: Set[str], value: object) -> object:
    """An edit, whose names are those of directions."""
    what = "direction of this archive" if names else "direction: this archive has none"
    return known_names(value, names, what, cutoff=0.0)


def _from_digits(value: object) -> object:
    """Digits in a string survive clients whose numbers are float64."""
    return int(value) if isinstance(value, str) and re.fullmatch(_DIGITS, value) else value
