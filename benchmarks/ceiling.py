"""The ceiling: latents, generator, grid and PNG in this process, with no server around them.

Uses the very objects that the worker uses, on a batch that holds as much as the worker's
batches can, and measures the parts as well.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.command import median_ms
from benchmarks.ready import ready
from deploy.lifecycle import ServerError
from handler import latents
from handler.backends.base import generate
from handler.backends.choose import open_backend
from handler.pixels import compose_grid, default_columns
from handler.png import encode
from handler.service import Service, open_service
from handler.settings import Card, Settings
from handler.wire import Headers

_REPEATS = 15  # of each part
_HEADERS = {"Content-Type": "application/json", "Accept": "*/*", "Host": "127.0.0.1:8080"}


class Ceiling:
    """An archive, unpacked in an empty folder, ready to be driven.

    Args:
        network: whether the service runs it, or has its images already.

    Raises:
        ServerError: the archive or this machine cannot do what its settings ask for.
    """

    def __init__(self, archive: Path, folder: Path, network: bool = True) -> None:
        import torch

        gpu_id = 0 if torch.cuda.is_available() else None  # one of them, as a worker has
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        config = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
        self._card = Card.read(folder)
        settings = Settings.from_yaml(config["handler"])
        try:
            self._backend = open_backend(folder, self._card, settings, gpu_id)
        except RuntimeError as error:  # as the worker would say it
            raise ServerError(f"the archive cannot be used here: {error}") from error
        self._small_png = settings.png == "small"
        self._ready = Service(
            ready(self._backend), self._card, settings.limits, small_png=self._small_png
        )
        self._service = open_service(folder, config, gpu_id) if network else self._ready

    @property
    def backend(self) -> str:
        """What runs the network here and in the worker, such as ``onnx float32 on cpu``."""
        return f"{self._backend.name} {self._backend.precision} on {self._backend.device}"

    @property
    def precision(self) -> str:
        """float32, bfloat16 or float16, of ``backend``."""
        return self._backend.precision

    def reply(self, num_images: int) -> bytes:
        """The body of one."""
        (reply,) = self._service.handle(self._batch(num_images)[:1])
        return reply.body

    def images_per_s(self, num_images: int, seconds: float) -> float:
        """Batches of 32 requests (2 of grids) answered one after the other for so long."""
        batch = self._batch(num_images)
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            replies = self._service.handle(batch)
            assert all(reply.status == 200 for reply in replies)
            done += len(replies) * num_images
        return done / (time.perf_counter() - began)

    def parts_ms(self, num_images: int) -> dict[str, float]:
        """Median milliseconds of each part for one such batch, each part on its own.

        ``all but forward`` is the whole service, from bodies to replies, with a backend that has
        its images already; the others do not add up to it, for it encodes in parallel.
        """
        batch, nz = self._batch(num_images), self._card.nz
        seeds = [list(range(seed, seed + num_images)) for seed in range(len(batch))]
        rows = [latents.from_seeds(part, nz) for part in seeds]
        images = [part for part in generate(self._backend, rows, 64) if part is not None]
        columns, padding = default_columns(num_images), 2 if num_images > 1 else 0
        grids = [compose_grid(part, columns, padding, (255, 255, 255)) for part in images]
        steps: dict[str, Callable[[], Any]] = {
            "latents": lambda: latents.from_seeds([s for part in seeds for s in part], nz),
            "forward": lambda: generate(self._backend, rows, 64),
            "grid": lambda: [compose_grid(i, columns, padding, (255, 255, 255)) for i in images],
            "png, one thread": lambda: [encode(grid, "", self._small_png) for grid in grids],
            "all but forward": partial(self._ready.handle, batch, [Headers(_HEADERS)] * len(batch)),
        }
        return {name: median_ms(step, _REPEATS) for name, step in steps.items()}

    def _batch(self, num_images: int) -> list[dict[str, Any]]:
        requests = 32 if num_images == 1 else 2
        body = {"num_images": num_images}
        return [
            {"body": bytearray(json.dumps({"seed": i, **body}), "ascii")} for i in range(requests)
        ]
