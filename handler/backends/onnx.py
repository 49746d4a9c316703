"""``generator.onnx`` in ONNX Runtime, on a CPU.

Not on a GPU: its provider for CUDA keeps the plan of one batch size for each transposed
convolution and makes all of them anew for another size (onnxruntime, ``conv_transpose.cc``); where
cuDNN refuses a plan without TF32 it takes one with it, whatever ``use_tf32`` says; and its pictures
leave the GPU as float32, four times the bytes.
"""

from __future__ import annotations

from pathlib import Path

from handler.backends.base import Slices, Warned, need_file
from handler.latents import Latents
from handler.pixels import Images, to_uint8
from handler.settings import Card, Settings


class OnnxBackend:
    """``generator.onnx``: noise float32 (N, nz) -> float32 (N, C, H, W) in [-1, 1].

    Args:
        path: the ONNX file.
        card: what the file holds.
        settings: threads.

    Raises:
        RuntimeError: the file cannot be loaded.
    """

    name = "onnx"
    device = "cpu"
    precision = "float32"

    def __init__(self, path: Path, card: Card, settings: Settings) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # a server tells nobody what it runs
        self.nz, self.image_shape = card.nz, card.image_shape
        self.warnings: dict[Warned, str] = {}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        need_file(path)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise RuntimeError(f"{path.name} is not a usable ONNX file: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._slices = Slices(settings.threads)

    def __call__(self, latents: Latents) -> Images:
        return self._slices.run(self._forward, latents)

    def free_memory(self) -> None:
        """Nothing to give back: ONNX Runtime's arena shrinks with the session only."""

    def _forward(self, latents: Latents) -> Images:
        return to_uint8(self._session.run(None, {self._input: latents})[0])
