"""The model files: the same pictures from each, for every shape of noise that is one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export.models import export_onnx, export_torchscript, fold_batchnorm
from export.verify import verify
from handler.backends.torchscript import load_torchscript
from training.networks import Generator, new_generator
from training.weights import load_generator, recalibrate, save_generator


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    made = new_generator(nz=8, ngf=4, channels=3, image_size=32)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics and gains far from 0 and 1
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.1, 4.0)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return made.eval()


@torch.no_grad()
def test_the_same_pictures(generator: Generator) -> None:
    latents = torch.randn(5, 8)
    before = generator(latents)
    torch.testing.assert_close(fold_batchnorm(generator)(latents), before, rtol=0, atol=2e-6)
    assert torch.equal(generator(latents), before)  # the original is left alone


def test_onnx_asks_for_no_more_than_it_needs(exported: Path) -> None:
    model = onnx.load(exported / "generator.onnx")
    (opset,) = (entry.version for entry in model.opset_import)
    assert (opset, model.ir_version) == (14, 7)
    for node in model.graph.node:
        newest = onnx.defs.get_schema(node.op_type, 18)
        assert onnx.defs.get_schema(node.op_type, opset).since_version == newest.since_version


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((1, 6), True), ((5, 6), True), ((4, 3), False), ((1, 12), False), ((2, 6, 2, 2), False),
     ((2, 6, 1, 1), False), ((2, 3, 2), False), ((6,), False), ((), False)],
)  # fmt: skip
def test_both_files_take_the_same_shapes(
    exported: Path, shape: tuple[int, ...], taken: bool
) -> None:
    noise = np.zeros(shape, np.float32)
    script = load_torchscript(exported / "generator.pt")
    session = onnxruntime.InferenceSession(exported / "generator.onnx")
    runs: list[Callable[[], Any]] = [
        lambda: script(torch.from_numpy(noise)),
        lambda: session.run(None, {"noise": noise})[0],
    ]
    for run in runs:
        if taken:
            assert tuple(run().shape) == (len(noise), 3, 32, 32)
        else:
            with pytest.raises(Exception, match=r"(?i)dimension|channels|rank|expected"):
                run()


def test_uniform_latents_are_made_of_normal_ones(tmp_path: Path) -> None:
    """A Generator trained on uniform latents is exported so that N(0, 1) is still what it takes."""
    torch.manual_seed(0)
    path = tmp_path / "generator.safetensors"
    save_generator(path, recalibrate(new_generator(6, 4, 3, 32, "uniform"), 256), {"steps": 0})
    generator, info = load_generator(path)
    assert (info.latent, generator.latent) == ("uniform", "uniform")
    files = tmp_path / "generator.pt", tmp_path / "generator.onnx"
    folded = fold_batchnorm(generator)
    export_torchscript(folded, files[0])
    export_onnx(folded, files[1])
    verify(generator, *files)
    normal = torch.randn(3, 6)
    with torch.no_grad():
        wanted = generator(normal)
        without = generator.layers[1:](normal.view(3, 6, 1, 1))
        script = load_torchscript(files[0])(normal)
    (image,) = onnxruntime.InferenceSession(files[1]).run(None, {"noise": normal.numpy()})
    np.testing.assert_allclose(image, wanted.numpy(), atol=1e-4)
    np.testing.assert_allclose(script.numpy(), wanted.numpy(), atol=1e-4)
    assert (wanted - without).abs().max() > 0.01  # the map makes a difference


@pytest.mark.parametrize("write", [export_torchscript, export_onnx])
def test_a_network_in_train_mode_is_refused(
    generator: Generator, tmp_path: Path, write: Callable[[Generator, Path], Any]
) -> None:
    with pytest.raises(ValueError, match=r"call eval\(\)"):
        write(generator.train(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
