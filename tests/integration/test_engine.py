"""The engine on threads of this process with the scripted backend: no opencode, no Prefect server, no Ray."""

from __future__ import annotations

import _thread
import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from engine_runs import Engine, setting
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from opencode_tasks import Hold, RunEvent, RunPausedError
from opencode_tasks.domain.flow_call import FlowCall
from opencode_tasks.engine import attempt as attempt_module
from opencode_tasks.errors import SetupError
from opencode_tasks.ledger import Ledger, database
from opencode_tasks.opencode.leftovers import instance_dirs, unrecorded_sessions
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.testing import Reply, ScriptedProvider
from opencode_tasks.testing.scripted_backend import scripted_backend

LIMIT_S = 60.0


@pytest.fixture
def engine(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Engine]:
    with scripted_backend(provider) as name:
        yield Engine(tmp_path, provider, {"backend": name})


@pytest.fixture
def real_engine(tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path) -> Engine:
    """An engine whose backend is a server of opencode."""
    way = {
        "model": "fake/echo",
        "opencode_config": provider.opencode_config(),
        "opencode_bin": str(opencode_binary),
    }
    return Engine(tmp_path, provider, way)


@pytest.fixture
def short_inline_wait() -> Iterator[None]:
    """A batch waits for at most one second; a longer wait is a hold of the run."""
    with setting("MAX_INLINE_WAIT", "1"):
        yield


def limited(seconds: int) -> Reply:
    return Reply(status=429, headers={"Retry-After": str(seconds)}, body={"error": {"message": "slow down"}})


def test_rows_complete_and_events_report_sizes_and_progress(engine: Engine) -> None:
    events: list[RunEvent] = []
    result = engine.execute(engine.plan(), on_event=events.append)
    assert list(result.frame["response"]) == list(engine.frame["prompt"])
    assert result.counts == {"open": 0, "completed": 6, "failed": 0, "skipped": 0}
    assert events[0].sizes is not None
    assert events[0].sizes.rows == 6
    assert events[-1].progress is not None
    assert events[-1].progress.completed == 6
    run = engine.run()
    assert (run["run_id"], run["status"], run["flow_run_ids"]) == (result.run_id, "completed", [])


def test_a_short_rate_limit_is_waited_for_in_the_batch(engine: Engine) -> None:
    engine.provider.on("row 2", limited(3), Reply(text="late"))
    events: list[RunEvent] = []
    result = engine.execute(engine.plan(), on_event=events.append)
    assert result.frame["response"].tolist()[2] == "late"
    first, second = (call.at for call in engine.provider.calls if call.prompt == "row 2")
    assert second - first >= 3.0
    assert [event for event in events if event.hold is not None and event.progress is None] == []


def test_a_hold_pauses_the_run_with_its_open_rows_in_the_ledger(engine: Engine) -> None:
    refused = Reply(status=401, body={"error": {"message": "bad key"}})
    is_fixed: list[bool] = []
    engine.provider.on(lambda call: not is_fixed and call.prompt >= "row 3", refused)
    with pytest.raises(RunPausedError, match="bad key") as paused:
        engine.execute(engine.plan())
    assert (paused.value.until, paused.value.error_type) == (None, "authentication_failed")
    assert engine.run()["status"] == "paused"
    open_rows = [row for row in engine.outcomes() if row["status"] == "open"]
    assert len(open_rows) == paused.value.open_rows == 3
    assert {row["error_type"] for row in open_rows} == {"authentication_failed"}
    is_fixed.append(True)
    result = engine.execute(engine.plan(), context=RunContext(resumed_run_id=paused.value.run_id))
    assert result.run_id == paused.value.run_id
    assert result.counts["completed"] == 6


