"""A Generator trained on uniform latents is exported so that N(0, 1) is still what it takes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training.networks import new_generator
from training.weights import load_generator, recalibrate, save_generator


def test_both_artefacts_map_normal_latents(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "generator.safetensors"
    save_generator(path, recalibrate(new_generator(6, 4, 3, 32, "uniform"), 256), {"steps": 0})
    generator, info = load_generator(path)
    assert (info.latent, generator.latent) == ("uniform", "uniform")
    command = [sys.executable, "-m", "export", "--weights", str(path), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # the parity of all batch sizes was checked
    assert json.loads(done.stdout)["sha256"]
    normal = torch.randn(3, 6)
    with torch.no_grad():
        wanted = generator(normal)
        without = generator.layers[1:](normal.view(3, 6, 1, 1))
    with zipfile.ZipFile(tmp_path / "dcgan.mar") as archive:
        script = torch.jit.load(io.BytesIO(archive.read("generator.pt")))
        session = onnxruntime.InferenceSession(archive.read("generator.onnx"))
    (image,) = session.run(None, {"noise": normal.numpy()})
    np.testing.assert_allclose(image, wanted.numpy(), atol=1e-4)
    np.testing.assert_allclose(script(normal).detach().numpy(), wanted.numpy(), atol=1e-4)
    assert (wanted - without).abs().max() > 0.01  # the map makes a difference


def test_weights_from_before_the_choice_are_normal(tmp_path: Path) -> None:

    path = tmp_path / "generator.safetensors"
    save_generator(path, new_generator(6, 2, 3, 32), {})
    with safe_open(path, "pt") as opened:
        metadata = json.loads(opened.metadata()["dcgan"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del metadata["latent"]
    save_file(tensors, path, {"dcgan": json.dumps(metadata)})
    assert load_generator(path)[1].latent == "normal"
