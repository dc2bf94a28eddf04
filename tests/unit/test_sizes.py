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
        "cpus": 4,
        "shares_process": True,
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
    ("changes", "units", "in_flight"),
    [
        ({}, 4, MAX_CONCURRENCY),
        ({"cpus": 1}, 1, MAX_CONCURRENCY),
        # A second server must earn its start.
        ({"rows": 1}, 1, 1),
        ({"most": 3, "cpus": 1}, 1, 3),
        ({"one_owner": True, "backend": "cli"}, 1, 1),
        ({"rows": ROWS_PER_SERVER}, 1, MAX_CONCURRENCY),
        ({"rows": ROWS_PER_SERVER + 1}, 2, MAX_CONCURRENCY),
        ({"one_owner": True}, 1, MAX_CONCURRENCY),
        ({"concurrency": 2}, 2, 2),
        ({"concurrency": 40}, 4, 40),
        ({"concurrency": 1}, 1, 1),
        ({"model_ref": "local/smollm2"}, 4, LOCAL_MODEL_CONCURRENCY),
        ({"model_ref": "local/smollm2", "rows": 5}, 1, LOCAL_MODEL_CONCURRENCY),
        ({"model_ref": "locals/m"}, 4, MAX_CONCURRENCY),
        ({"backend": "cli"}, 4, 4),
        ({"backend": "cli", "cpus": 2}, 2, 2),
        # A server needs its memory.
        ({"most_processes": 2}, 2, MAX_CONCURRENCY),
        ({"most_processes": 0}, 1, MAX_CONCURRENCY),
        ({"most_processes": 2, "backend": "cli"}, 2, 2),
    ],
)
def test_one_batch_has_all_servers_of_a_process(changes: dict[str, Any], units: int, in_flight: int) -> None:
    found = sizes(**changes)
    assert (found.batches, found.servers, found.concurrency_per_batch) == (1, units, in_flight)
    # With a process for each batch, as many batches have one server each.
    apart = sizes(**changes, shares_process=False)
    assert (apart.batches, apart.servers, apart.concurrency_per_batch) == (units, 1, in_flight // units)


@pytest.mark.parametrize("shares_process", [True, False])
def test_small_batches_run_at_the_same_time(shares_process: bool) -> None:
    found = sizes(rows=10, batch_size=5, shares_process=shares_process)
    assert (found.batches, found.servers, found.concurrency_per_batch) == (2, 1, 5)
    assert found.concurrency == 10


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
    st.fixed_dictionaries(
        {
            "backend": st.sampled_from(["server", "cli"]),
            "one_owner": st.booleans(),
            "shares_process": st.booleans(),
        }
    ),
)
def test_sizes_are_usable(
    rows: int,
    cpus: int,
    batch_size: int | None,
    concurrency: int | None,
    others: dict[str, Any],
) -> None:
    found = sizes(rows, cpus=cpus, batch_size=batch_size, concurrency=concurrency, **others)
    most = 1 if others["one_owner"] else cpus
    assert 1 <= found.batches <= most
    assert 1 <= found.servers <= most
    assert found.batch_size == batch_size or 1 <= found.batch_size <= min(MAX_BATCH, rows)
    assert found.concurrency_per_batch >= 1
    assert 1 <= found.concurrency <= rows
    if concurrency is not None:
        assert found.concurrency <= concurrency
