"""Calls that come at once, made as one: while a group is under way, the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Told = TypeVar("Told")

MAX_AT_ONCE = 256


class WriteBatcher(Generic[Asked, Told]):
    """``work`` takes what was asked, in order, and tells each its part; it runs off the loop.

    A call that comes alone is made at once, or after the time that it can wait for others. Where
    ``work`` fails for a group it is called again for each by itself, so that one that cannot be done
    does not take the others with it: it must be repeatable. On one event loop only.
    """

    def __init__(self, work: Callable[[Sequence[Asked]], Sequence[Told]]) -> None:
        self._work = work
        self._asked: list[tuple[Asked, asyncio.Future[Told]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked, *, max_delay_s: float = 0.0) -> Told:
        """What ``work`` tells for this; its error is raised here."""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._asked.append((asked, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(max_delay_s))
        return await future

    async def _run(self, max_delay_s: float) -> None:
        try:
            await asyncio.sleep(max_delay_s)
            while self._asked:
                group, self._asked = self._asked[:MAX_AT_ONCE], self._asked[MAX_AT_ONCE:]
                await self._make(group)
        finally:
            self._runner = None

    async def _make(self, group: Sequence[tuple[Asked, asyncio.Future[Told]]]) -> None:
        try:
            told = await asyncio.to_thread(self._work, [asked for asked, _ in group])
        except Exception as error:  # noqa: BLE001  whoever asked is told
            if len(group) > 1:
                for one in group:
                    await self._make([one])
            elif not group[0][1].done():
                group[0][1].set_exception(error)
            return
        for (_, future), part in zip(group, told, strict=True):
            if not future.done():
                future.set_result(part)
