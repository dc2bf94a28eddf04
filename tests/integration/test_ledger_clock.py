"""Leases and drivers under a clock that jumps, clocks that differ, and a database that is away."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from opencode_tasks.domain.records import RowInput
from opencode_tasks.engine.audit import audit
from opencode_tasks.engine.compare import compare_runs
from opencode_tasks.engine.export import export_run
from opencode_tasks.engine.record_export import export_records
from opencode_tasks.engine.review import schema_of, undo_named_review
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import AlreadyLeased, Lease, Ledger
from opencode_tasks.system import clock

LIMIT_S = 30.0


def fill(ledger: Ledger, run_id: str = "run") -> None:
    ledger.runs.create(
        run_id=run_id,
        parameters={},
        model_ref="p/m",
        backend="null",
        opencode_version=None,
        deployment=None,
        flow_run_id="flow",
        input_fingerprint="f",
        row_count=1,
        refresh=False,
        now=datetime.now(UTC),
    )
    ledger.rows.add(run_id, [RowInput(row_id="a", position=0, row_key="key", prompt="p")])


def open_files() -> list[str]:
    found: list[str] = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(link.readlink()))
    return found


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the wall clock of this machine is wrong."""
    by_s = [0.0]
    monkeypatch.setattr(clock, "wall_time", lambda: datetime.now(UTC) + timedelta(seconds=by_s[0]))
    return by_s


@pytest.mark.slow
@pytest.mark.parametrize("step_s", [-7200.0, 75.0, 7200.0])
def test_a_step_of_the_clock_breaks_no_lease(ledger_url: str, shifted: list[float], step_s: float) -> None:
    with Ledger.open(ledger_url) as ledger:
        fill(ledger)
        lease = ledger.queue.claim_row("run", "a", owner="w", lease_s=60)
        assert isinstance(lease, Lease)
        ledger.drivers.start("d", run_id="run", owner="w", host="h", now=datetime.now(UTC))
    shifted[0] = step_s
    # Another process opens the ledger after the step.
    with Ledger.open(ledger_url) as ledger:
        assert isinstance(ledger.queue.claim_row("run", "a", owner="other", lease_s=60), AlreadyLeased)
        assert ledger.queue.owners("run") == ["w"]
        assert [driver["status"] for driver in ledger.drivers.of(["run"])] == ["working"]
        ledger.queue.heartbeat("w", lease_s=1)
        deadline = time.monotonic() + LIMIT_S
        while ledger.queue.owners("run") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert isinstance(ledger.queue.claim_row("run", "a", owner="other", lease_s=60), Lease)


def test_a_lease_counts_from_the_end_of_the_wait_for_the_lock(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger.open(str(path)) as ledger:
        fill(ledger)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        claimed: list[object] = []
        worker = threading.Thread(
            target=lambda: claimed.append(ledger.queue.claim_row("run", "a", owner="w", lease_s=1.5))
        )
        worker.start()
        time.sleep(2.0)
        other.execute("ROLLBACK")
        worker.join(timeout=LIMIT_S)
        other.close()
        assert isinstance(claimed[0], Lease)
        assert ledger.queue.owners("run") == ["w"]


def test_a_closed_ledger_has_no_connection_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger.open(str(path)) as ledger:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        # As the thread of a cancelled task: nobody waits for it.
        writer = threading.Thread(target=lambda: ledger.queue.heartbeat("w", lease_s=60))
        writer.start()
        time.sleep(0.5)
        threading.Timer(1.0, other.close).start()
    assert [name for name in open_files() if name.startswith(str(path))] == []
    with pytest.raises(RuntimeError, match="closed"):
        ledger.queue.heartbeat("w", lease_s=60)


@pytest.mark.slow
def test_reads_and_writes_survive_lost_connections(empty_postgresql: str) -> None:
    with Ledger.open(empty_postgresql) as ledger:
        fill(ledger)
        cut = threading.Event()

        def cut_connections() -> None:
            with psycopg.connect(empty_postgresql, autocommit=True) as admin:
                while not cut.is_set():
                    admin.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where datname = current_database() and pid <> pg_backend_pid()"
                    )
                    time.sleep(0.05)

        cutter = threading.Thread(target=cut_connections)
        cutter.start()
        try:
            for number in range(20):
                assert ledger.rows.count_open("run") == 1
                ledger.queue.heartbeat(f"owner {number}", lease_s=60)
        finally:
            cut.set()
            cutter.join(timeout=LIMIT_S)


def test_a_run_whose_rows_are_not_all_written_is_not_found(ledger: Ledger) -> None:
    fill(ledger)
    assert ledger.runs.status("run") == "preparing"
    assert ledger.runs.newest_unfinished() is None
    assert ledger.runs.find("flow", "f") is None
    for read in (
        lambda: audit(ledger, "run"),
        lambda: export_run(ledger, "run", "out.csv", database=None),
        lambda: export_records(ledger, "run", "out.jsonl", "sharegpt"),
        lambda: compare_runs(ledger, "run", "run"),
        lambda: undo_named_review(ledger, "run", "r0"),
        lambda: schema_of(ledger, "run"),
    ):
        with pytest.raises(InputError, match="ended before its rows were written"):
            read()
    ledger.runs.ready("run")
    assert ledger.runs.newest_unfinished() == "run"
    assert ledger.runs.find("flow", "f") == "run"
    ledger.runs.end("run", status="completed", now=datetime.now(UTC))
    ledger.runs.ready("run")
    assert ledger.runs.status("run") == "completed"


def test_a_stop_interrupts_a_run_only_if_no_other_driver_works_on_it(ledger: Ledger) -> None:
    fill(ledger)
    ledger.runs.ready("run")
    now = datetime.now(UTC)
    for name in ("first", "second"):
        ledger.drivers.start(name, run_id="run", owner=name, host="h", now=now)
    ledger.drivers.stop("first", now=now)
    assert (ledger.drivers.is_stopped("first"), ledger.drivers.is_stopped("second")) == (True, False)
    ledger.drivers.end("first", interrupts=True, now=now)
    assert ledger.runs.status("run") == "running"
    ledger.drivers.end("second", interrupts=True, now=now)
    assert ledger.runs.status("run") == "interrupted"
    assert [driver["status"] for driver in ledger.drivers.of(["run"])] == ["ended", "ended"]
