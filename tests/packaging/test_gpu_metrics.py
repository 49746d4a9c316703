"""What TorchServe's system metrics import on a host with a GPU: without it all of them vanish."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pynvml
import yaml
from ts.metrics import system_metrics

from deploy.server import ROOT


def test_the_imports_for_a_gpu_succeed() -> None:
    """What nvidia-smi and NVML say without a GPU is another matter."""
    without_a_gpu = (FileNotFoundError, subprocess.CalledProcessError, pynvml.NVMLError)
    with contextlib.suppress(*without_a_gpu):
        system_metrics.collect_all(system_metrics, 1)
    assert "nvgpu.list_gpus" in sys.modules
    # TorchServe catches it by this name.
    assert issubclass(pynvml.nvml.NVMLError_NotSupported, pynvml.NVMLError)


def test_the_gpu_image_has_them() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.gpu.yml").read_text(encoding="utf-8"))
    given = compose["services"]["torchserve"]["build"]["args"]["GPU_METRICS"].split()
    assert given == ["nvgpu", "pynvml"]
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in pinned for name in given)
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "\nARG GPU_METRICS=\n" in dockerfile  # the other image goes without
    assert " ${GPU_METRICS} " in dockerfile
