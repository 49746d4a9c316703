"""The usual micro-batcher of an asyncio server: a queue, a short wait, one call for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Gathers what is submitted at about the same time; the first waits ``max_delay_s`` for others.

    ``work`` makes items to as many results, in the same order, in a thread.
    """

    def __init__(
        self, work: Callable[[list[Item]], list[Result]], max_batch_size: int, max_delay_s: float
    ) -> None:
        self._work, self._max_batch_size, self._max_delay_s = work, max_batch_size, max_delay_s
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue()

    async def submit(self, item: Item) -> Result:
        """The item's result.

        Raises:
            Exception: what ``work`` raised; all items of that batch get it.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, future))
        return await future

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        while True:
            batch = await self._gather()
            try:
                results = await asyncio.to_thread(self._work, [item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():  # its client may have gone
                    future.set_result(result)

    async def _gather(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch = [await self._queue.get()]
        try:
            async with asyncio.timeout(self._max_delay_s):
                while len(batch) < self._max_batch_size:
                    batch.append(await self._queue.get())
        except TimeoutError:
            pass
        return batch
