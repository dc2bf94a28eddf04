"""Runs, rows, leases, attempts and totals of a ledger, on SQLite and PostgreSQL."""

from __future__ import annotations

import pickle
import stat
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from attempts import begin_attempt, wait
from attempts import finish as end
from ledger_processes import claim_in_processes

from opencode_tasks.domain.records import (
    TOKEN_COLUMNS,
    Answer,
    AttemptRecord,
    CostSource,
    InnerRetry,
    RowInput,
    Session,
    Step,
    Usage,
)
from opencode_tasks.errors import (
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    SetupError,
    UnknownOpenCodeError,
)
from opencode_tasks.ledger import AlreadyFinished, AlreadyLeased, EndedAttempt, Lease, LeaseLostError, Ledger
from opencode_tasks.ledger.schema import metadata
from opencode_tasks.system import mounts

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def create_run(
    ledger: Ledger, run_id: str, keys: Sequence[str], *, refresh: bool = False, now: datetime = NOW
) -> None:
    """Create a run with the rows "0", "1", … that have these keys."""
    ledger.runs.create(
        run_id=run_id,
        parameters={"input": "a.csv"},
        model_ref="p/m",
        backend="server",
        opencode_version="1.0",
        deployment=None,
        flow_run_id="flow-1",
        input_fingerprint="f",
        row_count=len(keys),
        refresh=refresh,
        now=now,
    )
    ledger.rows.add(run_id, inputs(keys))
    ledger.runs.ready(run_id)


def inputs(keys: Sequence[str]) -> list[RowInput]:
    return [
        RowInput(row_id=str(i), position=i, row_key=key, prompt=f"prompt {i}", labels={"team": "a"})
        for i, key in enumerate(keys)
    ]


def step(
    session_id: str, number: int = 1, cost: int | None = 1, source: CostSource = "reported", **tokens: Any
) -> Step:
    return Step(
        step_id=f"prt_{number}",
        session_id=session_id,
        message_id="msg",
        model_ref="p/m",
        agent="a",
        usage=Usage(**{"input_tokens": 10, "output_tokens": 5, **tokens}, cost_pico=cost),
        cost_source=source,
        finish_reason="stop",
        ended_at=NOW,
    )


def record(session_id: str, *steps: Step, known: bool = True, retries: int = 0) -> AttemptRecord:
    messages = [
        {"info": {"role": "user"}, "parts": []},
        {"info": {"role": "assistant"}, "parts": [{"text": "é"}]},
    ]
    return AttemptRecord(
        session_id=session_id,
        sessions=[Session(session_id=session_id, parent_id=None, messages=messages, steps=steps)],
        inner_retries=[
            InnerRetry(session_id=session_id, number=n, message="slow", next_at=at(n)) for n in range(retries)
        ],
        usage_known=known,
        exit_code=0,
    )


def answer(found: AttemptRecord, reply: str = "yes", structured: Any = None) -> Answer:
    return Answer(
        text=reply, structured=structured, finish_reason="stop", turns=1, model_ref="p/m", attempt=found
    )


def claim_row(
    ledger: Ledger, run_id: str, row_id: str, owner: str = "w", now: datetime = NOW, lease_s: float = 60
) -> Lease:
    lease = ledger.queue.claim_row(run_id, row_id, owner=owner, now=now, lease_s=lease_s)
    assert isinstance(lease, Lease)
    return lease


def begin(
    ledger: Ledger, lease: Lease, run_id: str, row_id: str, attempt: int = 1, now: datetime = NOW
) -> str:
    return begin_attempt(ledger, lease, run_id, row_id, attempt=attempt, now=now)


def finish(
    ledger: Ledger,
    run_id: str,
    row_id: str,
    found: AttemptRecord,
    *,
    error: OpenCodeError | None = None,
    now: datetime = NOW,
    structured: Any = None,
) -> None:
    lease = claim_row(ledger, run_id, row_id, now=now)
    attempt_id = begin(ledger, lease, run_id, row_id, now=now)
    result = answer(found, structured=structured) if error is None else error
    assert end(ledger, lease, attempt_id, result, found, now=now + timedelta(seconds=2))


