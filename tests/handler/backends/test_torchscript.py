"""Passes recorded for a GPU, with a stand-in for the GPU and for what only it can record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.backends import torchscript
from handler.backends.choose import open_backend
from handler.backends.torchscript import Buckets, Run, load_torchscript, sizes_up_to
from handler.latents import Latents, from_seeds
from handler.pixels import Images, to_uint8
from handler.settings import Limits, Settings
from tests.support.tiny_models import save_torchscript, tiny_card, tiny_generator


class Recorder:
    """Records runs of one exact size; an image is filled with the first number of its latent."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.ran: list[int] = []

    def __call__(self, size: int) -> Run:
        self.recorded.append(size)

        def run(latents: Latents) -> Images:
            assert latents.shape == (size, 2)
            assert latents.dtype == np.float32
            self.ran.append(size)
            return np.broadcast_to(latents[:, :1, None, None].astype(np.uint8), (size, 3, 4, 1))

        return run


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (64, [1, 2, 4, 8, 16, 32, 64]),
                        (100, [1, 2, 4, 8, 16, 32, 64, 100])]
)  # fmt: skip
def test_sizes(most: int, sizes: list[int]) -> None:
    assert sizes_up_to(most) == sizes


def test_the_largest_is_recorded_first() -> None:
    recorder = Recorder()
    Buckets(8, recorder)
    assert recorder.recorded == [8, 4, 2, 1]


@pytest.mark.parametrize("count", range(1, 13))
def test_each_batch_runs_in_the_smallest_bucket_that_holds_it(count: int) -> None:
    recorder = Recorder()
    buckets = Buckets(12, recorder)
    latents = np.array([[i + 1, 0] for i in range(count)], np.float32)
    images = buckets(latents)
    assert images[:, 0, 0, 0].tolist() == list(range(1, count + 1))
    assert images.shape == (count, 3, 4, 1)
    (size,) = recorder.ran
    assert size == min(s for s in buckets.sizes if s >= count)


def test_what_cannot_be_recorded_is_passed_on() -> None:
    def refuse(size: int) -> Run:
        raise RuntimeError(f"no graph of {size}")

    with pytest.raises(RuntimeError, match="no graph of 4"):
        Buckets(4, refuse)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """torch says that there is a GPU with tensor cores; the model stays on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", iter(range(9)).__next__)
    monkeypatch.setattr(
        torchscript, "load_torchscript", lambda path, _: load_torchscript(path, "cpu")
    )
    save_torchscript(tiny_generator(), tmp_path / "generator.pt")
    return tmp_path


def test_a_gpu_runs_float16_from_recorded_passes(
    pretended_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[tuple[int, int, str, int]] = []

    def pretend(forward: Callable[[Any], Any], count: int, nz: int, device: str, pool: int) -> Run:
        recorded.append((count, nz, device, pool))

        def run(latents: Latents) -> Images:
            assert len(latents) == count
            with torch.inference_mode():
                images: Images = forward(torch.from_numpy(latents)).numpy()
            return images

        return run

    monkeypatch.setattr(torchscript, "capture", pretend)
    settings = Settings(limits=Limits(max_batch_images=4))
    backend = open_backend(pretended_gpu, tiny_card(), settings, 1)
    assert (backend.name, backend.device, backend.precision) == ("torchscript", "cuda:1", "float16")
    assert recorded == [(count, 8, "cuda:1", 0) for count in (4, 2, 1)]  # of one memory pool
    latents = from_seeds(range(3), 8)
    network = load_torchscript(pretended_gpu / "generator.pt", "cpu")
    with torch.inference_mode():
        wanted = to_uint8(network(torch.from_numpy(latents)).numpy())
    assert np.abs(backend(latents).astype(int) - wanted).max() <= 1


def test_a_pass_that_cannot_be_recorded_is_told(
    pretended_gpu: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torchscript, "capture", refuse)
    with caplog.at_level(logging.WARNING):
        torchscript.TorchScriptBackend(
            pretended_gpu / "generator.pt", tiny_card(), Settings(), 0, "float16"
        )
    assert "kernel by kernel: operation not permitted" in caplog.text
