"""``generator.onnx`` in ONNX Runtime, on a CPU.

Not on a GPU: its provider for CUDA keeps the plan of one batch size for each transposed
convolution and makes all of them anew for another size (onnxruntime, ``conv_transpose.cc``); where
cuDNN refuses a plan without TF32 it takes one with it, whatever ``use_tf32`` says; and its pictures
leave the GPU as float32, four times the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handler.backends.base import CpuBackend, need_file
from handler.latents import Latents, from_seeds
from handler.pixels import Images, to_uint8
from handler.settings import Card, Settings


class OnnxBackend(CpuBackend):
    """``generator.onnx``: noise float32 (N, nz) -> float32 (N, C, H, W) in [-1, 1].

    A batch is cut into slices of one thread each. One of fewer images than threads is a single
    pass of a team of threads instead, where at the start that has been found to change no bit.

    Raises:
        RuntimeError: the file cannot be loaded.
    """

    name = "onnx"

    def __init__(self, path: Path, card: Card, settings: Settings) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # a server tells nobody what it runs
        need_file(path)
        super().__init__(card, settings, "float32")
        self._alone = _network(path, 1)
        # Of fewer images some processors would be idle.
        self._team_size = max(n for n in (1, 2, 4) if n <= self._threads)
        self._team = _network(path, self._team_size) if self._team_size > 1 else self._alone
        if not self._team_agrees():
            self._team_size = 1

    def __call__(self, latents: Latents) -> Images:
        if len(latents) < self._team_size:
            return to_uint8(self._team(latents))
        return super().__call__(latents)

    def _forward(self, latents: Latents) -> Images:
        return to_uint8(self._alone(latents))

    def _team_agrees(self) -> bool:
        """Whether the team's floats have the same bits: ONNX Runtime shares a matrix product out
        by its rows and columns, and with some numbers of threads orders its sums anew."""
        latents = from_seeds(range(self._team_size - 1), self.nz)
        batches = [latents[:count] for count in range(1, self._team_size)]
        return all(np.array_equal(self._alone(batch), self._team(batch)) for batch in batches)


def _network(path: Path, threads: int) -> Callable[[Latents], npt.NDArray[np.float32]]:
    """(N, nz) to float32 (N, C, H, W).

    Raises:
        RuntimeError: the file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others wait for them
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base class
        raise RuntimeError(f"{path.name} is not a usable ONNX file: {error}") from error
    name = session.get_inputs()[0].name
    return lambda latents: session.run(None, {name: latents})[0]
