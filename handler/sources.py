"""Where the latents of one request come from: seed, seeds, noise, walk or mix."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from handler import latents as arithmetic
from handler.errors import Kind, RequestError, show
from handler.latents import MAX_LATENT, MAX_SEED, Latents, from_seeds

Source = Literal["seed", "seeds", "noise", "walk", "mix"]
SOURCES: tuple[Source, ...] = ("seed", "seeds", "noise", "walk", "mix")


@dataclass(frozen=True, eq=False)
class Drawn:
    """The latents of one request, or the seeds that they will be drawn from.

    Args:
        latents: float32 (n, nz), finite, n >= 1; None when they are those of ``seeds``, which
            are drawn for a whole batch at once (``handler.requests.draw_together``).
        source: where they come from; ``seed`` also when the seed was drawn here.
        seeds: the seed of each image; None when an image has none of its own.
        again: the field or two that draw the same latents, bit by bit.
    """

    latents: Latents | None
    source: Source
    seeds: tuple[int, ...] | None
    again: Mapping[str, Any]


def check_alone(given: Mapping[str, Any]) -> None:
    """At most one source of latents, and ``num_images`` only with ``seed`` or alone.

    Args:
        given: field name -> JSON value, checked or not; a null counts as left out.

    Raises:
        RequestError: names the fields that do not go together.
    """
    clash: list[str] = [name for name in SOURCES if given.get(name) is not None]
    if given.get("num_images") is not None and clash not in ([], ["seed"]):
        clash.append("num_images")
    if len(clash) > 1:
        raise RequestError(
            Kind.CONFLICT,
            f"{' and '.join(clash)} were given together; keep one of them",
            field=clash[-1],
            seen=", ".join(clash),
            allowed=f"one of {', '.join(SOURCES)}; num_images only with seed or alone",
        )


def draw(body: Mapping[str, Any], given: Mapping[str, Any], nz: int) -> Drawn:
    """The latents of a checked body.

    Args:
        body: checked fields, as ``handler.validation.validate`` returns them.
        given: the same fields as the client wrote them.
        nz: length of a latent.

    Raises:
        RequestError: the seeds end beyond the largest one, or a number of the latents of a
            walk or a mix is beyond MAX_LATENT.
    """
    if "noise" in body:
        latents = np.array(body["noise"], np.float32)
        return Drawn(latents, "noise", None, {"noise": to_base64(latents)})
    if "seeds" in body:
        seeds = body["seeds"]
        return Drawn(None, "seeds", tuple(seeds), _same_seeds(seeds))
    if "walk" in body:
        return _walk(body["walk"], nz)
    if "mix" in body:
        return _mix(body["mix"], given["mix"], nz)
    seeds = _consecutive(body.get("seed"), body.get("num_images", 1))
    return Drawn(None, "seed", tuple(seeds), {"seed": seeds[0], "num_images": len(seeds)})


def to_base64(latents: Latents) -> str:
    """Latents, float32 (n, nz), as the field ``noise``: base64 of little-endian float32."""
    return base64.b64encode(latents.astype("<f4").tobytes()).decode("ascii")


def _consecutive(base: int | None, count: int) -> range:
    last_base = MAX_SEED - count + 1
    if base is None:
        base = secrets.randbelow(last_base + 1)
    if base > last_base:
        raise RequestError(
            Kind.INVALID_FIELD,
            "seed + num_images - 1 is beyond the largest seed; lower one of them",
            field="seed",
            seen=show(base),
            allowed=f"0 to {last_base} with num_images {count}",
        )
    return range(base, base + count)


def _same_seeds(seeds: Sequence[int]) -> dict[str, Any]:
    first, count = seeds[0], len(seeds)
    if all(seed == first + i for i, seed in enumerate(seeds)):
        return {"seed": first, "num_images": count}
    return {"seeds": list(seeds)}


def _walk(walk: Mapping[str, Any], nz: int) -> Drawn:
    between, steps, method = walk["between"], walk["steps"], walk.get("method", "slerp")
    keys = np.array(
        [key if isinstance(key, list) else from_seeds([key], nz)[0] for key in between],
        np.float32,
    )
    try:
        latents = arithmetic.walk(keys, steps, method)
    except OverflowError:
        raise _beyond("walk", walk) from None
    again = {"between": between, "steps": steps, "method": method}
    return Drawn(latents, "walk", None, {"walk": again})


def _mix(terms: Sequence[Mapping[str, Any]], given: Any, nz: int) -> Drawn:
    rows = [
        np.array(term["noise"], np.float32) if "noise" in term else from_seeds(term["seeds"], nz)
        for term in terms
    ]
    try:
        latents = arithmetic.mix([(term["weight"], r) for term, r in zip(terms, rows, strict=True)])
    except OverflowError:
        raise _beyond("mix", given) from None
    again = [
        # Noise as it was written: base64 of many rows is a fourth of them as numbers.
        {"weight": term["weight"], **_mix_source(term, written)}
        for term, written in zip(terms, given, strict=True)
    ]
    return Drawn(latents, "mix", None, {"mix": again})


def _mix_source(term: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    return {"noise": written["noise"]} if "noise" in term else {"seeds": term["seeds"]}


def _beyond(field: str, value: object) -> RequestError:
    return RequestError(
        Kind.INVALID_FIELD,
        f"{field} leads to a number beyond -{MAX_LATENT} to {MAX_LATENT}, which N(0, 1) does not "
        "draw; use smaller ones",
        field=field,
        seen=show(value),
        allowed=f"latents and weights whose result stays within -{MAX_LATENT} to {MAX_LATENT}",
    )
