"""Claim rows: a worker leases some rows of a run and starts their attempts, in one transaction.

Rows belong to no worker in advance. A worker claims rows when it has room for them, so that none is
idle while another has rows left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, bindparam, func, or_, select

from opencode_tasks.ledger import budgets
from opencode_tasks.ledger.attempts import CRASHED, attempt_counts, attempt_id_of, write_attempts
from opencode_tasks.ledger.clock import Times, times
from opencode_tasks.ledger.finish import fail_rows
from opencode_tasks.ledger.gate_admission import (
    admit,
    closed_gate,
    release_probe,
    suspect_of,
)
from opencode_tasks.ledger.leased_rows import lease_rows
from opencode_tasks.ledger.leases import Lease, release_all
from opencode_tasks.ledger.schema import attempts, leases, rows

# A half-open gate lets one row pass, so one candidate is enough.
PROBES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """Request of a worker for at most ``limit`` rows of its run that may be sent now.

    - ``prefer_untried``: rows without a failed attempt come first. A row that fails again by its own
      fault would close a gate at which it is the first.
    - ``is_idle``: no row is in flight at the worker. Only an idle worker receives a row that was in
      flight when a worker died, and receives that row alone.
    - ``max_cost_of``: the amount to reserve for a row; ``max_call_pico``: upper bound for one more
      call of an agent; both in pico-dollars.
    - ``max_row_pico``: a row that has cost this much is not sent again (None: no limit). It fails with
      the error type and message that ``row_cost_error`` returns for its cost.
    - ``now``: time of the request; None for the clocks of the ledger.
    """

    run_id: str
    owner: str
    gate_id: str
    limit: int
    lease_s: float
    node_id: str
    host: str
    backend: str
    data_dir: str | None
    max_cost_of: Callable[[OpenRow], int] = lambda _: 0
    max_call_pico: int = 0
    max_row_pico: int | None = None
    row_cost_error: Callable[[int], tuple[str, str]] = lambda _: ("budget_exceeded", "the row cost too much")
    prefer_untried: bool = False
    is_idle: bool = True
    now: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRow:
    """A row that has not ended; ``attempts`` counts all attempts that were started.

    ``used`` counts those that count against ``max_attempts``, ``cut_off`` the answers that were cut
    among them. ``limited`` counts rate limits, and ``outages`` the attempts that met an outage.
    ``failed_since`` is the end of the first attempt that failed otherwise or in an outage; None without one.
    ``system`` is the system text of the row, None for that of the run. ``workspace`` is the JSON of the
    source of its workspace, None without one. ``files`` is the JSON of the files that are attached to its
    prompt, None without any.
    """

    row_id: str
    row_key: str
    prompt: str
    system: str | None
    attempts: int
    waits_until: datetime | None
    position: int
    used: int = 0
    cut_off: int = 0
    limited: int = 0
    outages: int = 0
    failed_since: datetime | None = None
    error_type: str | None = None
    workspace: Mapping[str, Any] | None = None
    files: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRow:
    """A row to send: its lease, the id of its attempt and the number of the attempt, from 1.

    ``remaining_pico`` is what the row may still cost, in pico-dollars; None for no limit.
    """

    row: OpenRow
    lease: Lease
    attempt_id: str
    number: int
    remaining_pico: int | None


@dataclass(slots=True, kw_only=True)
class ClaimResult:
    """Result of a claim.

    ``finished`` rows ended during the claim, with a reused answer or by their cost limit. If there are
    fewer rows than requested, ``ledger.queue.state`` has the reason.
    """

    rows: list[ClaimedRow] = field(default_factory=list[ClaimedRow])
    finished: int = 0


_attempt_count = (
    select(func.count())
    .where(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    .correlate(rows)
    .scalar_subquery()
    .label("attempts")
)
_ROW_COLUMNS = (
    *("row_id", "row_key", "prompt", "system", "workspace", "files"),
    *("waits_until", "position", "error_type"),
)
READY_ROWS = (
    select(*(rows.c[name] for name in _ROW_COLUMNS), _attempt_count)
    .outerjoin(leases, leases.c.row_key == rows.c.row_key)
    .where(
        rows.c.run_id == bindparam("of_run"),
        rows.c.status == "open",
        or_(rows.c.waits_until.is_(None), rows.c.waits_until <= bindparam("until")),
        or_(leases.c.row_key.is_(None), leases.c.expires_at <= bindparam("lease_now")),
    )
)
"""Open rows of a run without a lease at ``lease_now`` that wait until ``until`` at most."""


def _candidates_query(condition: ColumnElement[bool]) -> Any:
    """Ready rows that meet a condition, in input order, without the row ``excluded`` (None: all)."""
    excluded = bindparam("excluded", type_=Text())
    is_allowed = or_(excluded.is_(None), rows.c.row_id != excluded)
    query = READY_ROWS.where(condition, is_allowed).order_by(rows.c.position).limit(bindparam("limit"))
    return query.with_for_update(of=rows, skip_locked=True)


_did_not_crash = or_(rows.c.error_type.is_(None), rows.c.error_type != CRASHED)
_CANDIDATES = _candidates_query(_did_not_crash)
_UNTRIED_CANDIDATES = _candidates_query(and_(_did_not_crash, rows.c.attempts == 0))
_CRASHED_CANDIDATES = _candidates_query(rows.c.error_type == CRASHED)


def claim(connection: Connection, request: ClaimRequest) -> ClaimResult:
    """Lease rows of a run that may be sent now, and write their attempts as started.

    Claims nothing if the gate is closed or the budget is reached.
    """
    at = times(connection, request.now)
    gate = closed_gate(connection, request.gate_id)
    if gate is None:
        return _start(connection, request, at, _candidates(connection, request, at, request.limit))
    if gate["reset_time"] is not None and gate["reset_time"] > at.now:
        return ClaimResult()
    found = _candidates(connection, request, at, PROBES, excluded=suspect_of(gate, request.run_id))
    for row in found:
        hold = admit(
            connection,
            request.gate_id,
            run_id=request.run_id,
            row_id=row["row_id"],
            owner=request.owner,
            now=at.now,
            lease_now=at.lease_now,
            probe_s=request.lease_s,
            has_failed=row["attempts"] > 0,
        )
        if hold is not None:
            return ClaimResult()
    result = _start(connection, request, at, found)
    started = {claimed.row.row_id for claimed in result.rows}
    for row in found:
        if row["row_id"] not in started:
            release_probe(connection, request.gate_id, request.owner, row["row_id"])
    return result


def _candidates(
    connection: Connection, request: ClaimRequest, at: Times, limit: int, *, excluded: str | None = None
) -> Sequence[Mapping[str, Any]]:
    """Ready rows in input order; a row that was in flight at a crash comes alone, after all others."""
    for query in [_UNTRIED_CANDIDATES, _CANDIDATES] if request.prefer_untried else [_CANDIDATES]:
        if found := _locked(connection, request, at, query, limit, excluded):
            return found
    return _locked(connection, request, at, _CRASHED_CANDIDATES, 1, excluded) if request.is_idle else []


def _locked(
    connection: Connection, request: ClaimRequest, at: Times, query: Any, limit: int, excluded: str | None
) -> Sequence[Mapping[str, Any]]:
    values = {
        "of_run": request.run_id,
        "lease_now": at.lease_now,
        "until": at.now,
        "limit": limit,
        "excluded": excluded,
    }
    return [dict(row) for row in connection.execute(query, values).mappings()]


def _start(
    connection: Connection, request: ClaimRequest, at: Times, found: Sequence[Mapping[str, Any]]
) -> ClaimResult:
    """Lease the rows, finish those that need no attempt, and start the attempts of the others."""
    keys = {row["row_id"]: row["row_key"] for row in found}
    run_id, owner, lease_s = request.run_id, request.owner, request.lease_s
    leased, copies = lease_rows(connection, run_id, keys, owner=owner, lease_s=lease_s, at=at)
    tried = [row["row_id"] for row in found if row["row_id"] in leased and row["attempts"]]
    counts = attempt_counts(connection, run_id, tried)
    has_limit = request.max_row_pico is not None
    spent = budgets.spent_on_rows(connection, run_id, tried) if has_limit else {}
    costly = _fail_costly(connection, request, at, spent)
    claimed = [
        _claimed_row(request, row, counts.get(row_id, {}), leased[row_id], spent.get(row_id, 0))
        for row in found
        if (row_id := row["row_id"]) in leased and row_id not in costly
    ]
    result = ClaimResult(finished=copies + len(costly))
    uncovered = _start_attempts(connection, request, at, result, claimed)
    release_all(connection, [*(leased[row_id] for row_id in costly), *uncovered])
    return result


def _fail_costly(
    connection: Connection, request: ClaimRequest, at: Times, spent: Mapping[str, int]
) -> Collection[str]:
    """Fail the rows that have cost as much as a row may cost; returns their ids."""
    limit = request.max_row_pico
    errors = {
        row_id: request.row_cost_error(cost)
        for row_id, cost in spent.items()
        if limit is not None and cost >= limit
    }
    if errors:
        fail_rows(connection, request.run_id, errors, now=at.now)
    return errors


def _claimed_row(
    request: ClaimRequest,
    row: Mapping[str, Any],
    counts: Mapping[str, Any],
    lease: Lease,
    spent_pico: int,
) -> ClaimedRow:
    number, limit = row["attempts"] + 1, request.max_row_pico
    return ClaimedRow(
        row=OpenRow(**row, **counts),
        lease=lease,
        attempt_id=attempt_id_of(request.run_id, row["row_id"], lease, number),
        number=number,
        remaining_pico=None if limit is None else limit - spent_pico,
    )


def _start_attempts(
    connection: Connection,
    request: ClaimRequest,
    at: Times,
    result: ClaimResult,
    claimed: Sequence[ClaimedRow],
) -> list[Lease]:
    """Reserve the cost of the rows as far as the budget covers it, and write their attempts.

    Returns the leases of the rows that the budget does not cover.
    """
    costs = [request.max_cost_of(one.row) for one in claimed]
    covered = _reserve(connection, request.run_id, costs)
    result.rows = list(claimed[:covered])
    values = [_attempt_values(request, at, one, cost) for one, cost in zip(result.rows, costs, strict=False)]
    write_attempts(connection, values)
    if claimed and not covered and not budgets.has_rows_in_flight(connection, request.run_id, at.lease_now):
        budgets.record_refusal(connection, request.run_id, costs[0])
    return [one.lease for one in claimed[covered:]]


def _reserve(connection: Connection, run_id: str, costs: Sequence[int]) -> int:
    """Reserve the costs in order, up to the first that the budget does not cover; returns their number."""
    if budgets.try_reserve(connection, run_id, sum(costs)):
        return len(costs)
    for number, cost in enumerate(costs):
        if not budgets.try_reserve(connection, run_id, cost):
            return number
    return len(costs)


def _attempt_values(request: ClaimRequest, at: Times, claimed: ClaimedRow, cost: int) -> dict[str, Any]:
    return {
        "attempt_id": claimed.attempt_id,
        "run_id": request.run_id,
        "row_id": claimed.row.row_id,
        "row_key": claimed.row.row_key,
        "attempt": claimed.number,
        "fence": claimed.lease.fence,
        "owner": request.owner,
        "started_at": at.now,
        "node_id": request.node_id,
        "host": request.host,
        "backend": request.backend,
        "data_dir": request.data_dir,
        "gate_id": request.gate_id,
        "reserved_pico": cost,
        "max_call_pico": request.max_call_pico,
    }
