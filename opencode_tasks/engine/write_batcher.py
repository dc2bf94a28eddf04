"""WriteBatcher: groups ledger writes that arrive at the same time into one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_GROUP = 256


class WriteBatcher(Generic[Item, Result]):
    """Calls ``write`` for groups of items. While one group is written, the next one gathers.

    ``write`` takes the items in order and returns a result for each. It runs in a thread. An item that
    arrives alone is written at once, or after the delay that it allows. If ``write`` fails for a group,
    it is called again for each item alone, so that one item that cannot be written does not fail the
    others: ``write`` must be repeatable. An error of the type ``concerns_all`` concerns every item of the
    group. For use on one event loop.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        concerns_all: type[Exception] | tuple[()] = (),
    ) -> None:
        self._write = write
        self._concerns_all = concerns_all
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def __call__(self, item: Item, *, max_delay_s: float = 0.0) -> Result:
        """Write an item and return its result. Raises the error of ``write`` for this item."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(max_delay_s))
        return await future

    async def _write_all(self, max_delay_s: float) -> None:
        try:
            await asyncio.sleep(max_delay_s)
            while self._waiting:
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                await self._write_group(group)
        finally:
            self._writer = None

    async def _write_group(self, group: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await asyncio.to_thread(self._write, [item for item, _ in group])
        except Exception as error:  # noqa: BLE001  raised where the items were given
            if len(group) > 1 and not isinstance(error, self._concerns_all):
                for one in group:
                    await self._write_group([one])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)