def test_a_budget_that_a_person_gives_a_flow_run_is_for_its_call_that_is_on_hold(engine: Engine) -> None:
    budgets = [7 * 10**12]

    def execute(execution: int, **options: Any) -> str:
        call = FlowCall(call_id=uuid.uuid4().hex, flow_run_id="flow", execution=execution)
        context = RunContext(flow_call=call, take_budget=budgets.pop)
        return engine.execute(engine.plan(**options), context=context).run_id

    is_refused: list[bool] = []
    refused = Reply(status=401, body={"error": {"message": "bad key"}})
    engine.provider.on(lambda _: bool(is_refused), refused)
    first = execute(1)
    is_refused.append(True)
    with pytest.raises(RunPausedError) as paused:
        execute(1, refresh=True)
    is_refused.clear()
    assert execute(2) == first
    assert execute(2, refresh=True) == paused.value.run_id
    with Ledger.open(engine.ledger_url) as ledger:
        limits = [ledger.budgets.get(run_id).max_cost_pico for run_id in (first, paused.value.run_id)]
    assert limits == [None, 7 * 10**12]


@pytest.mark.slow
@pytest.mark.usefixtures("short_inline_wait")
def test_on_hold_is_called_after_the_hold_is_recorded_and_the_run_continues(engine: Engine) -> None:
    engine.provider.on("row 2", limited(4), Reply(text="late"))
    statuses: list[str] = []

    def on_hold(run_id: str, hold: Hold) -> None:
        statuses.append(engine.run()["status"])
        assert (run_id, hold.error_type) == (engine.run()["run_id"], "rate_limit")
        assert hold.open_rows >= 1
        time.sleep(hold.remaining_s(datetime.now(UTC)) or 0.0)

    result = engine.execute(engine.plan(), on_hold=on_hold)
    assert statuses == ["waiting"]
    assert result.counts["completed"] == 6