def everything(ledger: Ledger) -> dict[str, list[Any]]:
    """All rows of all tables, to compare them before and after."""
    with ledger._database.engine.connect() as connection:
        return {
            name: sorted(connection.execute(table.select()).all(), key=repr)
            for name, table in metadata.tables.items()
        }


# Opening


def test_the_file_and_its_folders_are_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "ledger.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        create_run(ledger, "r", ["k"])
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert ledger.url == f"sqlite:///{path}"
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)] == [
        0o700
    ] * 2


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        f"21 1 254:0 / / rw - ext4 /dev/vda rw\n88 21 0:51 / {tmp_path} rw - nfs4 server:/x rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTINFO", mountinfo)
    with pytest.raises(SetupError, match="nfs4") as caught:
        Ledger.open(str(tmp_path / "ledger.db"))
    assert "PostgreSQL" in caught.value.hint
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize(
    "wrong", ["", ":memory:", "sqlite://", "mysql://h/d", "postgresql+psycopg2://h/d", "/proc"]
)
def test_an_address_that_is_no_ledger_is_refused_with_a_hint(wrong: str) -> None:
    with pytest.raises(SetupError) as caught:
        Ledger.open(wrong)
    assert caught.value.hint in str(caught.value.raw_message)


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at\n" * 50)
    with pytest.raises(SetupError, match="not a database"):
        Ledger.open(str(tmp_path / "notes.txt"))


def test_the_message_about_an_unreachable_server_hides_the_password() -> None:
    with pytest.raises(SetupError) as caught:
        Ledger.open("postgres://me:secret-word@127.0.0.1:1/none")
    assert "secret-word" not in caught.value.raw_message
    assert "127.0.0.1" in caught.value.raw_message


# Leases


@pytest.mark.slow
def test_processes_lease_each_row_once(ledger_url: str) -> None:
    with Ledger.open(ledger_url) as ledger:
        create_run(ledger, "r", [f"k{i}" for i in range(200)])
    printed = claim_in_processes(ledger_url, 2, 200)
    claimed = [line for out in printed for line in out.splitlines()]
    assert sorted(claimed) == sorted(f"{i} 1" for i in range(200))


@pytest.mark.slow
def test_threads_lease_each_row_once(ledger: Ledger) -> None:
    create_run(ledger, "r", [f"k{i}" for i in range(200)])
    claimed: list[str] = []

    def work(owner: str) -> None:
        for row_id in map(str, range(200)):
            lease = ledger.queue.claim_row("r", row_id, owner=owner, now=NOW, lease_s=60)
            claimed.extend([row_id] if isinstance(lease, Lease) else [])

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(str(i) for i in range(200))


def test_a_leased_key_is_refused_in_every_run_and_also_to_its_owner(ledger: Ledger) -> None:
    create_run(ledger, "r1", ["k", "k"])
    create_run(ledger, "r2", ["k"])
    lease = claim_row(ledger, "r1", "0")
    leased = AlreadyLeased(owner="w", expires_at=at(60))
    assert ledger.queue.claim_row("r1", "1", owner="w", now=NOW, lease_s=5) == leased
    assert ledger.queue.claim_row("r2", "0", owner="other", now=at(59), lease_s=5) == leased
    ledger.queue.release(lease)
    assert claim_row(ledger, "r2", "0", owner="other").fence == 2


