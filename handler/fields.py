"""The fields of a request: names, types and ranges, as one pydantic model and its JSON Schema.

The model is built once a server, for the ranges depend on its limits and on its generator.
A null is the same as leaving the field out, in nested objects too.
"""

from __future__ import annotations

import binascii
import difflib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from handler.errors import show
from handler.latents import MAX_LATENT, MAX_SEED
from handler.settings import Limits

MAX_KEYS = 64  # latents that a walk goes through
MAX_TERMS = 64  # of a mix
MAX_MIX_LATENTS = 1024  # in all terms: drawing them must stay cheap beside drawing the image

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIGITS = "[0-9]{1,16}"

# How bytes begin that are sent in place of JSON or of bare numbers; no float32 of N(0, 1) does.
_FOREIGN = {
    b"\x1f\x8b\x08\x00": "gzip",
    b"\x1f\x8b\x08\x08": "gzip",
    b"PK\x03\x04": "a zip or .npz file",
    b"\x93NUMPY": "a .npy file",
}


def schema(nz: int, limits: Limits) -> dict[str, Any]:
    """JSON Schema (2020-12) of the body, with the limits of this server filled in.

    Every body that ``handler.requests`` takes fits it. It cannot say that a source of latents
    goes alone, that ``steps`` is at least the number of latents, or what base64 decodes to.
    """
    document = body_model(nz, limits).model_json_schema(schema_generator=_Untitled)
    return {"$schema": _DIALECT, **document}


def allowed_values(nz: int, limits: Limits) -> dict[str, str]:
    """What each field takes, in words: for error texts and for the schema."""
    most = limits.max_images
    seeds = f"a list of 1 to {most} seeds, each an integer 0 to {MAX_SEED}"
    row = f"{nz} numbers -{MAX_LATENT} to {MAX_LATENT}"
    noise = f"1 to {most} rows of {row}, or base64 of them as little-endian float32"
    return {
        "seed": f"an integer 0 to {MAX_SEED}, or its digits as a string",
        "seeds": seeds,
        "num_images": f"an integer 1 to {most}",
        "noise": noise,
        "walk": "an object with between, steps and, if wanted, method",
        "walk.between": f"a list of 2 to {MAX_KEYS} latents, each a seed 0 to {MAX_SEED} "
        f"or a list of {row}",
        "walk.steps": f"the number of images, an integer 2 to {most}",
        "walk.method": "slerp or linear",
        "mix": f"a list of 1 to {MAX_TERMS} objects with weight and either seeds or noise, "
        f"at most {MAX_MIX_LATENTS} latents in all",
        "mix.weight": f"a finite number; the result stays within -{MAX_LATENT} to {MAX_LATENT}",
        "mix.seeds": seeds,
        "mix.noise": noise,
        "columns": f"an integer 1 to {most}",
        "padding": f"an integer 0 to {limits.max_padding_px}, px",
        "background": "a colour such as #ffffff",
        "format": "png, json or npy",
    }


