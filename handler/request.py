"""One request: what it may say, and which latents it stands for.

A ``Call`` has one ``Request``, or the list of them that a KServe body holds. A Request is complete
when it is checked (``handler.body``): what a client left out is filled in, and nothing is turned
into anything else on the way to the reply. ``draw`` gives the latents of many requests at once.

A null is the same as leaving the field out, in nested objects too.
"""

from __future__ import annotations

import difflib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from handler import latents, noise
from handler.errors import Kind, RequestError, invalid, show
from handler.latents import MAX_LATENT, MAX_SEED, Latents, Method, from_seeds
from handler.pixels import default_columns
from handler.settings import Directions
from handler.wire import MOVING, Format, Moving

Source = Literal["seed", "seeds", "noise", "walk", "mix"]
SOURCES: tuple[Source, ...] = get_args(Source)

DEFAULT_PADDING_PX = 2  # between tiles; a single image has none
DEFAULT_BACKGROUND = "#ffffff"

DEFAULT_FPS = 12.0

A = TypeVar("A")

compact = json.JSONEncoder(separators=(",", ":")).encode


def known_names(value: object, names: Set[str], what: str, cutoff: float = 0.6) -> object:
    """An object without its nulls.

    Refuses the first unknown name, where pydantic's ``extra`` would list all of a hostile body.
    """
    if not isinstance(value, dict):
        return value
    if not value.keys() <= names:
        name = next(name for name in value if name not in names)
        near = difflib.get_close_matches(name[:80], names, n=1, cutoff=cutoff)
        hint = f"did you mean {near[0]}?" if near else "remove it"
        raise invalid(
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
        return known_names(value, cls.model_fields.keys(), "field of this object")


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
            raise invalid(detail, kind=kind, allowed="weight and exactly one of seeds and noise")
        return self

    def latents(self, nz: int) -> Latents:
        """float32 (n, nz), n >= 1."""
        return from_seeds(self.seeds or (), nz) if self.noise is None else self.noise

    @property
    def recipe(self) -> dict[str, Any]:
        """The same term."""
        if self.noise is None:
            return {"weight": self.weight, "seeds": self.seeds}
        return {"weight": self.weight, "noise": noise.to_field(self.noise)}


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
            raise invalid(
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
            return compact({**self._from, **self.changes, "format": self.motion.model_dump()})
        layout = {name: getattr(self, name) for name in ("columns", "padding", "background")}
        return compact(self._from | self.changes | layout)

    @property
    def _from(self) -> dict[str, Any]:
        """The field of the source, in its shortest form."""
        if self.seeds is not None:
            first, count = self.seeds[0], self.num_images
            if self.source == "seed" or all(s == first + i for i, s in enumerate(self.seeds)):
                return {"seed": first, "num_images": count}
            return {"seeds": self.seeds}
        if self.noise is not None:
            return {"noise": noise.to_field(self.noise)}
        if self.walk is not None:
            return {"walk": {k: v for k, v in vars(self.walk).items() if v is not None}}
        return {"mix": [term.recipe for term in self.mix or ()]}

    def recipe_alone(self, i: int, rows: Latents) -> str:
        """The same for image ``i`` alone, ``rows`` being what ``draw`` gave for all."""
        alone: dict[str, Any] = (
            {"noise": noise.to_field(rows[i : i + 1])}
            if self.seeds is None
            else {"seed": self.seeds[i]}
        )
        return compact(alone | self.changes | {"padding": 0})

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


def _first_seed(base: int | None, count: int) -> int:
    """A random one when none is given; ``count`` seeds from there on exist."""
    last_base = MAX_SEED - count + 1
    if base is None:
        return secrets.randbelow(last_base + 1)
    if base > last_base:
        raise invalid(
            "is too large: seed + num_images - 1 would be beyond the largest one",
            "seed",
            seen=show(base),
            allowed=f"0 to {last_base} with num_images {count}",
        )
    return base
