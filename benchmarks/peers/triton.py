"""``python -m benchmarks.peers.triton PORT``: Triton through PyTriton.

Clients speak Triton's own protocol (KServe v2), JSON in and binary out.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.model import MAX_BATCH_SIZE, MAX_DELAY_S, Model, Request

model = Model()


@batch  # type: ignore[untyped-decorator]
def infer(seed: npt.NDArray[np.int64], num_images: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Seeds and counts, int64 (B, 1), to PNGs, bytes (B, 1)."""
    requests = [Request(int(s), int(n)) for s, n in zip(seed[:, 0], num_images[:, 0], strict=True)]
    return {"png": np.array([[png] for png in model.pngs(requests)], dtype=object)}


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1", http_port=int(sys.argv[1]), allow_grpc=False, allow_metrics=False
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="dcgan",
            infer_func=infer,
            inputs=[
                Tensor(name="seed", dtype=np.int64, shape=(1,)),
                Tensor(name="num_images", dtype=np.int64, shape=(1,)),
            ],
            outputs=[Tensor(name="png", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_SIZE,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(1e6 * MAX_DELAY_S)),
            ),
        )
        triton.serve()
