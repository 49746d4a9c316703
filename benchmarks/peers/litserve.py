"""``python -m benchmarks.peers.litserve PORT``: the methods that LitServe asks for."""

import sys
from typing import Any

import litserve
import torch
from fastapi import Response

from benchmarks.peers.model import MAX_BATCH_SIZE, MAX_DELAY_S, Model, Request, to_png


class DcganApi(litserve.LitAPI):  # type: ignore[misc]
    """``{"seed": s, "num_images": n}`` to a PNG."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - its signature
        """Called once in the worker."""
        self.model = Model()

    def decode_request(self, request: dict[str, Any]) -> Request:
        """One request's body."""
        return Request(request.get("seed", 0), request.get("num_images", 1))

    def predict(self, batch: list[Request]) -> list[torch.Tensor]:
        """A batch, which LitServe takes apart again."""
        return self.model.generate(batch)

    def encode_response(self, output: torch.Tensor) -> Response:
        """One request's images."""
        return Response(to_png(output), media_type="image/png")


if __name__ == "__main__":
    api = DcganApi(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_DELAY_S)
    server = litserve.LitServer(api, accelerator="auto")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
