"""Latents as bytes: little-endian float32, raw or in base64, and what only looks like it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import numpy as np
from pydantic import ValidatorFunctionWrapHandler

from handler.errors import Kind, invalid, show
from handler.latents import MAX_LATENT, Latents

_AS_FLOAT32 = "array.astype('<f4').tobytes()"
_TELLING = 64  # numbers whose pattern tells that they are of another type than float32
_LEAST_DRAWN = 1e-30  # N(0, 1) draws a latent of smaller numbers never


def to_field(rows: Latents) -> str | list[list[float]]:
    """Latents, float32 (n, nz), as the field ``noise`` takes them: base64 of little-endian float32,
    which is a fourth of the numbers; and those where the bytes would be taken for another type.
    """
    data = rows.astype("<f4").tobytes()
    return rows.tolist() if _other_type(data) else base64.b64encode(data).decode("ascii")


def reader(nz: int, most: int) -> Callable[[object, ValidatorFunctionWrapHandler], Latents]:
    """Rows, a single row, bytes or base64 of them (RFC 4648, section 4) -> latents."""

    def read(value: object, rows: ValidatorFunctionWrapHandler) -> Latents:
        if isinstance(value, str):
            try:
                value = binascii.a2b_base64(value, strict_mode=True)
            except ValueError:
                detail = "is not base64 of the alphabet with + and /, in one line, with its padding"
                raise invalid(detail, seen=show(value)) from None
        if isinstance(value, bytes):
            return from_bytes(value, nz, most)
        if isinstance(value, list) and value and not any(isinstance(row, list) for row in value):
            value = [value]
        return np.array(rows(value), np.float32)

    return read


def from_bytes(data: bytes, nz: int, most: int) -> Latents:
    """Little-endian float32; what is of another type is refused, as far as it shows."""
    if not data or len(data) % (4 * nz):
        raise invalid(
            "is of bytes that are no whole rows",
            seen=f"{len(data)} bytes",
            allowed=f"a positive multiple of {4 * nz} bytes",
        )
    numbers = np.frombuffer(data, "<f4").reshape(-1, nz)
    if len(numbers) > most:
        raise invalid("is too long", kind=Kind.TOO_LARGE, seen=f"{len(numbers)} rows")
    wrong = ~(np.abs(numbers) <= MAX_LATENT)  # NaN too
    if wrong.any():
        row, column = divmod(int(wrong.argmax()), nz)
        raise invalid(
            "is no number that N(0, 1) draws: the bytes may be of another type than little-endian "
            f"float32, {_AS_FLOAT32}",
            row,
            column,
            seen=f"{numbers[row, column]:g}",
        )
    if what := _other_type(data):
        detail = f"looks like {what}; send float32, {_AS_FLOAT32}"
        raise invalid(detail, seen=f"{len(data)} bytes")
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


def base64_length(rows: int, nz: int) -> int:
    return -(-4 * nz * rows // 3) * 4
