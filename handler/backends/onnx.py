"""``generator.onnx`` in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler.backends.base import Slices, need_fallback, need_file
from handler.latents import Latents
from handler.pixels import Images, to_uint8
from handler.settings import Card, Settings


class OnnxBackend:
    """``generator.onnx``: noise float32 (N, nz) -> float32 (N, C, H, W) in [-1, 1].

    Args:
        path: the ONNX file.
        card: what the file holds.
        settings: threads, and whether a GPU may be missing.
        gpu_id: index of the GPU; None for the CPU.

    Raises:
        RuntimeError: the file cannot be loaded, or the GPU cannot be used.
    """

    name = "onnx"
    precision = "float32"

    def __init__(self, path: Path, card: Card, settings: Settings, gpu_id: int | None) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # a server tells nobody what it runs
        self.nz, self.image_shape = card.nz, card.image_shape
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu_id is not None:
            onnxruntime.preload_dlls()
            # Full float32, as on the CPU: TF32 keeps 10 bits of the mantissa.
            choice = {"device_id": gpu_id, "use_tf32": 0}
            providers.insert(0, ("CUDAExecutionProvider", choice))
        need_file(path)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its exceptions share no base class
            raise RuntimeError(f"{path.name} is not a usable ONNX file: {error}") from error
        self._input = self._session.get_inputs()[0].name
        # A provider that fails to load is only a warning to ONNX Runtime.
        on_gpu = self._session.get_providers()[0] == "CUDAExecutionProvider"
        self.fallback = gpu_id is not None and not on_gpu
        if gpu_id is not None and not on_gpu:
            need_fallback(settings, gpu_id, "ONNX Runtime cannot use the GPU")
        self.device = f"cuda:{gpu_id}" if on_gpu else "cpu"
        self._slices = Slices(settings.threads)

    def __call__(self, latents: Latents) -> Images:
        if self.device == "cpu":
            return self._slices.run(self._forward, latents)
        return self._forward(latents)

    def free_memory(self) -> None:
        """Nothing to give back: ONNX Runtime's arena shrinks with the session only."""

    def _forward(self, latents: Latents) -> Images:
        return to_uint8(self._session.run(None, {self._input: latents})[0])
