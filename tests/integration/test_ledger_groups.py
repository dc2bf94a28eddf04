"""A group of ended attempts leaves the ledger as its members do one at a time, in random sequences."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opencode_tasks.domain.records import Answer, AttemptRecord, RowInput, Session, Step, Usage
from opencode_tasks.errors import MaxOutputTokensError, OpenCodeError, ServerError
from opencode_tasks.ledger import ClaimedRow, ClaimRequest, EndedAttempt, Ledger, completed, failed, waiting
from opencode_tasks.ledger.schema import attempts, metadata, runs

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUNS = ("one", "two")
LEASE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the attempt at an index of those claimed so far ends; the same attempt may end again."""

    index: int
    kind: str
    costs: Sequence[int | None]
    is_known: bool
    has_lease: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Rows are claimed, some attempts end as a group, and time passes; after it a lease may be lost."""

    run_id: str
    limit: int
    max_row_pico: int | None
    endings: Sequence[Ending]
    seconds: float


ENDINGS = st.builds(
    Ending,
    index=st.integers(0, 5),
    kind=st.sampled_from(("answer", "failure", "wait", "open")),
    costs=st.lists(st.sampled_from((None, 0, 3, 30)), max_size=2),
    is_known=st.booleans(),
    has_lease=st.integers(0, 5).map(bool),
)
ROUNDS = st.builds(
    Round,
    run_id=st.sampled_from(RUNS),
    limit=st.integers(1, 4),
    max_row_pico=st.sampled_from((None, 25)),
    endings=st.lists(ENDINGS, max_size=5),
    seconds=st.sampled_from((1.0, LEASE_S + 1)),
)


def create_runs(ledger: Ledger, keys: Sequence[str]) -> None:
    for run_id in RUNS:
        ledger.runs.create(
            run_id=run_id,
            parameters={},
            model_ref="p/m",
            backend="server",
            opencode_version="1.0",
            deployment=None,
            flow_run_id=None,
            input_fingerprint="f",
            row_count=len(keys),
            refresh=False,
            max_cost_pico=100,
            now=NOW,
        )
        inputs = [RowInput(row_id=f"{i}", position=i, row_key=key, prompt="p") for i, key in enumerate(keys)]
        ledger.rows.add(run_id, inputs)
        ledger.runs.ready(run_id)


def record_of(attempt_id: str, ending: Ending) -> AttemptRecord:
    session_id = f"ses_{attempt_id}"
    steps = [
        Step(
            step_id=f"prt_{number}",
            session_id=session_id,
            message_id="msg",
            model_ref="p/m",
            agent="a",
            usage=Usage(input_tokens=10, cost_pico=cost),
            cost_source="unpriced" if cost is None else "reported",
            finish_reason="stop",
            ended_at=NOW,
        )
        for number, cost in enumerate(ending.costs)
    ]
    root = Session(session_id=session_id, parent_id=None, messages=[], steps=steps)
    return AttemptRecord(session_id=session_id, sessions=[root], usage_known=ending.is_known)


def end_of(claimed: ClaimedRow, ending: Ending, now: datetime) -> EndedAttempt:
    record = record_of(claimed.attempt_id, ending)
    answer = Answer(
        text="yes", structured=None, finish_reason="stop", turns=1, model_ref="p/m", attempt=record
    )
    cut = MaxOutputTokensError("n", raw_message="too long", partial_text="half")
    down = ServerError("n", raw_message="down", retry_after=2.5)
    error, row = {
        "answer": (None, completed(answer)),
        "failure": (cut, failed(cut, record)),
        "wait": (down, waiting(down, now)),
        "open": (OpenCodeError("n", "interrupted"), None),
    }[ending.kind]
    return EndedAttempt(
        lease=claimed.lease if ending.has_lease else None,
        attempt_id=claimed.attempt_id,
        record=record,
        now=now,
        error=error,
        row=row,
    )


def play(ledger: Ledger, rounds: Sequence[Round], *, as_group: bool) -> list[list[bool]]:
    """Play the rounds in a ledger; returns for each round which attempts ended under a valid lease."""
    claimed: list[ClaimedRow] = []
    now, valid = NOW, list[list[bool]]()
    for number, one in enumerate(rounds):
        request = ClaimRequest(
            run_id=one.run_id,
            owner=f"w{number}",
            gate_id="p/m#0",
            limit=one.limit,
            lease_s=LEASE_S,
            node_id="n",
            host="h",
            backend="server",
            data_dir="/d",
            max_cost_of=lambda _: 20,
            max_call_pico=5,
            max_row_pico=one.max_row_pico,
            now=now,
        )
        claimed += ledger.queue.claim(request).rows
        ends = [end_of(claimed[-1 - e.index], e, now) for e in one.endings if e.index < len(claimed)]
        groups = [ends] if as_group else [[end] for end in ends]
        valid.append([is_valid for group in groups for is_valid in ledger.queue.end(group)])
        now += timedelta(seconds=one.seconds)
    return valid


def contents(ledger: Ledger) -> dict[str, list[Any]]:
    with ledger._database.engine.connect() as connection:
        return {
            name: sorted(connection.execute(table.select()).all(), key=repr)
            for name, table in metadata.tables.items()
        }


def assert_sums(ledger: Ledger) -> None:
    """The counters of a run are the sums of its attempts."""
    with ledger._database.engine.connect() as connection:
        lines = connection.execute(attempts.select()).all()
        for run in connection.execute(runs.select()):
            of_run = [line for line in lines if line.run_id == run.run_id]
            sums = [sum(line.spent_pico for line in of_run), sum(line.reserved_pico for line in of_run)]
            assert [run.spent_pico, run.reserved_pico] == sums


@pytest.mark.nightly
def test_a_group_is_written_like_its_members_one_at_a_time(tmp_path: Path) -> None:
    Ledger.open(str(tmp_path / "empty.db")).close()

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.sampled_from("abcd"), min_size=2, max_size=6), st.lists(ROUNDS, min_size=1, max_size=6)
    )
    def compare(keys: list[str], rounds: list[Round]) -> None:
        found: list[Any] = []
        for as_group in (True, False):
            path = tmp_path / "ledger.db"
            for file in tmp_path.glob("ledger.db*"):
                file.unlink()
            shutil.copy(tmp_path / "empty.db", path)
            with Ledger.open(str(path)) as ledger:
                create_runs(ledger, keys)
                valid = play(ledger, rounds, as_group=as_group)
                assert_sums(ledger)
                found.append((valid, contents(ledger)))
        assert found[0] == found[1]

    compare()
