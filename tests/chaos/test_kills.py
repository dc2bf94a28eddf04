"""A run survives killed parts: no row is lost or written twice, and few are charged twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cluster import Desk
from kills import HEAD, IN_FLIGHT, Target, kill_and_go_on

ROWS = 200
TARGETS: tuple[Target, ...] = ("driver", "worker", "server")
MOMENTS = (2, 47, 101, 148, 193)


@pytest.fixture(scope="module")
def table() -> Path | None:
    """The file for the tolls; None if none is requested."""
    path = os.environ.get("OPENCODE_TASKS_TEST_TOLLS")
    if path is None:
        return None
    Path(path).write_text(HEAD + "\n", encoding="utf-8")
    return Path(path)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_loses_nothing_and_buys_at_most_what_was_in_flight_twice(
    ray_desk: Desk, table: Path | None, target: Target, moment: int
) -> None:
    toll = kill_and_go_on(ray_desk, target, rows=ROWS, after=moment)
    if table is not None:
        with table.open("a", encoding="utf-8") as file:
            file.write(toll.line() + "\n")
    assert (toll.completed, toll.missing, toll.doubled, toll.sent_more) == (ROWS, 0, 0, 0), toll
    assert toll.exit_codes[-1] == 0
    assert toll.sent_twice <= IN_FLIGHT
    assert toll.charged_twice <= toll.sent_twice
