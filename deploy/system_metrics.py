"""Processors, memory, disks and GPUs of this machine, as TorchServe wants to be told once a minute.

TorchServe runs it by ``system_metrics_cmd`` of config.properties, in place of its own collector.
That one asks nvidia-smi for the GPUs, by way of nvgpu, which cannot read the answers of drivers
from 610 on and of divided cards (MIG); then TorchServe has no system metrics at all. This one asks
NVML. What a GPU does not tell is left out, and without NVML the rest is told as ever.

The process ids of the workers come on standard input; the memory of each is told after the metrics.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress

import pynvml as nvml
from ts.metrics import system_metrics
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.process_memory_metric import check_process_mem_usage

_MB = 1024 * 1024
_SECOND = 1.0  # of which the processors' use is told: of a moment it is 0 or 100 %


def gpu_metrics() -> list[Metric]:
    """Use and memory of every GPU that the driver has, in its order."""
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:  # no driver, no GPU, or a driver that was replaced and not loaded yet
        return []
    found = []
    for index in range(count):
        device = [Dimension("Level", "Host"), Dimension("device_id", index)]
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError:  # of a card that has fallen off the bus
            continue
        with suppress(nvml.NVMLError):  # of a card whose memory is the host's
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            share = 100 * memory.used / memory.total
            found.append(Metric("GPUMemoryUtilization", share, "percent", device))
            found.append(Metric("GPUMemoryUsed", memory.used / _MB, "MB", device))
        with suppress(nvml.NVMLError):  # of a card that is divided (MIG)
            used = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            found.append(Metric("GPUUtilization", used, "percent", device))
    return found


def main() -> None:
    """Write a line a metric, an empty one, and a line a worker."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    time.sleep(_SECOND)
    system_metrics.system_metrics.extend(gpu_metrics())
    system_metrics.collect_all(system_metrics, 0)
    check_process_mem_usage(sys.stdin)


if __name__ == "__main__":
    main()
