"""Which backend and arithmetic a worker takes, on hardware that this machine need not have."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import pytest
import torch

from export.fold import fold_batchnorm
from export.onnx import export_onnx
from handler import backends
from handler.backends.choice import Hardware, choose
from handler.settings import Card, Limits, Settings
from training.networks import new_generator

PLAIN = Hardware(gpu=False, gpu_float16=False, cpu_bfloat16=False)
AMX = Hardware(gpu=False, gpu_float16=False, cpu_bfloat16=True)
OLD_GPU = Hardware(gpu=True, gpu_float16=False, cpu_bfloat16=True)
GPU = Hardware(gpu=True, gpu_float16=True, cpu_bfloat16=True)


@pytest.mark.parametrize(
    ("hardware", "settings", "wanted"),
    [
        (PLAIN, {}, ("onnx", "float32")),
        (AMX, {}, ("packed", "bfloat16")),
        (OLD_GPU, {}, ("torchscript", "float32")),
        (GPU, {}, ("torchscript", "float16")),
        (AMX, {"precision": "float32"}, ("onnx", "float32")),
        (GPU, {"precision": "float32"}, ("torchscript", "float32")),
        (GPU, {"precision": "bfloat16"}, ("torchscript", "bfloat16")),
        (PLAIN, {"precision": "bfloat16"}, ("torchscript", "bfloat16")),
        (PLAIN, {"precision": "float16"}, ("torchscript", "float16")),
        (GPU, {"backend": "onnx"}, ("onnx", "float32")),
        (AMX, {"backend": "onnx"}, ("onnx", "float32")),
        (AMX, {"backend": "torchscript"}, ("torchscript", "bfloat16")),
        (PLAIN, {"backend": "packed"}, ("packed", "float32")),
        (AMX, {"backend": "packed", "precision": "float32"}, ("packed", "float32")),
    ],
)
def test_choice(hardware: Hardware, settings: dict[str, str], wanted: tuple[str, str]) -> None:
    assert choose(Settings.from_yaml(settings), hardware) == wanted


@pytest.mark.parametrize(
    ("hardware", "settings"),
    [
        (PLAIN, {"backend": "onnx", "precision": "bfloat16"}),
        (AMX, {"backend": "packed", "precision": "float16"}),
        (GPU, {"backend": "packed"}),
    ],
)
def test_pairs_that_do_not_exist(hardware: Hardware, settings: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="use backend: torchscript"):
        choose(Settings.from_yaml(settings), hardware)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    facts = {"model": "dcgan", "version": "1", "weights_sha256": "0", "nz": 8, "image_size": 32,
             "channels": 3}  # fmt: skip
    network = fold_batchnorm(new_generator(8, 8, 3, 32).eval())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(2, 8)).save(str(tmp_path / "generator.pt"))
    export_onnx(network, tmp_path / "generator.onnx")
    (tmp_path / "card.json").write_text(json.dumps(facts))
    return tmp_path


def test_onnx_takes_over_where_the_packed_network_cannot_run(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A processor that says it has bfloat16, and oneDNN that says no."""
    monkeypatch.setattr(backends, "probe", lambda _: AMX)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    limits = Limits(max_batch_images=4)
    with caplog.at_level(logging.WARNING):
        backend = backends.open_backend(
            model_dir, Card.read(model_dir), Settings(limits=limits), None
        )
    assert (backend.name, backend.precision) == ("onnx", "float32")
    assert "no bfloat16 on this processor" in caplog.text
    with pytest.raises(RuntimeError, match="no bfloat16"):  # asked for by name: no surprise
        backends.open_backend(
            model_dir, Card.read(model_dir), Settings(backend="packed", limits=limits), None
        )


@pytest.mark.parametrize("missing", ["_is_mkldnn_bf16_supported", "_reorder_convolution_weight"])
def test_another_backend_takes_over_in_a_torch_without_the_operators(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """In the precision that was asked for by name, where one was."""

    def gone(*_: object) -> None:
        raise AttributeError(f"mkldnn has no {missing}")

    monkeypatch.setattr(backends, "probe", lambda _: AMX)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, missing, gone)
    card, limits = Card.read(model_dir), Limits(max_batch_images=4)
    for precision, wanted in (("auto", ("onnx", "float32")),
                              ("bfloat16", ("torchscript", "bfloat16"))):  # fmt: skip
        settings = Settings(precision=precision, limits=limits)
        backend = backends.open_backend(model_dir, card, settings, None)
        assert (backend.name, backend.precision) == wanted


def test_a_missing_gpu_is_not_hidden_by_the_packed_network(model_dir: Path) -> None:
    card, limits = Card.read(model_dir), Limits(max_batch_images=4)
    with pytest.raises(RuntimeError, match="allow_cpu_fallback"):
        backends.open_backend(model_dir, card, Settings(backend="packed", limits=limits), 0)
    settings = Settings(
        backend="packed", precision="float32", allow_cpu_fallback=True, limits=limits
    )
    assert backends.open_backend(model_dir, card, settings, 0).fallback is True