class _Untitled(GenerateJsonSchema):
    """A field's title would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """Refuse the first unknown name, where ``extra`` would list all of a hostile body."""
        if not isinstance(value, dict):
            return value
        for name in value:
            if name not in cls.model_fields:
                near = difflib.get_close_matches(name[:80], cls.model_fields, n=1)
                hint = f"did you mean {near[0]}?" if near else "remove it"
                raise PydanticCustomError(
                    "unknown_field",
                    "is no field of this object, {hint}",
                    {
                        "hint": hint,
                        "within": (show(name)[1:-1],),
                        "seen": show(name),
                        "allowed": ", ".join(cls.model_fields),
                    },
                )
        return {name: item for name, item in value.items() if item is not None}


@lru_cache(maxsize=8)
def body_model(nz: int, limits: Limits) -> type[BaseModel]:
    """The model of a body, with the limits of this server filled in.

    Errors of our own carry in their context, where it is not what pydantic says: ``within``
    (names and indices from there to the place to blame), ``seen`` and ``allowed``, all ASCII.
    """
    most = limits.max_images
    say = allowed_values(nz, limits)

    one_an_image = Field(min_length=1, max_length=most, fail_fast=True)

    seed_range = Field(ge=0, le=MAX_SEED)
    digits = Annotated[str, Field(pattern=f"^{_DIGITS}$")]
    one_seed = Annotated[
        int,
        seed_range,
        BeforeValidator(_from_digits, json_schema_input_type=Annotated[int, seed_range] | digits),
    ]
    seed_list = Annotated[list[one_seed], one_an_image]

    number = Annotated[float, Field(ge=-MAX_LATENT, le=MAX_LATENT, allow_inf_nan=False)]
    row = Annotated[list[number], Field(min_length=nz, max_length=nz, fail_fast=True)]
    rows = Annotated[list[row], one_an_image]
    base64_text = Annotated[
        str,
        Field(
            pattern="^[A-Za-z0-9+/]+={0,2}$",
            min_length=_base64_length(1, nz),
            max_length=_base64_length(most, nz),
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ]
    to_rows = BeforeValidator(_to_rows(nz), json_schema_input_type=rows | row | base64_text)
    any_noise = Annotated[list[row], one_an_image, to_rows]
    one_latent = Annotated[
        Annotated[one_seed, Tag("<seed>")] | Annotated[row, Tag("<row>")],
        Discriminator(lambda value: "<row>" if isinstance(value, list) else "<seed>"),
    ]

    class Walk(_Object):
        """Images along the path through the latents of ``between``; slerp by default."""

        between: list[one_latent] = Field(
            min_length=2, max_length=MAX_KEYS, fail_fast=True, description=say["walk.between"]
        )
        steps: int = Field(ge=2, le=most, description=say["walk.steps"])
        method: Literal["slerp", "linear"] | None = Field(None, description=say["walk.method"])

        @model_validator(mode="after")
        def _every_key_has_a_step(self) -> Walk:
            least = len(self.between)
            if self.steps < least:
                raise PydanticCustomError(
                    "steps",
                    "is less than the number of latents in between",
                    {
                        "within": ("steps",),
                        "seen": show(self.steps),
                        "allowed": f"an integer {least} to {most}",
                    },
                )
            return self

    class Term(_Object):
        """A weight times the mean of some latents."""

        weight: float = Field(allow_inf_nan=False, description=say["mix.weight"])
        seeds: seed_list | None = Field(None, description=say["mix.seeds"])
        noise: any_noise | None = Field(None, description=say["mix.noise"])

        @model_validator(mode="after")
        def _one_source(self) -> Term:
            if (self.seeds is None) == (self.noise is None):
                error, detail = (
                    ("no_source", "has neither seeds nor noise")
                    if self.seeds is None
                    else ("conflict", "has both seeds and noise")
                )
                allowed = "weight and exactly one of seeds and noise"
                raise PydanticCustomError(error, detail, {"allowed": allowed})
            return self

    terms = Annotated[
        list[Term],
        Field(min_length=1, max_length=MAX_TERMS, fail_fast=True),
        AfterValidator(_few_latents),
    ]

    class Body(_Object):
        """Fields of ``POST /predictions/dcgan``; ``{}`` gives one image of a random seed."""

        seed: one_seed | None = Field(None, description=say["seed"])
        seeds: seed_list | None = Field(None, description=say["seeds"])
        num_images: int | None = Field(None, ge=1, le=most, description=say["num_images"])
        noise: any_noise | None = Field(None, description=say["noise"])
        walk: Walk | None = Field(None, description=say["walk"])
        mix: terms | None = Field(None, description=say["mix"])
        columns: int | None = Field(None, ge=1, le=most, description=say["columns"])
        padding: int | None = Field(
            None, ge=0, le=limits.max_padding_px, description=say["padding"]
        )
        background: str | None = Field(
            None, pattern="^#[0-9a-fA-F]{6}$", description=say["background"]
        )
        format: Literal["png", "json", "npy"] | None = Field(None, description=say["format"])

    return Body


def _few_latents(terms: list[Any]) -> list[Any]:
    count = sum(len(term.noise or term.seeds) for term in terms)
    if count > MAX_MIX_LATENTS:
        raise PydanticCustomError(
            "too_many_latents",
            "has too many latents in its terms",
            {"seen": f"{count} latents", "allowed": f"at most {MAX_MIX_LATENTS} in all terms"},
        )
    return terms


def _from_digits(value: object) -> object:
    """Digits in a string survive clients whose numbers are float64."""
    return int(value) if isinstance(value, str) and re.fullmatch(_DIGITS, value) else value


def foreign(data: bytes) -> str:
    """What bytes are that should have been JSON or bare numbers; empty when it does not show."""
    return next((what for start, what in _FOREIGN.items() if data.startswith(start)), "")


def _to_rows(nz: int) -> Callable[[object], object]:
    """Bytes, base64 of them, or a single row, to rows; any other value is left to the type."""

    def to_rows(value: object) -> object:
        if isinstance(value, bytes | str):
            return _from_bytes(value if isinstance(value, bytes) else _from_base64(value), nz)
        if isinstance(value, list) and value and not any(isinstance(row, list) for row in value):
            return [value]
        return value

    return to_rows


def _from_base64(text: str) -> bytes:
    """Base64 (RFC 4648, section 4) to bytes."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        if any(character in text for character in "\r\n"):
            hint = "it is broken into lines; write one, as base64 -w0 and base64.b64encode do"
        elif any(character in text for character in "-_"):
            hint = "it is base64url; write + and / for - and _"
        else:
            hint = "in a form, + is written as %2B"
        raise PydanticCustomError(
            "base64",
            "is not base64 of the standard alphabet with its padding ({hint})",
            {"hint": hint, "seen": show(text)},
        ) from None


