"""Which backend a worker takes, on hardware that this machine need not have; and all of them on
tiny networks: pixels, sameness, and one clear sentence when they fail.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from ts.context import Context
from ts.utils.util import list_classes_from_module

from handler.backends import choose as choose_module
from handler.backends import onnx
from handler.backends.base import Backend
from handler.backends.choose import choose, open_backend
from handler.dcgan_handler import DcganHandler
from handler.latents import Latents, from_seeds
from handler.settings import Limits, Settings
from tests.support.tiny_models import NZ, right, tiny_card, unpacked

SMALL = Limits(max_batch_images=4)


class Loud(nn.Module):
    """Makes the last bit of the network's floats visible in the pixels."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator, self.nz = generator, NZ

    def forward(self, noise: Tensor) -> Tensor:
        return torch.sin(self.generator(noise) * 1e9)


@pytest.fixture(scope="module", params=["torchscript", "onnx", "packed"])
def backend(request: pytest.FixtureRequest, model_dir: Path) -> Backend:
    settings = Settings(backend=request.param, precision="float32", threads=2, limits=SMALL)
    return open_backend(model_dir, tiny_card(), settings, None)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pixels_are_those_of_the_network(
    backend: Backend, generator: nn.Module, count: int
) -> None:
    latents = from_seeds(range(count), NZ)
    wanted = right(generator, latents)
    images = backend(latents)
    assert (images.dtype, images.shape) == (np.uint8, (count, *backend.image_shape))
    assert (backend.device, backend.nz, backend.image_shape) == ("cpu", NZ, (32, 32, 3))
    assert backend.warnings == {}
    assert np.abs(images - wanted).max() <= 1
    assert wanted.std() > 0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_precision(
    model_dir: Path, generator: nn.Module, precision: Literal["bfloat16", "float16"]
) -> None:
    settings = Settings(backend="torchscript", precision=precision, limits=SMALL)
    short = open_backend(model_dir, tiny_card(), settings, None)
    assert (short.name, short.precision) == ("torchscript", precision)
    latents = from_seeds(range(5), NZ)
    difference = np.abs(short(latents) - right(generator, latents))
    assert 0 < difference.max() <= 8  # another arithmetic, the same picture


