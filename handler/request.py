"""One request: what it may say, how it is checked, which latents it stands for.

``parse`` takes what TorchServe hands over and gives a ``Call``. A call has one ``Request``, or the
list of them that a KServe body holds. A Request is complete when it is checked: what a client left
out is filled in, and nothing is turned into anything else on the way to the reply. ``draw`` gives
the latents of many requests at once.

A server has a model of its own (``models``), for ranges depend on its limits and on its generator.
A null is the same as leaving the field out, in nested objects too.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, get_args

import numpy as np
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
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
    with_config,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from handler import latents, wire
from handler.errors import Kind, RequestError, show
from handler.latents import MAX_LATENT, MAX_SEED, Latents, Method, from_seeds
from handler.pixels import default_columns
from handler.settings import NO_DIRECTIONS, Directions, Limits
from handler.wire import FORMATS, MOVING, NO_HEADERS, Format, Headers, Moving

Source = Literal["seed", "seeds", "noise", "walk", "mix"]
SOURCES: tuple[Source, ...] = get_args(Source)

MAX_KEYS = 64  # latents that a walk goes through
MAX_TERMS = 64  # of a mix
MAX_MIX_LATENTS = 1024  # in all terms: drawing them must stay cheap beside drawing the image

DEFAULT_PADDING_PX = 2  # between tiles; a single image has none
DEFAULT_BACKGROUND = "#ffffff"

DEFAULT_FPS = 12.0
MIN_FPS, MAX_FPS = 0.1, 50.0  # 10 s a frame; 2/100 s, the least that browsers take of a GIF
MAX_LOOP = 65_535  # what a WebP can say

SIGNATURES = ("", "serving_default")  # of TensorFlow Serving; they say nothing

A = TypeVar("A")
M = TypeVar("M", bound=BaseModel)

_json = json.JSONEncoder(separators=(",", ":")).encode
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIGITS = "[0-9]{1,16}"
_AS_FLOAT32 = "array.astype('<f4').tobytes()"
_TELLING = 64  # numbers whose pattern tells that they are of another type than float32
_LEAST_DRAWN = 1e-30  # N(0, 1) draws a latent of smaller numbers never

# Beyond their maximum: 413, not 400.
_COUNTS = {"num_images", "seeds", "noise", "steps", "instances"}


def _wrong(
    detail: str,
    *within: str | int,
    kind: Kind = Kind.INVALID_FIELD,
    seen: str = "",
    allowed: str = "",
) -> PydanticCustomError:
    """An error of our own validators, all its texts ASCII.

    Args:
        detail: what is wrong, in our words only.
        within: names and indices from the validator's own place to the one to blame.
        seen, allowed: where they are not the validator's input and what its field takes.
    """
    context = {"within": within, "seen": seen, "allowed": allowed}
    return PydanticCustomError(kind.name, detail, context)


def _known(value: object, names: Set[str], what: str, cutoff: float = 0.6) -> object:
    """An object without its nulls.

    Refuses the first unknown name, where pydantic's ``extra`` would list all of a hostile body.
    """
    if not isinstance(value, dict):
        return value
    if not value.keys() <= names:
        name = next(name for name in value if name not in names)
        near = difflib.get_close_matches(name[:80], names, n=1, cutoff=cutoff)
        hint = f"did you mean {near[0]}?" if near else "remove it"
        raise _wrong(
            f"is no {what}, {hint}",
            show(name)[1:-1],
            kind=Kind.UNKNOWN_FIELD,
            seen=show(name),
            allowed=", ".join(names) or "none",
        )
    if None in value.values():
        return {name: item for name, item in value.items() if item is not None}
    return value


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return _known(value, cls.model_fields.keys(), "field of this object")


class Walk(_Object):
    """Images along the path through the latents of ``between``; slerp by default."""

    between: list[int | list[float]]
    steps: int
    method: Method
    closed: bool | None


class Motion(_Object):
    """A moving picture: its type, frames a second, and how often it is played, 0 for ever."""

    type: Moving
    fps: float
    loop: int


class Term(_Object):
    """A weight times the mean of some latents."""

    weight: float
    seeds: list[int] | None
    noise: Latents | None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.seeds is None) == (self.noise is None):
            kind, detail = (
                (Kind.INVALID_FIELD, "has neither seeds nor noise")
                if self.seeds is None
                else (Kind.CONFLICT, "has both seeds and noise")
            )
            raise _wrong(detail, kind=kind, allowed="weight and exactly one of seeds and noise")
        return self

    def latents(self, nz: int) -> Latents:
        """float32 (n, nz), n >= 1."""
        return from_seeds(self.seeds or (), nz) if self.noise is None else self.noise

    @property
    def recipe(self) -> dict[str, Any]:
        """The same term."""
        if self.noise is None:
            return {"weight": self.weight, "seeds": self.seeds}
        return {"weight": self.weight, "noise": _as_noise(self.noise)}


class Request(_Object):
    """Fields of ``POST /predictions/dcgan``; ``{}`` gives one image of a random seed.

    Of the five sources the one that was asked for is there, the others are None; ``truncation``
    and ``edit`` are None when left out. Of a checked Request the other fields are never None:

    * ``seeds`` are those of the images, from ``seed`` on or as listed; None when the images have
      none of their own.
    * ``num_images`` counts them, whatever the source.
    * ``columns`` is 1 to ``num_images``; ``background`` is in lower case.
    * ``format`` is that of the reply, by the Accept header when the client named none; ``motion``
      is what an object there says beside it.
    """

    seed: int | None
    seeds: Sequence[int] | None
    num_images: int
    noise: Latents | None
    walk: Walk | None
    mix: list[Term] | None
    truncation: float | None
    edit: dict[str, float] | None
    columns: int
    padding: int
    background: str
    format: Format

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, given: object) -> object:
        """At most one source of latents, and ``num_images`` only with ``seed`` or alone."""
        if not isinstance(given, dict):
            return given
        clash: list[str] = [name for name in SOURCES if given.get(name) is not None]
        if given.get("num_images") is not None and clash not in ([], ["seed"]):
            clash.append("num_images")
        if len(clash) > 1:
            raise _wrong(
                f"was given together with {' and '.join(clash[:-1])}",
                clash[-1],
                kind=Kind.CONFLICT,
                seen=", ".join(clash),
                allowed=f"one of {', '.join(SOURCES)}; num_images only with seed or alone",
            )
        return given

    @model_validator(mode="after")
    def _complete(self) -> Self:
        seed, seeds, count = self.seed, self.seeds, self.num_images or 1
        if self.noise is not None:
            count = len(self.noise)
        elif self.walk is not None:
            count = self.walk.steps
        elif seeds is not None:
            count = len(seeds)
        elif self.mix is None:
            seed = _first_seed(seed, count)
            seeds = range(seed, seed + count)
        form: object = self.format
        if form is not None and isinstance(form, Motion):  # the test alone costs 0.3 us
            self.__dict__.update(format=form.type, motion=form)
        padding = self.padding
        if padding is None:
            padding = DEFAULT_PADDING_PX if count > 1 else 0
        self.__dict__.update(  # pydantic's own way to set a field costs 1 us each
            seed=seed,
            seeds=seeds,
            num_images=count,
            columns=min(self.columns or default_columns(count), count),
            padding=padding,
            background=(self.background or DEFAULT_BACKGROUND).lower(),
        )
        return self

    @cached_property
    def source(self) -> Source:
        """Where the latents come from; ``seed`` also when the seed is a random one."""
        return next(name for name in SOURCES if getattr(self, name) is not None)

    @cached_property
    def motion(self) -> Motion:
        """How a moving picture moves; of other formats it says nothing."""
        return Motion.model_construct(type=self.format, fps=DEFAULT_FPS, loop=0)

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background as RGB, each 0 to 255."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue

    @property
    def changes(self) -> dict[str, Any]:
        """``truncation`` and ``edit``, as far as they were given."""
        given = {"truncation": self.truncation, "edit": self.edit}
        return {name: value for name, value in given.items() if value}

    @cached_property
    def recipe(self) -> str:
        """JSON of the fields that, sent to the same model, give the same picture bit by bit."""
        if self.format in MOVING:
            return _json({**self._from, **self.changes, "format": self.motion.model_dump()})
        layout = {name: getattr(self, name) for name in ("columns", "padding", "background")}
        return _json(self._from | self.changes | layout)

    @property
    def _from(self) -> dict[str, Any]:
        """The field of the source, in its shortest form."""
        if self.seeds is not None:
            first, count = self.seeds[0], self.num_images
            if self.source == "seed" or all(s == first + i for i, s in enumerate(self.seeds)):
                return {"seed": first, "num_images": count}
            return {"seeds": self.seeds}
        if self.noise is not None:
            return {"noise": _as_noise(self.noise)}
        if self.walk is not None:
            return {"walk": {k: v for k, v in vars(self.walk).items() if v is not None}}
        return {"mix": [term.recipe for term in self.mix or ()]}

    def recipe_alone(self, i: int, rows: Latents) -> str:
        """The same for image ``i`` alone, ``rows`` being what ``draw`` gave for all."""
        alone: dict[str, Any] = (
            {"noise": _as_noise(rows[i : i + 1])} if self.seeds is None else {"seed": self.seeds[i]}
        )
        return _json(alone | self.changes | {"padding": 0})

    def compose(self, nz: int) -> Latents:
        """Latents of images that have no seeds, float32 (n, nz), finite.

        Raises:
            RequestError: a number of the latents of a walk or a mix is beyond MAX_LATENT.
        """
        if self.noise is not None:
            return self.noise
        try:
            if self.walk is not None:
                keys = [
                    key if isinstance(key, list) else from_seeds([key], nz)[0]
                    for key in self.walk.between
                ]
                return latents.walk(
                    np.array(keys, np.float32),
                    self.num_images,
                    self.walk.method,
                    self.walk.closed or False,
                )
            terms = [(term.weight, term.latents(nz)) for term in self.mix or ()]
            return latents.mix(terms)
        except OverflowError:
            value = self.mix if self.walk is None else self.walk.model_dump(exclude_unset=True)
            raise self._beyond(self.source, value) from None

    def changed(self, rows: Latents, directions: Directions) -> Latents:
        """Its latents truncated and then edited, float32 (n, nz), finite.

        Raises:
            RequestError: the edit leads to a number beyond MAX_LATENT.
        """
        if self.truncation is not None:
            rows = latents.truncate(rows, self.truncation)
        if not self.edit:
            return rows
        try:
            return latents.edit(rows, directions.steps, self.edit)
        except OverflowError:
            raise self._beyond("edit", self.edit) from None

    def _beyond(self, field: str, value: object) -> RequestError:
        return RequestError(
            Kind.INVALID_FIELD,
            f"{field} leads to a number beyond -{MAX_LATENT} to {MAX_LATENT}, which N(0, 1) "
            "does not draw; use smaller ones",
            field=field,
            seen=show(value),
            allowed=f"latents and weights whose result stays within -{MAX_LATENT} to {MAX_LATENT}",
        )


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
                raise _wrong(
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
            raise _wrong("is not an object", "parameters", seen=show(shared))
        size = len(_json(shared)) * len(instances)
        if size > info.context:
            raise _wrong(
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
            raise _wrong(
                f"is in instances[{i}] too; keep one of them",
                "parameters",
                show(name)[1:-1],
                kind=Kind.CONFLICT,
                seen=show(name),
                allowed="each field once",
            )
    return {**instance, **shared}


@dataclass(frozen=True)
class Call:
    """One HTTP or gRPC call.

    Args:
        items: what to draw; exactly one, unless ``kserve``.
        kserve: answer ``{"predictions": [...]}``, one element an item (KServe v1 protocol).
        caching: headers of the reply that tell caches how long it is good.
    """

    items: Sequence[Request]
    kserve: bool
    caching: dict[str, str] = field(default_factory=dict)

    def each(self, work: Callable[[Request], A]) -> list[A]:
        """The result of the work on each item; its errors tell the item's place in the body."""
        found = []
        for i, item in enumerate(self.items):
            try:
                found.append(work(item))
            except RequestError as error:
                raise (error.within(f"instances[{i}]") if self.kserve else error) from None
        return found

    def changed(self, drawn: Sequence[Latents], directions: Directions) -> list[Latents]:
        """What the network makes the images of: the latents of each item, truncated and edited
        where it asks for that.

        Args:
            drawn: float32 (n, nz) an item, as ``draw`` gives them.
            directions: those that the call was parsed with.

        Raises:
            RequestError: as in ``Request.changed``.
        """
        rows = iter(drawn)
        return self.each(lambda item: item.changed(next(rows), directions))

    @cached_property
    def images(self) -> int:
        """Images of all items."""
        return sum(item.num_images for item in self.items)


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