def _from_bytes(data: bytes, nz: int) -> list[list[float]]:
    """Little-endian float32 to rows of nz numbers; what is of another type is refused, as far as
    it shows."""
    if what := foreign(data):
        raise PydanticCustomError(
            "noise_type",
            "is {what}; send the bare numbers, array.astype('<f4').tobytes()",
            {"what": what, "seen": show(data[:20])},
        )
    if not data or len(data) % (4 * nz):
        raise PydanticCustomError(
            "noise_length",
            "is of bytes that are no whole rows",
            {"seen": f"{len(data)} bytes", "allowed": f"a positive multiple of {4 * nz} bytes"},
        )
    numbers = np.frombuffer(data, "<f4").reshape(-1, nz)
    wrong = ~(np.abs(numbers) <= MAX_LATENT)  # NaN too
    if wrong.any():
        row, column = divmod(int(wrong.argmax()), nz)
        raise PydanticCustomError(
            "noise_type",
            "is no number that N(0, 1) draws: the bytes may be of another type than little-endian "
            "float32, array.astype('<f4').tobytes()",
            {"within": (row, column), "seen": f"{numbers[row, column]:g}"},
        )
    if _is_of_16_bits(data):
        raise PydanticCustomError(
            "noise_type",
            "looks like float16 or bfloat16; send float32, array.astype('<f4').tobytes()",
            {"seen": f"{len(data)} bytes"},
        )
    rows: list[list[float]] = numbers.tolist()
    return rows


def _is_of_16_bits(data: bytes) -> bool:
    """Whether bytes are of float16 or bfloat16 numbers that N(0, 1) drew.

    Two such numbers make a float32 that N(0, 1) could have drawn. But the low half of a float32 is
    of mantissa bits, each value as likely as any: 64 different ones are all below 8 as float16, as
    the bits of both types are, once in 0.56^-64 = 1e16 times.
    """
    low = np.frombuffer(data, "<u2")[::2]
    if len(np.unique(low)) < 64:
        return False
    size = np.abs(low.view("<f2").astype(np.float32))
    return bool((size < 8).all() and (size**2).mean() > 0.1)


def _base64_length(rows: int, nz: int) -> int:
    return -(-4 * nz * rows // 3) * 4