@pytest.fixture(scope="module")
def loud_dir(generator: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(Loud(generator).eval(), tmp_path_factory.mktemp("loud"))


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_an_image_has_the_same_bits_in_any_batch(
    loud_dir: Path, name: Literal["torchscript", "onnx"], threads: int
) -> None:
    """With more than one thread a pass, TorchScript differs by 1e-9 in odd batches."""
    settings = Settings(backend=name, precision="float32", threads=threads)
    loud = open_backend(loud_dir, tiny_card(), settings, None)
    latents = from_seeds(range(64), NZ)
    alone = np.concatenate([loud(latents[i : i + 1]) for i in range(64)])
    for count in (2, 3, 5, 7, 16, 33, 64):
        assert np.array_equal(loud(latents[:count]), alone[:count]), count
        assert np.array_equal(loud(latents[-count:][::-1].copy()), alone[-count:][::-1]), count


def test_several_threads_share_an_image_only_if_its_bits_stay(
    loud_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, passes = onnx._network, []

    def another(path: Path, threads: int) -> Callable[[Latents], npt.NDArray[np.float32]]:
        run = network(path, threads)

        def noted(latents: Latents) -> npt.NDArray[np.float32]:
            passes.append((threads, len(latents)))
            return run(latents) + np.float32(1e-7 * (threads > 1) * (not bits_stay))

        return noted

    monkeypatch.setattr(onnx, "_network", another)
    settings = Settings(backend="onnx", threads=2)
    for bits_stay in (True, False):
        backend = onnx.OnnxBackend(loud_dir / "generator.onnx", tiny_card(), settings)
        passes.clear()
        backend(from_seeds([1], NZ))
        backend(from_seeds([1, 2], NZ))
        assert passes == [(2 if bits_stay else 1, 1), (1, 1), (1, 1)]


def test_the_entry_loads_an_archive(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/somewhere/else", *sys.path])
    config = {"batchSize": 8, "handler": {"backend": "onnx", "limits": {"max_images": 5}}}
    context = Context("dcgan", str(model_dir), None, 8, None, "0.12.0", model_yaml_config=config)
    entry = DcganHandler()
    entry.initialize(context)
    assert sys.path[0] == str(model_dir)  # before any other package called handler
    described = entry.service.describe()
    assert (described["backend"], described["limits"]["max_images"]) == ("onnx", 5)
    assert list_classes_from_module(sys.modules[DcganHandler.__module__]) == [DcganHandler]


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_missing_or_broken_file_is_named(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    file = {"torchscript": "generator.pt", "onnx": "generator.onnx"}[name]
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(RuntimeError, match=file):
        open_backend(tmp_path, tiny_card(), Settings(backend=name), None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("name", ["auto", "torch_gpu", "torchscript", "onnx", "packed"])
def test_a_gpu_that_is_not_there(
    model_dir: Path, name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    card = tiny_card()
    settings = Settings(backend=name, precision="float32", limits=SMALL)
    with pytest.raises(RuntimeError, match=r"GPU 0, but .*driver.*number_of_gpu=0") as caught:
        open_backend(model_dir, card, settings, 0)
    assert "allow_cpu_fallback" in str(caught.value)
    assert "CUDA" not in str(caught.value)  # TorchServe would report a lack of memory
    allowed = settings.model_copy(update={"allow_cpu_fallback": True})
    fallen = open_backend(model_dir, card, allowed, 0)
    assert fallen.device == "cpu"
    assert fallen.name == ("onnx" if name in ("auto", "torch_gpu") else name)
    assert fallen.warnings["fallback"] in caplog.text
    assert "GPU 0, but" in fallen.warnings["fallback"]


def test_the_backend_for_gpus_without_one(model_dir: Path) -> None:
    """TorchServe gives none to a worker where nvidia-smi is missing."""
    settings = Settings(backend="torch_gpu", limits=SMALL)
    with pytest.raises(RuntimeError, match=r"given this worker no GPU.*allow_cpu_fallback"):
        open_backend(model_dir, tiny_card(), settings, None)
    allowed = settings.model_copy(update={"allow_cpu_fallback": True})
    assert "no GPU" in open_backend(model_dir, tiny_card(), allowed, None).warnings["fallback"]


def test_a_card_of_another_model(model_dir: Path) -> None:
    card = tiny_card(image_size=64)
    with pytest.raises(RuntimeError, match="card"):
        open_backend(model_dir, card, Settings(), None)


# On a GPU, with units for short floats.
PLAIN, AMX, OLD_GPU, GPU = (False, False), (False, True), (True, False), (True, True)


@pytest.mark.parametrize(
    ("hardware", "settings", "wanted"),
    [
        (PLAIN, {}, ("onnx", "float32")),
        (AMX, {}, ("packed", "bfloat16")),
        (OLD_GPU, {}, ("torch_gpu", "float32")),
        (GPU, {}, ("torch_gpu", "float16")),
        (AMX, {"precision": "float32"}, ("onnx", "float32")),
        (GPU, {"precision": "float32"}, ("torch_gpu", "float32")),
        (GPU, {"precision": "bfloat16"}, ("torch_gpu", "bfloat16")),
        (GPU, {"backend": "torch_gpu"}, ("torch_gpu", "float16")),
        (PLAIN, {"precision": "bfloat16"}, ("torchscript", "bfloat16")),
        (PLAIN, {"precision": "float16"}, ("torchscript", "float16")),
        (AMX, {"backend": "onnx"}, ("onnx", "float32")),
        (AMX, {"backend": "torchscript"}, ("torchscript", "bfloat16")),
        (PLAIN, {"backend": "packed"}, ("packed", "float32")),
        (AMX, {"backend": "packed", "precision": "float32"}, ("packed", "float32")),
    ],
)
def test_choice(
    hardware: tuple[bool, bool], settings: dict[str, str], wanted: tuple[str, str]
) -> None:
    assert choose(Settings.from_yaml(settings), *hardware) == wanted


@pytest.mark.parametrize(
    ("hardware", "settings", "wanted"),
    [
        (PLAIN, {"backend": "onnx", "precision": "bfloat16"}, "use backend: torchscript"),
        (AMX, {"backend": "packed", "precision": "float16"}, "use backend: torchscript"),
        (GPU, {"backend": "packed"}, "is for CPUs.*use backend: auto.*number_of_gpu=0"),
        (GPU, {"backend": "onnx"}, "is for CPUs.*use backend: auto.*number_of_gpu=0"),
        (GPU, {"backend": "torchscript"}, "is for CPUs.*use backend: auto.*number_of_gpu=0"),
    ],
)
def test_pairs_that_do_not_exist(
    hardware: tuple[bool, bool], settings: dict[str, str], wanted: str
) -> None:
    with pytest.raises(RuntimeError, match=wanted):
        choose(Settings.from_yaml(settings), *hardware)


def test_onnx_takes_over_where_the_packed_network_cannot_run(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A processor that says it has bfloat16, and oneDNN that says no."""
    monkeypatch.setattr(choose_module, "has_short_floats", lambda _: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with caplog.at_level(logging.WARNING):
        backend = open_backend(model_dir, tiny_card(), Settings(limits=SMALL), None)
    assert (backend.name, backend.precision) == ("onnx", "float32")
    assert "no bfloat16 on this processor" in caplog.text
    with pytest.raises(RuntimeError, match="no bfloat16"):  # asked for by name: no surprise
        open_backend(model_dir, tiny_card(), Settings(backend="packed", limits=SMALL), None)


@pytest.mark.parametrize("missing", ["_is_mkldnn_bf16_supported", "_reorder_convolution_weight"])
def test_another_backend_takes_over_in_a_torch_without_the_operators(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """In the precision that was asked for by name, where one was."""

    def gone(*_: object) -> None:
        raise AttributeError(f"mkldnn has no {missing}")

    monkeypatch.setattr(choose_module, "has_short_floats", lambda _: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, missing, gone)
    card = tiny_card()
    for precision, wanted in (
        ("auto", ("onnx", "float32")),
        ("bfloat16", ("torchscript", "bfloat16")),
    ):
        settings = Settings(precision=precision, limits=SMALL)
        backend = open_backend(model_dir, card, settings, None)
        assert (backend.name, backend.precision) == wanted