def test_a_heartbeat_extends_leases_but_not_released_ones(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    claim_row(ledger, "r", "0")
    ledger.queue.release(claim_row(ledger, "r", "1"))
    ledger.queue.heartbeat("w", now=at(50), lease_s=60)
    assert ledger.queue.claim_row("r", "0", owner="o", now=at(100), lease_s=5) == AlreadyLeased(
        owner="w", expires_at=at(110)
    )
    assert isinstance(ledger.queue.claim_row("r", "1", owner="o", now=at(51), lease_s=5), Lease)


def test_only_the_lease_of_the_named_owner_is_broken(ledger: Ledger) -> None:
    create_run(ledger, "r", ["k"])
    claim_row(ledger, "r", "0", owner="dead")
    ledger.queue.break_lease("k", "another")
    assert isinstance(ledger.queue.claim_row("r", "0", owner="o", now=NOW, lease_s=5), AlreadyLeased)
    ledger.queue.break_lease("k", "dead")
    assert claim_row(ledger, "r", "0", owner="o").fence == 2


def test_a_commit_under_an_expired_lease_is_refused(ledger: Ledger) -> None:
    create_run(ledger, "r", ["k"])
    old = claim_row(ledger, "r", "0", owner="old")
    first = begin(ledger, old, "r", "0")
    new = claim_row(ledger, "r", "0", owner="new", now=at(60))
    assert (old.fence, new.fence) == (1, 2)
    late = record("ses_old", step("ses_old", cost=7))
    assert end(ledger, old, first, answer(late), late, now=at(61)) is False
    assert wait(ledger, old, first, UnknownOpenCodeError("n"), late, now=at(61), until=at(99)) is False
    lost = LeaseLostError.of(old)
    assert (lost.row_key, lost.owner, lost.fence) == ("k", "old", 1)
    assert vars(pickle.loads(pickle.dumps(lost))) == vars(lost)
    # The usage is recorded, and the row still belongs to the new owner.
    row = ledger.results.outcomes("r")[0]
    assert (row["status"], row["cost_pico"], row["response"]) == ("open", 7, None)
    second = begin(ledger, new, "r", "0", attempt=2, now=at(62))
    valid = record("ses_new", step("ses_new", cost=5))
    assert end(ledger, new, second, answer(valid, "new"), valid, now=at(63))
    row = ledger.results.outcomes("r")[0]
    assert (row["status"], row["response"], row["cost_pico"], row["attempts"]) == ("completed", "new", 12, 2)
    assert (row["started_at"], row["duration_s"]) == (NOW, 63.0)


def test_the_error_for_a_missing_row_names_it(ledger: Ledger) -> None:
    with pytest.raises(LookupError, match="'7' in run 'r'"):
        ledger.queue.claim_row("r", "7", owner="w", now=NOW, lease_s=5)


# Reuse


def test_answers_of_other_runs_are_reused(ledger: Ledger) -> None:
    create_run(ledger, "r1", ["a", "b", "c"])
    finish(ledger, "r1", "0", record("ses_a", step("ses_a", cost=3)), structured={"x": [1, None]})
    finish(ledger, "r1", "1", record("ses_b"), error=UnknownOpenCodeError("n"))
    create_run(ledger, "r2", ["a", "b", "c", "a"])
    assert ledger.rows.reuse_answers("r2", now=at(9)) == 2
    assert ledger.rows.reuse_answers("r2", now=at(10)) == 0
    first, second, _, last = ledger.results.outcomes("r2")
    original = ledger.results.outcomes("r1")[0]
    for copy in (first, last):
        copied = ("response", "structured", "finish_reason", "session_id", "turns", "model_ref")
        for name in (*copied, "cost_pico", "cost_source", *TOKEN_COLUMNS, "status"):
            assert copy[name] == original[name], name
        assert (copy["reused"], copy["source_run_id"], copy["source_row_id"]) == (True, "r1", "0")
        assert (copy["attempts"], copy["duration_s"], copy["completed_at"]) == (0, 0, at(9))
    assert original["structured"] == {"x": [1, None]}
    assert (second["status"], second["reused"]) == ("open", False)
    # Usage counts in the run of the source only.
    assert (ledger.runs.progress("r1").cost_pico, ledger.runs.progress("r2").cost_pico) == (3, 0)
    assert ledger.runs.progress("r2").reused == 2


def test_the_newest_answer_is_reused(ledger: Ledger) -> None:
    for number, run_id in enumerate(["r1", "r2"]):
        create_run(ledger, run_id, ["a"], refresh=True, now=at(number * 100))
        finish(ledger, run_id, "0", record(f"ses_{run_id}"), now=at(number * 100))
    create_run(ledger, "r3", ["a"])
    assert ledger.rows.reuse_answers("r3", now=at(500)) == 1
    assert ledger.results.outcomes("r3")[0]["session_id"] == "ses_r2"


def test_a_refreshing_run_reuses_only_answers_newer_than_itself(ledger: Ledger) -> None:
    create_run(ledger, "r1", ["a"])
    finish(ledger, "r1", "0", record("ses_1"))
    create_run(ledger, "r2", ["a", "a"], refresh=True, now=at(100))
    assert ledger.rows.reuse_answers("r2", now=at(101)) == 0
    lease = claim_row(ledger, "r2", "0", now=at(101))
    ledger.queue.release(lease)
    create_run(ledger, "r3", ["a"], refresh=True, now=at(102))
    finish(ledger, "r3", "0", record("ses_2"), now=at(102))
    assert ledger.queue.claim_row("r2", "0", owner="w", now=at(110), lease_s=5) == AlreadyFinished(
        status="completed", reused=True
    )
    assert ledger.rows.reuse_answers("r2", now=at(111)) == 1
    assert [row["session_id"] for row in ledger.results.outcomes("r2")] == ["ses_2", "ses_2"]


@pytest.mark.parametrize("error", [None, UnknownOpenCodeError("n", raw_message="broken")])
def test_equal_rows_of_a_run_have_the_same_outcome(ledger: Ledger, error: OpenCodeError | None) -> None:
    create_run(ledger, "r", ["a", "b", "a"])
    finish(ledger, "r", "0", record("ses_1", step("ses_1", cost=4)), error=error)
    first, other, last = ledger.results.outcomes("r")
    assert first["status"] == last["status"] == ("completed" if error is None else "failed")
    assert (last["reused"], last["source_row_id"], last["cost_pico"], last["attempts"]) == (True, "0", 4, 0)
    assert last["error_message"] == first["error_message"] == (error and "broken")
    assert other["status"] == "open"
    assert ledger.queue.claim_row("r", "2", owner="w", now=NOW, lease_s=5) == AlreadyFinished(
        status=last["status"], reused=True
    )
    assert ledger.runs.progress("r").cost_pico == 4


def test_a_failure_is_copied_within_its_run_only(ledger: Ledger) -> None:
    create_run(ledger, "r1", ["a"])
    finish(ledger, "r1", "0", record("ses_1"), error=UnknownOpenCodeError("n"))
    ledger.rows.add("r1", [RowInput(row_id="late", position=9, row_key="a", prompt="p")])
    create_run(ledger, "r2", ["a"])
    assert ledger.queue.claim_row("r1", "late", owner="w", now=NOW, lease_s=5) == AlreadyFinished(
        status="failed", reused=True
    )
    assert isinstance(ledger.queue.claim_row("r2", "0", owner="w", now=NOW, lease_s=5), Lease)


def test_a_claim_copies_an_answer_that_exists_and_releases_the_lease(ledger: Ledger) -> None:
    create_run(ledger, "r1", ["a"])
    create_run(ledger, "r2", ["a"])
    finish(ledger, "r1", "0", record("ses_1"))
    for _ in range(2):
        assert ledger.queue.claim_row("r2", "0", owner="w", now=NOW, lease_s=5) == AlreadyFinished(
            status="completed", reused=True
        )
    assert ledger.results.outcomes("r2")[0]["session_id"] == "ses_1"
    create_run(ledger, "r3", ["a"], refresh=True, now=at(50))
    assert isinstance(ledger.queue.claim_row("r3", "0", owner="x", now=at(50), lease_s=5), Lease)


# Idempotent writes


def test_a_repeated_write_changes_nothing(ledger: Ledger) -> None:
    error = RateLimitError("n", at(30), "slow down")
    first = record("ses_1", step("ses_1"), step("ses_1", 2), retries=2)
    second = record("ses_2", step("ses_2"))

    def twice(write: Any) -> Any:
        result = write()
        before = everything(ledger)
        assert write() == result
        assert everything(ledger) == before
        return result

    twice(lambda: create_run(ledger, "r", ["a", "a", "b", "c", "d"]))
    twice(lambda: ledger.runs.add_flow_run("r", "flow-2"))
    twice(lambda: ledger.rows.fail("r", {"3": ("input", "null prompt")}, now=NOW))
    lease = claim_row(ledger, "r", "0")
    attempt = twice(lambda: begin(ledger, lease, "r", "0"))
    twice(lambda: ledger.attempts.record_sessions([(attempt, "ses_1", "/d")]))
    twice(lambda: ledger.queue.heartbeat("w", now=at(1), lease_s=60))
    twice(lambda: wait(ledger, lease, attempt, error, first, now=at(2), until=at(30)))
    again = claim_row(ledger, "r", "0", now=at(31))
    attempt = begin(ledger, again, "r", "0", attempt=2, now=at(31))
    twice(lambda: end(ledger, again, attempt, answer(second), second, now=at(32)))
    other = claim_row(ledger, "r", "2")
    third = record("ses_3")
    last = begin(ledger, other, "r", "2")
    twice(lambda: end(ledger, other, last, answer(third), third, now=at(4)))
    twice(lambda: ledger.queue.release(other))
    twice(lambda: ledger.queue.break_lease("b", "w"))
    ledger.rows.skip_open("r", error_type="budget_exceeded", error_message="spent", now=at(5))
    assert ledger.rows.skip_open("r", error_type="budget_exceeded", error_message="spent", now=at(6)) == 0
    twice(lambda: ledger.runs.end("r", status="failed", now=at(7)))
    assert [row["status"] for row in ledger.results.outcomes("r")] == [
        "completed",
        "completed",
        "completed",
        "failed",
        "skipped",
    ]
    run = ledger.runs.get("r")
    assert run is not None
    assert (run["flow_run_ids"], run["ended_at"], run["created_at"]) == (["flow-1", "flow-2"], at(7), NOW)


def test_a_repeated_finish_after_another_claim_changes_nothing(ledger: Ledger) -> None:
    create_run(ledger, "r1", ["a"])
    lease = claim_row(ledger, "r1", "0")
    attempt = begin(ledger, lease, "r1", "0")
    found = record("ses_1", step("ses_1"))

    def write() -> None:
        end(ledger, lease, attempt, answer(found), found, now=at(2))

    write()
    create_run(ledger, "r2", ["a"], refresh=True, now=at(5))
    assert claim_row(ledger, "r2", "0", owner="x", now=at(5)).fence == 2
    before = everything(ledger)
    write()
    assert everything(ledger) == before


# Totals


@pytest.mark.parametrize(
    ("steps", "known", "cost", "tokens", "source"),
    [
        pytest.param([(3, "reported"), (4, "reported")], True, 7, 20, "reported", id="sum"),
        pytest.param([(3, "reported"), (4, "computed")], True, 7, 20, "computed", id="computed"),
        pytest.param([(3, "computed"), (None, "unpriced")], True, None, 20, "unpriced", id="unpriced"),
        pytest.param([(3, "reported")], False, 3, 10, "reported", id="steps and unknown usage"),
        pytest.param([], True, 0, 0, "reported", id="no usage"),
        pytest.param([], False, None, None, None, id="nothing known"),
    ],
)
def test_a_row_sums_its_steps(
    ledger: Ledger, steps: Any, known: bool, cost: int | None, tokens: int | None, source: str | None
) -> None:
    create_run(ledger, "r", ["a"])
    made = [step("ses_1", i, cost=pico, source=how) for i, (pico, how) in enumerate(steps)]
    finish(ledger, "r", "0", record("ses_1", *made, known=known))
    row = ledger.results.outcomes("r")[0]
    assert (row["cost_pico"], row["input_tokens"], row["cost_source"]) == (cost, tokens, source)
    progress = ledger.runs.progress("r")
    assert (progress.cost_pico, progress.input_tokens) == (cost, tokens)
    assert progress.known_cost_pico == sum(pico or 0 for pico, _ in steps)


def test_an_unknown_token_count_does_not_affect_the_others(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a"])
    finish(ledger, "r", "0", record("ses_1", step("ses_1"), step("ses_1", 2, reasoning_tokens=None)))
    row = ledger.results.outcomes("r")[0]
    assert (row["reasoning_tokens"], row["input_tokens"], row["cost_pico"]) == (None, 20, 2)


def test_the_cost_of_a_row_includes_failed_attempts_and_child_sessions(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a"])
    lease = claim_row(ledger, "r", "0")
    first = begin(ledger, lease, "r", "0")
    error = ServerError("node", 1, "overloaded", retry_after=2.5)
    found = record("ses_1", step("ses_1", cost=10), retries=1)
    assert wait(ledger, lease, first, error, found, now=at(1), until=at(5))
    waiting = ledger.results.outcomes("r")[0]
    assert (waiting["status"], waiting["attempts"], waiting["waits_until"]) == ("open", 1, at(5))
    row = ledger.results.outcomes("r")[0]
    assert (row["status"], row["error_type"], row["cost_pico"]) == ("open", "server_error", 10)
    child = Session(session_id="ses_3", parent_id="ses_2", messages=[], steps=[step("ses_3", cost=200)])
    root = record("ses_2", step("ses_2", cost=1000))
    both = AttemptRecord(session_id="ses_2", sessions=[*root.sessions, child])
    finish(ledger, "r", "0", both, now=at(6))
    row = ledger.results.outcomes("r")[0]
    assert (row["cost_pico"], row["attempts"], row["turns"], row["duration_s"]) == (1210, 2, 1, 8.0)
    assert (row["error_type"], row["waits_until"]) == (None, None)
    line = dict.fromkeys(TOKEN_COLUMNS, 0) | {"input_tokens": 30, "output_tokens": 15}
    assert ledger.results.cost("r") == [
        {
            "model_ref": "p/m",
            "rows": 1,
            "steps": 3,
            **line,
            "cost_pico": 1210,
            "cost_source": "reported",
            "failed_cost_pico": 10,
        }
    ]
    details = ledger.results.row("r", "0")
    assert details is not None
    assert [attempt["status"] for attempt in details["attempts"]] == ["failed", "completed"]
    failed = details["attempts"][0]
    assert (failed["retry_after_s"], failed["node_id"], failed["error_message"]) == (
        2.5,
        "node",
        "overloaded",
    )
    messages = {session["session_id"]: session["messages"] for session in details["sessions"]}
    assert messages == {
        "ses_1": list(root.sessions[0].messages),
        "ses_2": list(root.sessions[0].messages),
        "ses_3": None,
    }
    assert [retry["next_at"] for retry in details["inner_retries"]] == [at(0)]
    assert len(details["usage"]) == 3


def test_money_is_exact(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    finish(ledger, "r", "0", record("ses_1", *(step("ses_1", i, cost=1) for i in range(1001))))
    huge = 2**53 + 1  # a float cannot hold it
    finish(ledger, "r", "1", record("ses_2", step("ses_2", cost=huge)))
    assert [row["cost_pico"] for row in ledger.results.outcomes("r")] == [1001, huge]
    cost = ledger.runs.progress("r").cost_pico
    assert cost == huge + 1001
    assert type(cost) is int
    assert type(ledger.results.cost("r")[0]["failed_cost_pico"]) is int


def test_a_recovered_session_fills_in_unknown_usage(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a"])
    lease = claim_row(ledger, "r", "0")
    attempt = begin(ledger, lease, "r", "0")
    assert ledger.runs.progress("r").unknown_attempts == 1
    aborted = AttemptRecord(usage_known=False)

    def record_end(found: AttemptRecord, error: OpenCodeError | None, seconds: float) -> None:
        ended = EndedAttempt(attempt_id=attempt, record=found, now=at(seconds), error=error)
        assert ledger.queue.end([ended]) == [True]

    record_end(aborted, UnknownOpenCodeError("n"), 1)
    assert ledger.results.outcomes("r")[0]["cost_pico"] is None
    unpriced = record("ses_1", step("ses_1", cost=None, source="unpriced"))
    record_end(unpriced, None, 2)
    record_end(record("ses_1", step("ses_1", cost=6)), None, 3)
    row, stored = ledger.results.outcomes("r")[0], ledger.results.attempts("r")[0]
    assert (row["cost_pico"], row["cost_source"], row["status"]) == (6, "reported", "open")
    assert (stored["status"], stored["ended_at"], stored["usage_known"]) == ("failed", at(1), True)
    assert ledger.runs.progress("r").unknown_attempts == 0


def test_partial_texts_and_reset_times_are_kept(ledger: Ledger) -> None:
    create_run(ledger, "r", ["a", "b"])
    finish(
        ledger,
        "r",
        "0",
        record("ses_1", step("ses_1")),
        error=MaxOutputTokensError("n", raw_message="too long", partial_text="half"),
    )
    finish(ledger, "r", "1", record("ses_2"), error=RateLimitError("n", at(90), "wait"), now=at(1))
    first = ledger.results.outcomes("r")[0]
    assert (first["response"], first["error_type"], first["turns"]) == ("half", "max_output_tokens", 1)
    assert ledger.results.attempts("r")[1]["reset_time"] == at(90)


# Values


def test_texts_and_times_are_stored_without_loss(ledger: Ledger) -> None:
    east = timezone(timedelta(hours=9))
    create_run(ledger, "r", ["a"], now=datetime(2026, 3, 1, 21, 0, 0, 123456, tzinfo=east))
    run = ledger.runs.get("r")
    assert run is not None
    assert run["created_at"] == datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert run["created_at"].tzinfo is UTC
    unusual = "nul \0, half \ud800, smile \ud83d\ude00, é"
    ledger.rows.add("r", [RowInput(row_id="s", position=1, row_key="s", prompt=unusual, labels={"l": "\0"})])
    details = ledger.results.row("r", "s")
    assert details is not None
    assert details["row"]["prompt"] == "nul \ufffd, half \ufffd, smile 😀, é"
    finish(ledger, "r", "s", record("ses"), structured={"x": float("nan"), "t": "\0"})
    assert ledger.results.outcomes("r")[1]["structured"] == {"x": None, "t": "\0"}
    with pytest.raises(Exception, match="time zone"):
        ledger.runs.end("r", status="completed", now=datetime(2026, 1, 1))  # noqa: DTZ001


def test_runs_are_listed_newest_first_with_their_counts(ledger: Ledger) -> None:
    for number in range(3):
        create_run(ledger, f"r{number}", ["a", "b"], now=at(number))
    finish(ledger, "r1", "0", record("ses_1", step("ses_1", cost=9)))
    found = ledger.runs.newest(limit=2)
    assert [(run["run_id"], run["completed"], run["open"], run["cost_pico"]) for run in found] == [
        ("r2", 0, 2, 0),
        ("r1", 1, 1, 9),
    ]
    assert ledger.runs.get("none") is None
    assert ledger.results.row("r1", "none") is None
    assert ledger.runs.progress("none").total == 0


def test_outcomes_are_in_input_order(ledger: Ledger) -> None:
    create_run(ledger, "r", [])
    ledger.rows.add("r", list(reversed(inputs([f"k{i}" for i in range(12)]))))
    ledger.rows.fail("r", {"4": ("input", "null prompt")}, now=NOW)
    found = ledger.results.outcomes("r")
    assert [row["row_id"] for row in found] == [str(i) for i in range(12)]
    assert [row["row_id"] for row in ledger.results.outcomes("r", range(3, 6))] == ["3", "4", "5"]
    assert ledger.rows.count_open("r") == 11
    refused = found[4]
    assert (refused["status"], refused["cost_pico"], refused["error_message"]) == ("failed", 0, "null prompt")
