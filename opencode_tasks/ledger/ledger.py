"""``Ledger``, the one face of the database: what ran, what it cost, and who may buy what.

Every write is one transaction and idempotent: doing it twice changes nothing. Money is in
pico-dollars, times are aware UTC and handed in. Thread-safe; each process opens its own by URL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from opencode_tasks.domain.records import Answer, AttemptRecord, RowInput
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import attempts as trials
from opencode_tasks.ledger import budgets, gates, imports, leases, totals
from opencode_tasks.ledger import bulk_commit as finishing
from opencode_tasks.ledger import commit as commits
from opencode_tasks.ledger import concurrency as paces
from opencode_tasks.ledger import purge as purging
from opencode_tasks.ledger import queries as reads
from opencode_tasks.ledger import queue as pulling
from opencode_tasks.ledger import reuse as sharing
from opencode_tasks.ledger import runs as run_specs
from opencode_tasks.ledger.budgets import Budget
from opencode_tasks.ledger.bulk_commit import Finish
from opencode_tasks.ledger.concurrency import Allocation, ConcurrencyRequest, ConcurrencyState
from opencode_tasks.ledger.database import Database, open_database
from opencode_tasks.ledger.gates import Closing, Gate, GateObservation
from opencode_tasks.ledger.incremental import AnsweredRows, answered_in, rows_of_run, run_of_flow_run
from opencode_tasks.ledger.leases import Busy, Lease, Taken
from opencode_tasks.ledger.purge import Purged
from opencode_tasks.ledger.queries import OrphanedAttempt, Progress
from opencode_tasks.ledger.queue import ClaimRequest, ClaimResult, QueueState
from opencode_tasks.ledger.report_queries import ReportQueries


class Ledger:
    """An open ledger; a context manager that closes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Ledger:
        """The ledger at a path, ``sqlite:///…`` or ``postgresql://…``, created or upgraded where needed.

        Raises SetupError (with a hint) where it cannot be opened: a network file system, an
        unreachable server, a schema newer than this package.
        """
        return cls(open_database(url))

    @property
    def url(self) -> str:
        """The URL by which another process opens the same ledger; it holds the password, if any."""
        return self._database.engine.url.render_as_string(hide_password=False)

    @property
    def report_queries(self) -> ReportQueries:
        """What was spent, for reports."""
        return ReportQueries(self._database)

    def close(self) -> None:
        """Close all connections."""
        self._database.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def recorded_in(self, session_id: str) -> str | None:
        """The run that a session is recorded in, None where it is in none."""
        return self._database.read(lambda connection: imports.recorded_in(connection, session_id))

    def import_session(self, record: AttemptRecord, **told: Any) -> str:
        """Write a session that was not of ours and what it bought; see ``imports.import_session``."""
        return self._database.write(lambda connection: imports.import_session(connection, record, **told))

    def forget_texts(self, run_id: str, kinds: Collection[str], *, now: datetime) -> None:
        """Remove texts (prompts, answers, traces) of a run; its money stays."""
        if kinds:
            self._database.write(lambda connection: purging.forget_texts(connection, [run_id], kinds, now))

    def purge(self, before: datetime, *, texts_only: bool, now: datetime) -> Purged:
        """Remove what runs that ended before a moment hold, but the money; see ``purging.purge``."""
        found = self._database.write(
            lambda connection: purging.purge(connection, before, texts_only=texts_only, now=now)
        )
        self._database.give_back_space()
        return found

    # Runs and their rows

    def create_run(
        self,
        *,
        run_id: str,
        parameters: Mapping[str, Any],
        model_ref: str | None,
        backend: str,
        opencode_version: str | None,
        deployment: str | None,
        flow_run_id: str | None,
        input_fingerprint: str,
        row_count: int,
        refresh: bool,
        now: datetime,
        max_cost_pico: int | None = None,
        series: str | None = None,
    ) -> None:
        """Write a run as running; one with this id that exists stays as it is."""
        values = {
            "run_id": run_id,
            "parameters": dict(parameters),
            "model_ref": model_ref,
            "backend": backend,
            "opencode_version": opencode_version,
            "deployment": deployment,
            "flow_run_ids": [] if flow_run_id is None else [flow_run_id],
            "input_fingerprint": input_fingerprint,
            "row_count": row_count,
            "refresh": refresh,
            "max_cost_pico": max_cost_pico,
            "series": series,
            "created_at": now,
            "status": "running",
        }
        self._database.write(lambda c: run_specs.create_run(c, values))

    def end_run(self, run_id: str, *, status: run_specs.RunStatus, now: datetime) -> None:
        """Write how a run ended."""
        self._database.write(lambda c: run_specs.end_run(c, run_id, status=status, now=now))

    def add_flow_run(self, run_id: str, flow_run_id: str) -> None:
        """Write that a flow run works on this run, which is running (again). LookupError without the run."""
        self._database.write(lambda c: run_specs.add_flow_run(c, run_id, flow_run_id))

    def find_run(self, flow_run_id: str, input_fingerprint: str) -> str | None:
        """The run that a flow run began over an input before; None where it begins one now."""
        return self._database.read(lambda c: run_specs.find_run(c, flow_run_id, input_fingerprint))

    def answered_in(self, series: str) -> AnsweredRows:
        """The rows that runs of a series completed before."""
        return self._database.read(lambda c: answered_in(c, series))

    def rows_of_run(self, series: str, run_id: str) -> frozenset[str] | None:
        """The ids of a run's rows; None where the run is not of the series."""
        return self._database.read(lambda c: rows_of_run(c, series, run_id))

    def run_of_flow_run(self, series: str, flow_run_id: str) -> str | None:
        """The newest run of a series that a flow run worked on; None where it begins one now."""
        return self._database.read(lambda c: run_of_flow_run(c, series, flow_run_id))

    def sleeping_runs(self, deployment: str | None) -> list[run_specs.SleepingRun]:
        """The runs of a deployment that wait for a moment, the newest first."""
        return self._database.read(lambda connection: run_specs.sleeping_runs(connection, deployment))

    def row_keys(self, run_id: str) -> frozenset[str]:
        """The keys of a run's rows."""
        return self._database.read(lambda connection: run_specs.row_keys(connection, run_id))

    def newest_unfinished(self) -> str | None:
        """The run that was created last among those that can be resumed, None without one."""
        return self._database.read(run_specs.newest_unfinished)

    def pause_run(self, run_id: str, *, until: datetime | None, reason: str) -> None:
        """Write that a run waits until a moment, or (None) for a person."""
        self._database.write(lambda c: run_specs.pause_run(c, run_id, until=until, reason=reason))

    def mark_running(self, run_id: str) -> None:
        """Write that a run that waited is running again."""
        self._database.write(lambda c: run_specs.mark_running(c, run_id))

    def add_rows(self, run_id: str, rows: Iterable[RowInput]) -> None:
        """Write rows as open; those that exist stay as they are. They may be gone through again."""
        self._database.write(lambda c: run_specs.add_rows(c, run_id, rows))

    def reuse_answers(self, run_id: str, *, now: datetime) -> int:
        """Answer the run's open rows whose row_key has an answer already; how many there were.

        Answers are completed, not themselves reused, of any run; in a run with ``refresh``, only
        those completed since that run was created. The newest wins.
        """
        return self._database.write(lambda c: sharing.reuse(c, run_id, now))

    def fail_row(
        self, run_id: str, row_id: str, *, error_type: str, error_message: str, now: datetime
    ) -> None:
        """Fail an open row without a lease: refused before it started, or its worker died twice."""
        self._database.write(
            lambda c: commits.fail(
                c, run_id, row_id, error_type=error_type, error_message=error_message, now=now
            )
        )

    def skip_rows(self, run_id: str, *, error_type: str, error_message: str, now: datetime) -> int:
        """Skip every open row of a run; how many there were."""
        return self._database.write(
            lambda c: commits.skip(c, run_id, error_type=error_type, error_message=error_message, now=now)
        )

    def claim(self, asked: ClaimRequest) -> ClaimResult:
        """Lease rows of a run that may be sent now and write their attempts as begun."""
        return self._database.write(lambda c: pulling.claim(c, asked))

    def queue_state(self, run_id: str, *, now: datetime, until: datetime, most: int) -> QueueState:
        """What is open in a run; rows that wait until ``until`` at most count as ready, up to ``most``."""
        return self._database.read(lambda c: pulling.queue_state(c, run_id, now=now, until=until, most=most))

    # Leases

    def take(
        self, run_id: str, row_id: str, *, owner: str, now: datetime, lease_s: float
    ) -> Lease | Taken | Busy:
        """Take the right to buy a row; ``Taken`` where it has ended or an answer could be copied.

        A copied answer follows the rule of ``reuse_answers``; a failure under the same key in
        the same run is shared too. LookupError where there is no such row.
        """
        return self._database.write(
            lambda c: leases.take(c, run_id, row_id, owner=owner, now=now, lease_s=lease_s)
        )

    def heartbeat(self, owner: str, *, now: datetime, lease_s: float) -> None:
        """Extend every lease that the owner still holds."""
        self._database.write(lambda c: leases.heartbeat(c, owner, now=now, lease_s=lease_s))

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens where it was lost."""
        self._database.write(lambda c: leases.release(c, lease))

    def break_lease(self, row_key: str, owner: str) -> None:
        """Free the key of an owner that is known to be dead; nothing happens where another holds it."""
        self._database.write(lambda c: leases.break_lease(c, row_key, owner))

    # Attempts

    def note_sessions(self, notes: Sequence[tuple[str, str, str | None]]) -> None:
        """Write the sessions of attempts as soon as they are known: attempt, session and data folder.

        A folder of None leaves the one that was written when the attempt began.
        """
        self._database.write(lambda c: trials.note_sessions(c, notes))

    def orphaned_attempts(self, run_id: str, host: str) -> list[OrphanedAttempt]:
        """The attempts without an end on a host, of any run, at keys of a run's open rows; oldest first."""
        return self._database.read(lambda c: reads.orphaned_attempts(c, run_id, host))

    def ended_attempts(self, attempt_ids: Collection[str]) -> list[str]:
        """Those of these attempts that have an end; ids that the ledger does not hold have none."""
        return self._database.read(lambda c: reads.ended_attempts(c, attempt_ids))

    def crashed_rows(self, run_id: str, batch_id: str) -> list[str]:
        """Show on the rows that a dead worker had in flight that it died; their ids."""
        return self._database.write(lambda c: trials.crashed_rows(c, run_id, batch_id))

    def lease_owners(self, run_id: str, *, now: datetime) -> list[str]:
        """Who holds keys of a run's open rows."""
        return self._database.read(lambda c: leases.owners(c, run_id, now))

    def open_count(self, run_id: str) -> int:
        """How many rows of a run are open."""
        return self._database.read(lambda c: reads.open_count(c, run_id))

    def end_attempt(
        self, attempt_id: str, *, record: AttemptRecord, error: OpenCodeError | None, now: datetime
    ) -> None:
        """Write how an attempt ended and what it bought, whoever holds the lease by now.

        Said again, it fills in what was unknown (the usage of an adopted session) and changes
        nothing that is known; the row's totals follow. LookupError where there is no such attempt.
        """
        self._database.write(lambda c: _end_attempt(c, attempt_id, record, error, now))

    def finish_row(
        self,
        *,
        lease: Lease,
        attempt_id: str,
        record: AttemptRecord,
        run_id: str,
        row_id: str,
        answer: Answer | None,
        error: OpenCodeError | None,
        now: datetime,
    ) -> None:
        """End the attempt and its row at once: with an answer completed, with an error failed.

        The row's tokens, cost and attempts are those of all its attempts; the lease is given back;
        the run's other open rows with the same key get the outcome as reused. Raises LeaseLostError
        where another took the key since: the attempt is recorded then, the row is not touched.
        """
        if answer is not None and error is None:
            outcome = commits.answered(answer)
        elif error is not None and answer is None:
            outcome = commits.failed(error, record, commits.partial_text(error))
        else:
            raise ValueError("a row ends with an answer or with an error, one of them")
        finished = self._database.write(
            lambda c: commits.finish(
                c,
                lease=lease,
                attempt_id=attempt_id,
                record=record,
                run_id=run_id,
                row_id=row_id,
                outcome=outcome,
                error=error,
                now=now,
            )
        )
        if not finished:
            raise leases.lost(lease)

    def finish_answered(self, ended: Sequence[Finish], reports: Sequence[GateObservation]) -> list[bool]:
        """End many rows that were answered, each as ``finish_row`` does, and tell their gate.

        For each, in order, False where its lease was lost: its attempt is recorded then, its row is
        not touched.
        """

        def finish(connection: Connection) -> list[bool]:
            gates.tell_answered(connection, reports, ended[-1].now)
            return finishing.finish_answered(connection, ended)

        return self._database.write(finish) if ended else []

    def wait_row(
        self, lease: Lease, *, run_id: str, row_id: str, error: OpenCodeError, until: datetime | None
    ) -> None:
        """Leave a row open until a moment (None: for a person), with its error shown; gives the lease back.

        Raises LeaseLostError where another took the key since.
        """
        self._database.write(
            lambda c: commits.wait(c, lease, run_id=run_id, row_id=row_id, error=error, until=until)
        )

    def hold_rows(
        self,
        run_id: str,
        row_ids: Sequence[str] | None,
        *,
        error_type: str,
        error_message: str,
        until: datetime | None,
    ) -> None:
        """Show on open rows that were held back what they wait for; None: on all that do not show it yet."""
        self._database.write(
            lambda c: commits.hold(
                c, run_id, row_ids, error_type=error_type, error_message=error_message, until=until
            )
        )

    # Budgets

    def budget(self, run_id: str) -> Budget:
        """A run's budget and what became of it. LookupError without the run."""
        return self._database.read(lambda c: budgets.budget_of(c, run_id))

    def set_budget(self, run_id: str, max_cost_pico: int | None) -> None:
        """Give a run a budget in pico-dollars, another one or none."""
        self._database.write(lambda c: budgets.set_budget(c, run_id, max_cost_pico))

    def costliest_row(self, run_id: str) -> int | None:
        """The 95th percentile, in pico-dollars, of what answered rows cost; None while few are known."""
        return self._database.read(lambda c: budgets.costliest_row(c, run_id))

    def spent_on(self, run_id: str, row_id: str) -> int:
        """What a row's recorded steps cost so far, in pico-dollars."""
        return self._database.read(lambda c: budgets.spent_on(c, run_id, row_id))

    # Gates

    def gate(self, gate_id: str) -> Gate | None:
        """A gate as it stands, None where nothing was ever wrong with it."""
        return self._database.read(lambda c: gates.read(c, gate_id))

    def keep_probe(self, owner: str, *, now: datetime, probe_s: float) -> None:
        """Extend the probe that an owner still works on."""
        self._database.write(lambda c: gates.keep_probe(c, owner, now=now, probe_s=probe_s))

    def give_up_probe(self, gate_id: str, owner: str, row_id: str) -> None:
        """Let another row be the probe; nothing happens where this one is not."""
        self._database.write(lambda c: gates.give_up_probe(c, gate_id, owner, row_id))

    def report(
        self,
        report: GateObservation,
        *,
        now: datetime,
        limit_end: Closing,
        outage_end: Closing,
        breaker_failures: int,
    ) -> None:
        """Tell a gate how an attempt ended; ``limit_end`` and ``outage_end`` say until when it closes."""
        if not self._database.read(lambda c: gates.wants_report(c, report)):
            return
        self._database.write(
            lambda c: gates.report(
                c,
                report,
                now=now,
                limit_end=limit_end,
                outage_end=outage_end,
                breaker_failures=breaker_failures,
            )
        )

    def half_open(self, gate_id: str, *, now: datetime) -> None:
        """Let one row try a gate that waits for a person; nothing happens at any other."""
        self._database.write(lambda c: gates.half_open(c, gate_id, now))

    def sync_concurrency(
        self, gate_id: str, owner: str, told: ConcurrencyRequest, *, now: datetime
    ) -> Allocation:
        """Tell a gate's pace how a worker's rows fared, and be given the worker's share of the slots."""
        return self._database.write(lambda c: paces.sync_concurrency(c, gate_id, owner, told, now=now))

    def pace(self, gate_id: str, *, now: datetime) -> ConcurrencyState | None:
        """A gate's pace as it stands, None where no row was ever sent through it."""
        return self._database.read(lambda c: paces.read(c, gate_id, now))

    # What it tells

    def progress(self, run_id: str) -> Progress:
        """Rows by status and what the run bought so far."""
        return self._database.read(lambda c: reads.progress(c, run_id))

    def outcomes(self, run_id: str, span: range | None = None) -> list[dict[str, Any]]:
        """One dict a row in input order: every column of ``rows`` but run_id and prompt.

        Of the rows at the positions in ``span``, a plain range; None for all.
        """
        return self._database.read(lambda c: reads.outcomes(c, run_id, span))

    def usage(self, run_id: str) -> list[dict[str, Any]]:
        """One dict a step: every column of ``usage``, by time."""
        return self._database.read(lambda c: reads.usage_of(c, run_id))

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """One dict an attempt: every column of ``attempts``, oldest first."""
        return self._database.read(lambda c: reads.attempts_table(c, run_id))

    def first_ended(self, run_id: str, *, since: datetime) -> tuple[datetime, datetime] | None:
        """Start and end of the attempt that ended first of those begun since a moment; None without one."""
        return self._database.read(lambda c: reads.first_ended(c, run_id, since))

    def runs(self, limit: int = 50) -> list[dict[str, Any]]:
        """The newest runs first: every column of ``runs`` and the fields of ``Progress``."""
        return self._database.read(lambda c: reads.newest_runs(c, limit))

    def run(self, run_id: str) -> dict[str, Any] | None:
        """One run as in ``runs``, None where there is none."""
        return self._database.read(lambda c: reads.one_run(c, run_id))

    def run_status(self, run_id: str) -> str | None:
        """A run's status alone; None where there is no such run."""
        return self._database.read(lambda c: reads.run_status(c, run_id))

    def row_story(self, run_id: str, row_id: str) -> dict[str, Any] | None:
        """All that is known of a row, None without it.

        Keys: ``row``, ``attempts``, ``sessions`` (with messages), ``usage``, ``inner_retries``.
        """
        return self._database.read(lambda c: reads.row_story(c, run_id, row_id))

    def cost(self, run_id: str) -> list[dict[str, Any]]:
        """By ``model_ref``: rows, steps, tokens, cost_pico, cost_source, failed_cost_pico; each step once."""
        return self._database.read(lambda c: reads.cost(c, run_id))


def _end_attempt(
    connection: Any, attempt_id: str, record: AttemptRecord, error: OpenCodeError | None, now: datetime
) -> None:
    before = trials.end(connection, attempt_id, record=record, error=error, now=now)
    totals.refresh_row(connection, before["run_id"], before["row_id"])
