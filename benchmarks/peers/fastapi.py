"""``uvicorn benchmarks.peers.fastapi:app``: a route, a model and a micro-batcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.peers.batcher import MicroBatcher
from benchmarks.peers.model import MAX_BATCH_SIZE, MAX_DELAY_S, Model, Request


class Body(BaseModel):
    """What a client sends."""

    seed: int = 0
    num_images: int = 1


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model and run the batcher for as long as the server runs."""
    batcher = MicroBatcher(Model().pngs, MAX_BATCH_SIZE, MAX_DELAY_S)
    app.state.batcher = batcher
    task = asyncio.create_task(batcher.run())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")  # type: ignore[untyped-decorator]
async def predict(body: Body) -> Response:
    """``{"seed": s, "num_images": n}`` to a PNG."""
    png = await app.state.batcher.submit(Request(body.seed, body.num_images))
    return Response(png, media_type="image/png")