@pytest.mark.slow
def test_ctrl_c_ends_the_rows_in_flight_and_a_resume_completes_the_run(engine: Engine) -> None:
    engine.provider.on("row 0", Reply(text="fast"))
    engine.provider.on("row", Reply(delay_s=2.0))
    plan = engine.plan()

    def interrupt() -> None:
        deadline = time.monotonic() + LIMIT_S
        while len(engine.provider.calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        engine.execute(plan)
    run = engine.run()
    assert run["status"] == "interrupted"
    assert 0 < run["open"] < 6
    with Ledger.open(engine.ledger_url) as ledger:
        assert ledger.queue.owners(run["run_id"]) == []
    result = engine.execute(plan, context=RunContext(resumed_run_id=run["run_id"]))
    assert result.counts["completed"] == 6


def test_a_stop_ends_a_batch_that_waits(engine: Engine) -> None:
    engine.provider.on("row", limited(50))
    context = RunContext()

    def request_stop() -> None:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            waiting = [thread for thread in threading.enumerate() if thread.name.startswith("opencode-batch")]
            if waiting and engine.provider.calls:
                break
            time.sleep(0.05)
        time.sleep(1.0)
        context.stop.request()

    threading.Thread(target=request_stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        engine.execute(engine.plan(), context=context)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("opencode-batch")]
    assert engine.run()["status"] == "interrupted"


class StopError(Exception):
    """A stop of one driver, as Ctrl-C is one for the main thread."""


@pytest.mark.slow
def test_a_stop_ends_one_driver_and_the_other_completes_the_run(engine: Engine) -> None:
    engine.provider.on("row", Reply(delay_s=2.0))
    plan = engine.plan()
    must_stop = threading.Event()
    stopped: list[str] = []

    def stop_at_an_event(event: RunEvent) -> None:
        if must_stop.is_set() and event.progress is not None:
            raise StopError

    def first_driver() -> None:
        try:
            engine.execute(plan, on_event=stop_at_an_event)
        except StopError:
            stopped.append(engine.run()["status"])

    first = threading.Thread(target=first_driver, daemon=True)
    first.start()
    deadline = time.monotonic() + LIMIT_S
    while not engine.provider.calls and time.monotonic() < deadline:
        time.sleep(0.05)
    run_id = engine.run()["run_id"]
    warnings: list[str] = []

    def stop_the_first_later(event: RunEvent) -> None:
        if event.warning is not None:
            warnings.append(event.warning)
        elif event.progress is not None and event.progress.completed:
            must_stop.set()

    result = engine.execute(plan, context=RunContext(resumed_run_id=run_id), on_event=stop_the_first_later)
    first.join(timeout=LIMIT_S)
    assert result.counts["completed"] == 6
    assert stopped in (["running"], ["completed"])
    assert engine.run()["status"] == "completed"
    assert len(warnings) == 1
    assert "another process works on this run too" in warnings[0]
    # A row in flight at the stop has 4 s to end, and needs 2 s.
    assert sorted(call.prompt for call in engine.provider.calls) == list(engine.frame["prompt"])
    with Ledger.open(engine.ledger_url) as ledger:
        assert [one["status"] for one in ledger.drivers.of([run_id])] == ["ended"] * 2


def test_a_limit_beyond_the_longest_wait_holds_the_run_and_fails_no_row(engine: Engine) -> None:
    engine.provider.on(lambda call: call.prompt >= "row 3", limited(3600))
    expected = pytest.raises(
        RunPausedError, match="is longer than 1 min 30 s, the limit of OPENCODE_TASKS_MAX_RATE_LIMIT_WAIT"
    )
    with setting("MAX_RATE_LIMIT_WAIT", "90"), expected as paused:
        engine.execute(engine.plan())
    assert (paused.value.until, paused.value.error_type) == (None, "rate_limit")
    counts = engine.run()
    assert (counts["status"], counts["failed"], counts["completed"] + counts["open"]) == ("paused", 0, 6)


def raising(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    """Raise an exception in the place of the answer to one row."""
    original = attempt_module.ask

    async def ask(backend: Any, request: Any, **more: Any) -> Any:
        if request.prompt == "row 2":
            raise fault
        return await original(backend, request, **more)

    monkeypatch.setattr(attempt_module, "ask", ask)


@pytest.mark.parametrize(
    "fault",
    [
        RecursionError("too deep"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        PermissionError(errno.EACCES, "Permission denied", "a/file/of/the/row"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_an_exception_that_no_part_declares_is_the_failure_of_its_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    raising(monkeypatch, fault)
    result = engine.execute(engine.plan())
    assert result.counts == {"open": 0, "completed": 5, "failed": 1, "skipped": 0}
    failed = engine.outcomes()[2]
    assert (failed["error_type"], failed["attempts"]) == ("unknown", 1)
    assert f"unexpected {type(fault).__name__}: {fault}" in failed["error_message"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "(?s)the disk of .* fails: .*No space left"),
        (errno.EMFILE, "(?s)gets no more files, processes or memory .*Too many open files"),
    ],
    ids=["disk", "files"],
)
def test_a_fault_of_the_machine_stops_the_run_and_fails_no_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    raising(monkeypatch, OSError(number, os.strerror(number)))
    with pytest.raises(SetupError, match=message) as caught:
        engine.execute(engine.plan())
    assert ("disk" in str(caught.value)) is (number == errno.ENOSPC)
    assert engine.run()["failed"] == 0


@pytest.mark.slow
def test_an_answer_that_a_lost_ledger_did_not_record_is_kept(
    real_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def lose(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("UPDATE attempts") and "exit_code" in statement and not lost:
            lost.append(statement)
            raise OperationalError(statement, parameters, Exception("the server is away"))

    # No time to try it again.
    monkeypatch.setattr(database, "SERVER_OUTAGE_S", 0.0)
    event.listen(sqlalchemy.Engine, "before_cursor_execute", lose)
    try:
        with pytest.raises(SetupError, match="the server is away"):
            real_engine.execute(real_engine.plan())
    finally:
        event.remove(sqlalchemy.Engine, "before_cursor_execute", lose)
    statuses = [row["status"] for row in real_engine.outcomes()]
    assert statuses.count("failed") == 0
    kept = unrecorded_sessions(instance_dirs())
    assert 1 <= len(kept) <= statuses.count("open")
