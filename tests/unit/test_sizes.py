"""How many batches, of what size, with how many rows in flight."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.plan.sizes import (
    LOCAL_MODEL_CONCURRENCY,
    MAX_BATCH,
    MAX_CONCURRENCY,
    ROWS_PER_SERVER,
    Sizes,
    choose_sizes,
)


def sizes(rows: int = 1000, **changes: Any) -> Sizes:
    usual: dict[str, Any] = {
        "lanes": 4,
        "batch_size": None,
        "concurrency": None,
        "backend": "server",
        "model_ref": "p/m",
        "one_owner": False,
        "most": 10_000,
        "most_processes": 100,
    }
    return choose_sizes(rows=rows, **(usual | changes))


@pytest.mark.parametrize(
    ("changes", "lanes", "per_batch"),
    [
        ({}, 4, MAX_CONCURRENCY // 4),
        ({"lanes": 1}, 1, MAX_CONCURRENCY),
        # A second server must earn its start.
        ({"rows": 1}, 1, 1),
        ({"most": 3, "lanes": 1}, 1, 3),
        ({"one_owner": True, "backend": "cli"}, 1, 1),
        ({"rows": ROWS_PER_SERVER}, 1, MAX_CONCURRENCY),
        ({"rows": ROWS_PER_SERVER + 1}, 2, MAX_CONCURRENCY // 2),
        ({"one_owner": True}, 1, MAX_CONCURRENCY),
        ({"concurrency": 2}, 2, 1),
        ({"concurrency": 40}, 4, 10),
        ({"concurrency": 1}, 1, 1),
        ({"model_ref": "local/smollm2"}, 4, LOCAL_MODEL_CONCURRENCY // 4),
        ({"model_ref": "local/smollm2", "rows": 5}, 1, LOCAL_MODEL_CONCURRENCY),
        ({"model_ref": "locals/m"}, 4, MAX_CONCURRENCY // 4),
        ({"backend": "cli"}, 4, 1),
        ({"backend": "cli", "lanes": 2}, 2, 1),
        ({"rows": 10, "batch_size": 5}, 2, 5),
        # A server needs its memory.
        ({"most_processes": 2}, 2, MAX_CONCURRENCY // 2),
        ({"most_processes": 0}, 1, MAX_CONCURRENCY),
        ({"most_processes": 2, "backend": "cli"}, 2, 1),
    ],
)
def test_lanes_and_what_each_carries(changes: dict[str, Any], lanes: int, per_batch: int) -> None:
    found = sizes(**changes)
    assert (found.lanes, found.concurrency_per_batch) == (lanes, per_batch)


def test_what_the_user_set_is_kept() -> None:
    found = sizes(batch_size=7, concurrency=12)
    assert (found.batch_size, found.concurrency) == (7, 12)


def test_no_more_rows_are_in_flight_than_there_are() -> None:
    assert sizes(rows=3).concurrency == 3


counts = st.integers(1, 100_000)


@given(
    counts,
    st.integers(1, 64),
    st.none() | st.integers(1, 500),
    st.none() | st.integers(1, 500),
    st.sampled_from(["server", "cli"]),
    st.booleans(),
)
def test_sizes_are_usable(
    rows: int, lanes: int, batch_size: int | None, concurrency: int | None, backend: str, one_owner: bool
) -> None:
    found = sizes(
        rows,
        lanes=lanes,
        batch_size=batch_size,
        concurrency=concurrency,
        backend=backend,
        one_owner=one_owner,
    )
    assert 1 <= found.lanes <= (1 if one_owner else lanes)
    assert found.batch_size == batch_size or 1 <= found.batch_size <= min(MAX_BATCH, rows)
    assert found.concurrency_per_batch >= 1
    assert 1 <= found.concurrency <= rows
    if concurrency is not None:
        assert found.concurrency <= concurrency
