"""What a program may use of the machine, and how its failures are told apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.hardware import cpu_has_bfloat16, is_lost, is_out_of_memory, processors


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_processors_keep_to_the_quota_of_a_container(
    files: dict[str, str], wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == wanted


def test_short_floats_of_this_machine() -> None:
    words = Path("/proc/cpuinfo").read_text().split()
    assert cpu_has_bfloat16() == ("amx_bf16" in words or "avx512_bf16" in words)


def test_a_torch_that_cannot_tell_is_named_and_has_no_unit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new name in torch must not make serving slow without a word."""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert cpu_has_bfloat16() is False
    assert f"torch {torch.__version__} does not tell" in caplog.text


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_a_real_lack_of_memory_is_known(allocate: Any) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(2**55)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Non-zero status code returned while running ConvTranspose node. "
            "BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
            "Failed to allocate memory for requested buffer of size 262144000",
            True,
        ),
        ("CUDA failure 2: out of memory ; GPU=0", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("std::bad_alloc", True),
        ("could not create a primitive", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("Expected 4-dimensional input", False),
    ],
)
def test_texts_that_tell_of_memory(text: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), True),
        (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), False),
        (
            torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
            False,
        ),
        (
            torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            ),
            False,
        ),
        (RuntimeError("Expected 4-dimensional input"), False),
        (ValueError("a client's words: CUDA error"), False),
    ],
)
def test_a_lost_gpu(error: Exception, expected: bool) -> None:
    assert is_lost(error) is expected
