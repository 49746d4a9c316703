"""What the archive says beside the network: an operator's settings, the card of the model, and the
directions that its latents can be moved along.

Each is a pydantic model, which is the one place for its names, types, ranges and defaults.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from handler.errors import show
from handler.hardware import processors

_SERVER_BYTES = 6_553_500  # TorchServe's, for both sizes, where its settings name none
_PROPERTY = re.compile(r"^[ \t]*(\w+)[ \t]*[=: \t](.*)$", re.MULTILINE)
_VARIABLE = re.compile(r"\$\$(\w+)\$\$")
DIRECTIONS_FILE = "directions.json"
DIRECTION_NAME = "[a-z][a-z0-9-]{0,39}"
MAX_DIRECTIONS = 64

BackendName = Literal["torch_gpu", "torchscript", "onnx", "packed"]
Precision = Literal["float32", "bfloat16", "float16"]

# float32 as latents are: what is beyond its range would be infinite there.
_Finite = Annotated[float, Field(ge=-3e38, le=3e38, allow_inf_nan=False)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Limits(_Block):
    """How much one request may ask for. ``lowered`` gives what a model and a machine carry.

    Args:
        max_images: images one request may ask for; also the most grid columns.
        max_padding_px: padding between tiles, px.
        max_reply_bytes: the body of a reply. Left out it is TorchServe's max_response_size, and it
            is never above that: a longer body closes the worker's channel and fails the batch.
        max_body_bytes: a body that arrives as text or bytes. Left out it is TorchServe's
            max_request_size, which cuts longer ones off already.
        max_batch_images: images in one forward pass, of which a GPU makes 64 at most in any case;
            bounds the memory of the device.
    """

    max_images: int = Field(default=256, ge=1)
    max_padding_px: int = Field(default=64, ge=0)
    max_reply_bytes: int = Field(default=_SERVER_BYTES, ge=1)
    max_body_bytes: int = Field(default=_SERVER_BYTES, ge=1)
    max_batch_images: int = Field(default=64, ge=1)

    def within(self, server: Mapping[str, int]) -> Limits:
        """With TorchServe's own limits where none is set, and none above them.

        Args:
            server: as ``server_limits`` gives them.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        least = {name: min(most, given.get(name, most)) for name, most in server.items()}
        return self.model_copy(update=least)

    def lowered(self, reply_images: int, pace: Pace) -> Limits:
        """What is enforced for pictures of this size on a machine of this speed."""
        most = min(self.max_images, reply_images, pace.images_in(1 / 2))
        a_pass = min(self.max_batch_images, pace.images_in(1 / 10))
        return self.model_copy(
            update={"max_images": max(most, 1), "max_batch_images": max(a_pass, 1)}
        )


def server_limits(environment: Mapping[str, str], java: Path) -> dict[str, int]:
    """What TorchServe lets through, bytes, by the names of ``Limits``.

    It tells its workers nothing of it, so this reads the settings file that TS_CONFIG_FILE names,
    or else ``--ts-config``, with the variables that TorchServe puts in. Where there is none to
    read, its own default counts.

    Args:
        environment: of the worker, which has TorchServe's.
        java: the folder of TorchServe's process in /proc.
    """
    text = ""
    with contextlib.suppress(OSError, ValueError, IndexError):
        arguments = os.fsdecode((java / "cmdline").read_bytes()).split("\0")
        named = environment.get("TS_CONFIG_FILE") or arguments[arguments.index("-f") + 1]
        text = (java / "cwd" / named).read_text(encoding="latin-1")
    properties = {key: value.strip() for key, value in _PROPERTY.findall(text)}

    def size(key: str) -> int:
        given = properties.get(key, "")
        if properties.get("enable_envvars_config", "").lower() == "true":
            given = environment.get(f"TS_{key.upper()}", given)
        given = _VARIABLE.sub(lambda found: environment.get(found[1], ""), given)
        return int(given or _SERVER_BYTES)

    return {
        "max_reply_bytes": size("max_response_size"),
        "max_body_bytes": size("max_request_size"),
    }


