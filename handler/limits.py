"""What an operator may set: the ``handler:`` block of model-config.yaml, typed and checked."""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for. ``lowered`` gives what a model and a machine carry.

    Args:
        max_images: images one request may ask for; also the most grid columns.
        max_padding_px: padding between tiles, px.
        max_reply_bytes: worst-case size of a reply. Must stay below TorchServe's
            max_response_size (6,553,500 by default): a longer reply closes the worker's
            channel and fails the whole batch.
        max_body_bytes: a body that arrives as text or bytes. The default is TorchServe's
            max_request_size, which has cut longer ones off already.
        max_batch_images: images in one forward pass; bounds the memory of the device.
    """

    max_images: int = 256
    max_padding_px: int = 64
    max_reply_bytes: int = 6_000_000
    max_body_bytes: int = 6_553_500
    max_batch_images: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError for a limit that would refuse every request."""
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "max_padding_px" else 1
            if value < least:
                raise ValueError(f"limits.{item.name} is {value}; it must be at least {least}")

    @classmethod
    def from_yaml(cls, block: Mapping[str, Any]) -> Limits:
        """Read the ``limits:`` block; what is left out keeps its default.

        Raises:
            ValueError: an unknown key (the nearest valid one is named), a wrong type, or a
                number out of range.
        """
        return cls(**_checked(cls, block, "limits."))

    def lowered(self, image_bytes: int, pace: Pace) -> Limits:
        """What is enforced for pictures of this size on a machine of this speed.

        Args:
            image_bytes: of one picture's pixels.
            pace: of the machine.
        """
        most = min(self.max_images, self.max_reply_bytes // image_bytes, pace.images_in(1 / 2))
        a_pass = min(self.max_batch_images, pace.images_in(1 / 10))
        return replace(self, max_images=max(most, 1), max_batch_images=max(a_pass, 1))


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


@dataclass(frozen=True)
class Settings:
    """How the model is run.

    Args:
        backend: ``torchscript`` (generator.pt), ``onnx`` (generator.onnx in ONNX Runtime),
            ``packed`` (generator.pt on oneDNN, CPUs only), or ``auto``: what was measured to be
            the fastest on the hardware at hand (``handler.backends.choice``).
        threads: slices of a batch that run side by side on the CPU, one thread each; 0 is one
            a processor.
        precision: of the network's arithmetic. ``auto``: float16 on a GPU with tensor cores,
            bfloat16 on a CPU with a unit for it, float32 elsewhere and for onnx always. What the
            short ones cost in quality is in the export's parity.json.
        allow_cpu_fallback: let a worker that was given a GPU run on the CPU when the runtime
            cannot use it; otherwise the worker refuses to start.
        limits: how much one request may ask for.
    """

    backend: Literal["auto", "torchscript", "onnx", "packed"] = "auto"
    threads: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    allow_cpu_fallback: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises ValueError for a negative number of threads."""
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be 0 (one a processor) or more")

    @classmethod
    def from_yaml(cls, block: Mapping[str, Any]) -> Settings:
        """Read the ``handler:`` block.

        Raises:
            ValueError: as in ``Limits.from_yaml``.
        """
        values = dict(block)
        if "limits" in values:
            if not isinstance(values["limits"], Mapping):
                raise ValueError(f"limits is {values['limits']!r}; it must be a block of keys")
            values["limits"] = Limits.from_yaml(values["limits"])
        return cls(**_checked(cls, values, ""))


def processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors this process may use: those it may run on, or a container's quota of time.

    Args:
        cgroup: where a container sees its own control group (Linux, "Control Group v2", cpu.max;
            v1: cpu.cfs_quota_us).
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1  # macOS, Windows
    return min(count, _quota(cgroup) or count)


def _quota(cgroup: Path) -> int | None:
    """Whole processors' worth of time, rounded up; None without a limit."""
    v1 = cgroup / "cpu"
    for files in ([cgroup / "cpu.max"], [v1 / "cpu.cfs_quota_us", v1 / "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join(file.read_text("ascii") for file in files).split()
            if int(quota) > 0:
                return math.ceil(int(quota) / int(period))
        except (OSError, ValueError):  # no such file, or the word max
            continue
    return None


def _checked(cls: type, block: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The block's values after their names and types are compared with the dataclass."""
    types = get_type_hints(cls)
    for name, value in block.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, n=1, cutoff=0.0)[0]
            raise ValueError(f"there is no key {prefix}{name}; the nearest one is {prefix}{near}")
        expected = types[name]
        if get_origin(expected) is Literal:
            choices = get_args(expected)
            if value not in choices:
                raise ValueError(f"{prefix}{name} is {value!r}; choose one of {list(choices)}")
        elif type(value) is not expected:  # not isinstance: True is an int to Python
            raise ValueError(f"{prefix}{name} is {value!r}; it must be {_named(expected)}")
    return dict(block)


def _named(expected: type) -> str:
    names = {int: "a whole number", bool: "true or false"}
    return names.get(expected, expected.__name__)
