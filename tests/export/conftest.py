"""A tiny Generator, and one export of it for all tests that only look at what was made."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from training.networks import new_generator
from training.weights import save_generator

Export = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_generator(path, new_generator(6, 2, 3, 32).eval(), {"steps": 0})
    return path


def save_directions(path: Path, weights: Path, **changes: Any) -> Path:
    """A directions.safetensors of these weights, of two directions, but for ``changes``."""
    steps = {"glasses": np.arange(6, dtype="f4") / 7, "age": -np.ones(6, np.float32)}
    facts = {"kind": "learned", "range": [-3, 3.5], "success": 0.9}
    metadata = {
        "format": "dcgan-directions-1",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "directions": json.dumps(dict.fromkeys(steps, facts)),
    }
    save_file(changes.pop("steps", steps), path, metadata | changes)
    return path


@pytest.fixture(scope="session")
def run_export(weights: Path) -> Export:
    """As a command: within one process TorchScript numbers its classes on and on."""

    def run(out: Path, *flags: str, **environment: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "export", "--weights", str(weights), "--out", str(out)]
        done = subprocess.run(
            [*command, *flags],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **environment},
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run


@pytest.fixture(scope="session")
def exported(run_export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export with its models."""
    folder = tmp_path_factory.mktemp("exported") / "new"
    run_export(folder, "--keep-models")
    return folder