def draw(calls: Sequence[Call], nz: int) -> Iterator[list[Latents]]:
    """The latents of each item of each call, float32 (n, nz), call by call.

    Those of images that have seeds come from one draw. A latent depends on nothing but its seed,
    so they are the same as drawn alone. Walks and mixes draw theirs one after the other: many
    mixes at once would not fit the memory.

    Raises:
        RequestError: as in ``Request.compose``.
    """
    seeds = [seed for call in calls for item in call.items for seed in item.seeds or ()]
    drawn, used = from_seeds(seeds, nz), 0

    def latents_of(item: Request) -> Latents:
        nonlocal used
        if item.seeds is None:
            return item.compose(nz)
        used += item.num_images
        return drawn[used - item.num_images : used]

    for call in calls:
        yield call.each(latents_of)


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


def _first_seed(base: int | None, count: int) -> int:
    """A random one when none is given; ``count`` seeds from there on exist."""
    last_base = MAX_SEED - count + 1
    if base is None:
        return secrets.randbelow(last_base + 1)
    if base > last_base:
        raise _wrong(
            "is too large: seed + num_images - 1 would be beyond the largest one",
            "seed",
            seen=show(base),
            allowed=f"0 to {last_base} with num_images {count}",
        )
    return base


def _as_noise(rows: Latents) -> str | list[list[float]]:
    """Latents, float32 (n, nz), as the field ``noise`` takes them: base64 of little-endian float32,
    which is a fourth of the numbers; and those where the bytes would be taken for another type.
    """
    data = rows.astype("<f4").tobytes()
    return rows.tolist() if _other_type(data) else base64.b64encode(data).decode("ascii")


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
            min_length=_base64_length(1, nz),
            max_length=_base64_length(most, nz),
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ]
    noise = (
        Annotated[
            rows, WrapValidator(_noise(nz, most), json_schema_input_type=rows | row | base64_text)
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
        noise=_optional(*noise),
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
        noise=_optional(*noise),
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
        raise _wrong(
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
            raise _wrong(
                "cannot be that among instances",
                i,
                "format",
                seen=show(item.format),
                allowed="json, or no format at all",
            )
        if images > most:
            raise _wrong(
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
        raise _wrong(
            "has too many latents in its terms",
            kind=Kind.TOO_LARGE,
            seen=f"{count} latents",
            allowed=f"at most {MAX_MIX_LATENTS} in all terms",
        )
    return terms


def _known_direction(names: Set[str], value: object) -> object:
    """An edit, whose names are those of directions."""
    what = "direction of this archive" if names else "direction: this archive has none"
    return _known(value, names, what, cutoff=0.0)


def _from_digits(value: object) -> object:
    """Digits in a string survive clients whose numbers are float64."""
    return int(value) if isinstance(value, str) and re.fullmatch(_DIGITS, value) else value


def _noise(nz: int, most: int) -> Callable[[object, ValidatorFunctionWrapHandler], Latents]:
    """Rows, a single row, bytes or base64 of them (RFC 4648, section 4) -> latents."""

    def read(value: object, rows: ValidatorFunctionWrapHandler) -> Latents:
        if isinstance(value, str):
            try:
                value = binascii.a2b_base64(value, strict_mode=True)
            except ValueError:
                detail = "is not base64 of the alphabet with + and /, in one line, with its padding"
                raise _wrong(detail, seen=show(value)) from None
        if isinstance(value, bytes):
            return _from_bytes(value, nz, most)
        if isinstance(value, list) and value and not any(isinstance(row, list) for row in value):
            value = [value]
        return np.array(rows(value), np.float32)

    return read


def _from_bytes(data: bytes, nz: int, most: int) -> Latents:
    """Little-endian float32; what is of another type is refused, as far as it shows."""
    if not data or len(data) % (4 * nz):
        raise _wrong(
            "is of bytes that are no whole rows",
            seen=f"{len(data)} bytes",
            allowed=f"a positive multiple of {4 * nz} bytes",
        )
    numbers = np.frombuffer(data, "<f4").reshape(-1, nz)
    if len(numbers) > most:
        raise _wrong("is too long", kind=Kind.TOO_LARGE, seen=f"{len(numbers)} rows")
    wrong = ~(np.abs(numbers) <= MAX_LATENT)  # NaN too
    if wrong.any():
        row, column = divmod(int(wrong.argmax()), nz)
        raise _wrong(
            "is no number that N(0, 1) draws: the bytes may be of another type than little-endian "
            f"float32, {_AS_FLOAT32}",
            row,
            column,
            seen=f"{numbers[row, column]:g}",
        )
    if what := _other_type(data):
        detail = f"looks like {what}; send float32, {_AS_FLOAT32}"
        raise _wrong(detail, seen=f"{len(data)} bytes")
    return numbers.astype(np.float32)


def _other_type(data: bytes) -> str:
    """What bytes look like that are float32 within the range of a latent; empty for float32.

    Few numbers may be anything. Small integers are float32 next to zero, and of a float64 with few
    digits the first half is zero. A latent may have zeros, so most of the others must not be.
    """
    numbers = np.frombuffer(data, "<f4")
    if len(numbers) < _TELLING:
        return ""
    size = np.abs(numbers)
    if size.any() and size.max() < _LEAST_DRAWN:
        return "integers or booleans"
    if not size[::2].any() and 2 * np.count_nonzero(size[1::2]) > len(size[1::2]):
        return "float64"
    return "float16 or bfloat16" if _is_of_16_bits(data) else ""


def _is_of_16_bits(data: bytes) -> bool:
    """Whether bytes are of float16 or bfloat16 numbers that N(0, 1) drew.

    Two such numbers make a float32 that N(0, 1) could have drawn. But the low half of a float32 is
    of mantissa bits, each value as likely as any: 64 different ones are all below 8 as float16, as
    the bits of both types are, once in 0.56^-64 = 1e16 times.
    """
    low = np.frombuffer(data, "<u2")[::2]
    if len(np.unique(low)) < _TELLING:
        return False
    size = np.abs(low.view("<f2").astype(np.float32))
    return bool((size < 8).all() and (size**2).mean() > 0.1)


def _base64_length(rows: int, nz: int) -> int:
    return -(-4 * nz * rows // 3) * 4
