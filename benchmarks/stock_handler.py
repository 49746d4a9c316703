"""A handler as TorchServe's documentation teaches it: what ours is measured against.

BaseHandler loads the TorchScript file and runs it in float32; torchvision's save_image makes
the PNG. One class and no imports of this project, for TorchServe loads the file alone.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import torch
from torchvision.utils import save_image
from ts.torch_handler.base_handler import BaseHandler


class StockHandler(BaseHandler):  # type: ignore[misc]
    """``{"seed": s, "num_images": n}`` to a PNG grid of n images."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Latents of all requests, float32 (sum n, 100)."""
        self.counts, noise = [], []
        for row in data:
            body = row.get("data") or row.get("body") or {}
            count = body.get("num_images", 1)
            generator = torch.Generator().manual_seed(body.get("seed", 0))
            noise.append(torch.randn(count, 100, generator=generator))
            self.counts.append(count)
        return torch.cat(noise).to(self.device)

    def postprocess(self, data: torch.Tensor) -> list[bytes]:
        """One PNG a request, of images float32 (sum n, 3, 64, 64) in [-1, 1]."""
        replies = []
        for images in data.cpu().split(self.counts):
            buffer = BytesIO()
            save_image(images, buffer, format="png", normalize=True, value_range=(-1, 1))
            replies.append(buffer.getvalue())
        return replies