@dataclass(frozen=True)
class Pace:
    """How long the worker may take over one batch, and how fast it is.

    Args:
        batch_s: after so long no more pictures are begun, s.
        image_s: what the network takes for one picture of a full pass, s; 0 when not measured.
    """

    batch_s: float = 30.0
    image_s: float = 0.0

    def images_in(self, share: float) -> int:
        """Pictures that the network makes in this share of the time."""
        return int(share * self.batch_s / self.image_s) if self.image_s else sys.maxsize


def batch_seconds(config: Mapping[str, Any]) -> float:
    """Half the time after which TorchServe kills a worker that does not answer, s.

    The other half is for what cannot be stopped or seen from here: the last pass and its PNGs,
    and the reading of the requests before they are handed over.

    Args:
        config: model-config.yaml. TorchServe ignores a ``responseTimeout`` that is no whole
            number, and takes 120 s when there is none.
    """
    timeout_s = config.get("responseTimeout")
    return (timeout_s if type(timeout_s) is int and timeout_s > 0 else 120) / 2


class Settings(_Block):
    """How the model is run: the ``handler:`` block of model-config.yaml.

    Args:
        backend: ``torch_gpu`` (generator.pt on a GPU); ``onnx`` (generator.onnx in ONNX Runtime),
            ``packed`` (generator.pt on oneDNN) and ``torchscript`` (generator.pt as it is) on a
            CPU; or ``auto``: the fastest on the hardware at hand (``handler.backends.choose``).
        threads: of one worker, for the network on a CPU and for PNGs; 0 is its share of the
            processors (``shared``).
        precision: of the network's arithmetic. ``auto``: float16 on a GPU with tensor cores,
            bfloat16 on a CPU with a unit for it, float32 elsewhere and for onnx always. What the
            short ones cost in quality is in the export's parity.json. On a GPU a wider one is
            used where the pixels would be too far off, and a warning tells it.
        allow_cpu_fallback: let a worker that was given a GPU run on the CPU when the runtime
            cannot use it; otherwise the worker refuses to start.
        png: ``small`` deflates what is more than one small picture, ``fast`` only copies, for two
            fifths more bytes.
        limits: how much one request may ask for.
    """

    backend: Literal["auto", BackendName] = "auto"
    threads: int = Field(default=0, ge=0)
    precision: Literal["auto", Precision] = "auto"
    allow_cpu_fallback: bool = False
    png: Literal["fast", "small"] = "small"
    limits: Limits = Limits()

    def shared(self, config: Mapping[str, Any]) -> Self:
        """With the threads of one of the machine's workers: each has as many processors.

        Args:
            config: model-config.yaml, whose ``maxWorkers`` are the workers.
        """
        workers = config.get("maxWorkers")
        count = workers if type(workers) is int and workers > 0 else 1
        return self.model_copy(update={"threads": self.threads or max(1, processors() // count)})

    @classmethod
    def from_yaml(cls, block: object) -> Self:
        """Read the block; what is left out keeps its default.

        Raises:
            ValueError: one sentence on the first wrong key: an unknown one (the nearest that
                exists is named), a wrong type, or a number out of range.
        """
        try:
            return cls.model_validate(block)
        except ValidationError as error:
            raise ValueError(_sentence(cls, error.errors(include_url=False)[0])) from None


class Card(BaseModel):
    """The facts of the packed model: ``card.json`` at the root of the archive.

    What is in it beside these is kept as it is, for the describe reply. Texts are sent as reply
    headers, hence printable ASCII without blanks.

    Args:
        weights_sha256: digest of the weights it was exported from, hexadecimal.
        nz: length of a latent.
        image_size: height and width, px.
        channels: 1 (grey) or 3 (RGB).
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(pattern="^[!-~]{1,80}$")
    version: str = Field(pattern="^[!-~]{1,80}$")
    weights_sha256: str = Field(pattern="^[!-~]{1,80}$")
    nz: int = Field(ge=1)
    image_size: int = Field(ge=1)
    channels: Literal[1, 3]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image, px."""
        return self.image_size, self.image_size, self.channels

    @classmethod
    def read(cls, model_dir: Path) -> Card:
        """Read ``card.json``.

        Raises:
            RuntimeError: it is missing, is not JSON, or a fact is missing or out of range.
        """
        path = model_dir / "card.json"
        try:
            return cls.model_validate(json.loads(path.read_text("utf-8")))
        except ValidationError as error:
            reason = _sentence(cls, error.errors(include_url=False)[0])
        except (OSError, ValueError) as error:
            reason = repr(error)
        raise RuntimeError(f"cannot use {path.name} of the archive: {reason}")


class Direction(BaseModel):
    """A way to change all pictures alike: a vector that is added to latents.

    What is said of it beside these, such as measured numbers, is kept for the describe reply.

    Args:
        step: what strength 1 adds to a latent, nz numbers.
        range: the least and the most strength that keep the pictures like those learned from.
        kind: ``learned`` with a judge, or ``closed-form`` from the weights alone.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    step: list[_Finite]
    range: tuple[_Finite, _Finite]
    kind: Literal["learned", "closed-form"]


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of an archive by name: its ``directions.json``, if it has one.

    Args:
        named: in the order of their names, which all sums of them keep.
    """

    named: Mapping[str, Direction]

    @cached_property
    def steps(self) -> dict[str, npt.NDArray[np.float64]]:
        """What strength 1 adds to a latent: float32 numbers as float64, (nz,), by name."""
        return {
            name: np.array(direction.step, np.float32).astype(np.float64)
            for name, direction in self.named.items()
        }

    @cached_property
    def sha256(self) -> str:
        """Digest of names and steps, hexadecimal."""
        digest = hashlib.sha256()
        for name, step in self.steps.items():
            digest.update(name.encode("ascii") + b"\0" + step.astype("<f8").tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, dict[str, Any]]:
        """What is known of each but its step."""
        return {name: found.model_dump(exclude={"step"}) for name, found in self.named.items()}

    @classmethod
    def parse(cls, text: bytes, nz: int) -> Directions:
        """Check the text of ``directions.json``.

        Args:
            text: JSON, name -> ``Direction``.

        Raises:
            ValueError: one sentence: it is not JSON, holds more than MAX_DIRECTIONS or a name that
                is none, or a direction is no ``Direction`` of this nz.
        """
        try:
            found = _NAMED.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ascii(".".join(str(part) for part in first["loc"]))[1:-1]
            raise ValueError(f"{place or 'it'}: {first['msg']}") from None
        for name, direction in found.items():
            if len(direction.step) != nz:
                raise ValueError(f"{name}.step has {len(direction.step)} numbers, not {nz}")
            if not direction.range[0] < direction.range[1]:
                raise ValueError(f"{name}.range is {direction.range}; the first must be less")
        return cls(dict(sorted(found.items())))

    @classmethod
    def read(cls, model_dir: Path, nz: int) -> Directions:
        """Read ``directions.json`` of an extracted archive; without the file there are none.

        Raises:
            RuntimeError: one sentence on what is wrong with it.
        """
        path = model_dir / DIRECTIONS_FILE
        try:
            return cls.parse(path.read_bytes(), nz) if path.exists() else NO_DIRECTIONS
        except (OSError, ValueError) as error:
            raise RuntimeError(f"cannot use {path.name} of the archive: {error}") from error


NO_DIRECTIONS = Directions({})
_NAMED = TypeAdapter(
    Annotated[
        dict[Annotated[str, Field(pattern=f"^{DIRECTION_NAME}$")], Direction],
        Field(max_length=MAX_DIRECTIONS),
    ]
)


def _sentence(cls: type[BaseModel], first: ErrorDetails) -> str:
    """pydantic's account of one wrong place; of an unknown key with the nearest that there is."""
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        for part in path[:-1]:
            cls = cls.model_fields[part].annotation  # type: ignore[assignment]
        near = difflib.get_close_matches(path[-1], cls.model_fields, n=1, cutoff=0.0)
        return f"there is no key {name}; the nearest one is {'.'.join([*path[:-1], *near])}"
    if first["type"] == "missing":
        return f"{name} is missing"
    return f"{name or 'it'} is {show(first['input'])}: {first['msg']}"
