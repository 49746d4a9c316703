"""``bentoml serve benchmarks.peers.bentoml:Dcgan``: a batching service and its front.

A batchable method takes one list and gives one list, so the documentation puts a second service
before it for clients that send one request and want one picture.
"""

from typing import Annotated

import bentoml
from pydantic import BaseModel

from benchmarks.peers.model import MAX_BATCH_SIZE, Model, Request


class Body(BaseModel):
    """What the front sends on."""

    seed: int
    num_images: int


# After 100 calls, by default, the front closes its session with this service and the calls that are
# under way with it: many of them were answered 500 under load.
@bentoml.service(runner_connection={"max_requests": 1_000_000_000, "max_age": 86_400.0})
class Generator:
    """Runs the model. BentoML learns from the load how long to wait: there is no delay to set."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE)  # type: ignore[untyped-decorator]
    def generate(self, bodies: list[Body]) -> list[bytes]:
        """One PNG a body."""
        return self.model.pngs([Request(body.seed, body.num_images) for body in bodies])


@bentoml.service
class Dcgan:
    """``{"seed": s, "num_images": n}`` to a PNG."""

    generator = bentoml.depends(Generator)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(
        self, seed: int = 0, num_images: int = 1
    ) -> Annotated[bytes, bentoml.validators.ContentType("image/png")]:
        """One request; the dispatcher of the other service batches it with others."""
        pngs: list[bytes] = await self.generator.to_async.generate(
            [Body(seed=seed, num_images=num_images)]
        )
        return pngs[0]
