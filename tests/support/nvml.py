"""NVML's answers, which take a GPU."""

from types import SimpleNamespace
from typing import Any

import pynvml


class Nvml:
    """Two cards of which the second is divided (MIG); or a driver that does not answer, or does
    not find the first, or whose first card has no memory of its own."""

    NVMLError = pynvml.NVMLError

    def __init__(
        self, fails: bool = False, first_is_lost: bool = False, first_shares_memory: bool = False
    ) -> None:
        self.fails, self.first_is_lost = fails, first_is_lost
        self.first_shares_memory = first_shares_memory

    def nvmlInit(self) -> None:  # noqa: N802
        if self.fails:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if self.first_is_lost and index == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"GPU {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        if self.first_shares_memory and handle == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(used=(handle + 1) << 30, total=4 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=37)
