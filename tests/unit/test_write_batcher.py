"""Items that arrive at the same time are written in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from opencode_tasks.engine.write_batcher import MAX_GROUP, WriteBatcher


def doubling() -> tuple[list[int], Callable[[Sequence[int]], list[int]]]:
    """A write function for groups, and the sizes of the groups that it got."""
    groups: list[int] = []

    def double(items: Sequence[int]) -> list[int]:
        groups.append(len(items))
        return [2 * number for number in items]

    return groups, double


def test_items_that_arrive_during_a_write_form_the_next_group() -> None:
    groups, double = doubling()

    async def ask() -> list[int]:
        grouped = WriteBatcher(double)
        return await asyncio.gather(*(grouped(number) for number in range(MAX_GROUP + 5)))

    assert asyncio.run(ask()) == [2 * number for number in range(MAX_GROUP + 5)]
    assert groups == [MAX_GROUP, 5]


def test_an_item_that_can_wait_is_written_with_later_items() -> None:
    groups, double = doubling()

    async def ask() -> list[int]:
        grouped = WriteBatcher(double)
        first = asyncio.create_task(grouped(1, max_delay_s=0.5))
        await asyncio.sleep(0.05)
        assert groups == []
        return [*await asyncio.gather(grouped(2), grouped(3)), await first]

    assert asyncio.run(ask()) == [4, 6, 2]
    assert groups == [3]


def test_an_item_that_fails_does_not_fail_the_others() -> None:
    calls: list[list[int]] = []

    def divide(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        return [12 // number for number in items]

    async def ask() -> list[int | BaseException]:
        grouped = WriteBatcher(divide)
        return await asyncio.gather(*(grouped(number) for number in (1, 0, 3)), return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert (first, third) == (12, 4)
    assert isinstance(second, ZeroDivisionError)
    assert calls == [[1, 0, 3], [1], [0], [3]]


def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    def add_one(items: Sequence[int]) -> list[int]:
        return [number + 1 for number in items]

    async def ask() -> int:
        grouped = WriteBatcher(add_one)
        left = asyncio.create_task(grouped(1))
        stays = asyncio.create_task(grouped(2))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        return await stays

    assert asyncio.run(ask()) == 3
