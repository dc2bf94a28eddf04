"""How a worker gets rows: a few at a time, leased and their attempts begun in one transaction.

Rows are pulled by whoever has room for them, so that no worker idles while another has rows left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, bindparam, func, or_, select

from opencode_tasks.ledger import attempts as trials
from opencode_tasks.ledger import budgets, gates
from opencode_tasks.ledger.attempts import CRASHED
from opencode_tasks.ledger.budgets import BudgetReachedError
from opencode_tasks.ledger.commit import fail
from opencode_tasks.ledger.gates import GateHold
from opencode_tasks.ledger.leases import Lease, give_back, seize
from opencode_tasks.ledger.queries import OpenRow, attempt_counts
from opencode_tasks.ledger.reuse import copy_from, sources_of
from opencode_tasks.ledger.schema import attempts, leases, rows

# Looked at when a closed gate lets one row pass: a row that it does not let pass stands for all.
AT_A_GATE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """What a worker asks for: at most ``most`` rows of its run that may be sent at ``now``.

    ``prefer_untried`` has rows that never failed come before others: by its own fault such a row
    would close a gate that it is the first to try. ``is_idle`` says that nothing is in flight at the
    worker: only then it gets a row in whose company a worker died, and that row alone.
    ``may_cost`` tells the pico-dollars to set aside for a prompt, ``call_most_pico`` what a further
    call of an agent may cost; a row that has cost ``row_most_pico`` (None: any cost) is not sent
    again, it fails as ``over_row_cap`` (type and message) tells.
    """

    run_id: str
    owner: str
    gate_id: str
    most: int
    now: datetime
    lease_s: float
    node_id: str
    host: str
    backend: str
    data_dir: str | None
    may_cost: Callable[[str], int] = lambda _: 0
    call_most_pico: int = 0
    row_most_pico: int | None = None
    over_row_cap: Callable[[int], tuple[str, str]] = lambda _: ("budget_exceeded", "the row cost too much")
    prefer_untried: bool = False
    is_idle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRow:
    """A row to send: its lease, its attempt (written as begun) and that attempt's number, from 1.

    ``left_pico`` is what it may still cost, None for any cost.
    """

    row: OpenRow
    lease: Lease
    attempt_id: str
    number: int
    left_pico: int | None


@dataclass(slots=True, kw_only=True)
class ClaimResult:
    """What came of a Pull; ``settled`` rows ended with it, by an answer that was there or by their cost.

    ``held`` is the gate that lets nobody pass, ``short`` the run's budget that is too little for the
    next row: ``in_flight`` of it says whether others may give back some.
    """

    rows: list[ClaimedRow] = field(default_factory=list[ClaimedRow])
    settled: int = 0
    held: GateHold | None = None
    short: BudgetReachedError | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing came of it at all."""
        return not self.rows and not self.settled


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What is open in a run: ``ready`` rows may be sent now, counted up to a limit.

    ``leased`` says that others are held, by whomever. Of those that wait for a moment ``next_at`` is
    the first, with what it shows as its error; None where none waits.
    """

    ready: int
    leased: bool
    next_at: datetime | None
    error_type: str
    message: str


_tried = (
    select(func.count())
    .where(attempts.c.run_id == rows.c.run_id, attempts.c.row_id == rows.c.row_id)
    .correlate(rows)
    .scalar_subquery()
    .label("tried")
)
_SHOWN = ("row_id", "row_key", "prompt", "waits_until", "position", "error_type")
# A run's open rows that nobody holds at ``now`` and that wait for no later moment than ``until``.
_FREE = (
    select(*(rows.c[name] for name in _SHOWN), _tried)
    .outerjoin(leases, leases.c.row_key == rows.c.row_key)
    .where(
        rows.c.run_id == bindparam("of_run"),
        rows.c.status == "open",
        or_(rows.c.waits_until.is_(None), rows.c.waits_until <= bindparam("until")),
        or_(leases.c.row_key.is_(None), leases.c.until <= bindparam("now")),
    )
)


def _claim(wanted: ColumnElement[bool]) -> Any:
    """Free rows of a kind in input order, up to ``most`` and never ``but`` (None: any)."""
    allowed = or_(bindparam("but", type_=Text()).is_(None), rows.c.row_id != bindparam("but", type_=Text()))
    found = _FREE.where(wanted, allowed).order_by(rows.c.position).limit(bindparam("most"))
    return found.with_for_update(of=rows, skip_locked=True)


_IS_CALM = or_(rows.c.error_type.is_(None), rows.c.error_type != CRASHED)
_CALM = _claim(_IS_CALM)
_UNTROUBLED = _claim(and_(_IS_CALM, rows.c.attempts == 0))
_IN_BAD_COMPANY = _claim(rows.c.error_type == CRASHED)


def claim(connection: Connection, asked: ClaimRequest) -> ClaimResult:
    """Lease rows and begin their attempts. Nothing is begun where the gate or the budget says no."""
    gate = gates.closed_line(connection, asked.gate_id)
    if gate is None:
        return _begin(connection, asked, _candidates(connection, asked, asked.most))
    if gate["reset_time"] is not None and gate["reset_time"] > asked.now:
        return ClaimResult(held=gates.held_by(gate))
    found = _candidates(connection, asked, AT_A_GATE, but=gates.suspect_in(gate, asked.run_id))
    for row in found:
        held = gates.admit(
            connection,
            asked.gate_id,
            run_id=asked.run_id,
            row_id=row["row_id"],
            owner=asked.owner,
            now=asked.now,
            probe_s=asked.lease_s,
            is_troubled=row["tried"] > 0,
        )
        if held is not None:
            return ClaimResult(held=held)
    claim_result = _begin(connection, asked, found)
    for row in found:
        if not any(claimed.row.row_id == row["row_id"] for claimed in claim_result.rows):
            gates.give_up_probe(connection, asked.gate_id, asked.owner, row["row_id"])
    if not found and gate["reset_time"] is None:
        claim_result.held = gates.held_by(gate)
    return claim_result


def queue_state(
    connection: Connection, run_id: str, *, now: datetime, until: datetime, most: int
) -> QueueState:
    """What is open in a run; rows that wait until ``until`` at most count as ready, up to ``most``."""
    ready = select(func.count()).select_from(_FREE.limit(bindparam("most")).subquery())
    held = (
        select(rows.c.row_id)
        .join(leases, leases.c.row_key == rows.c.row_key)
        .where(rows.c.run_id == run_id, rows.c.status == "open", leases.c.until > now)
        .limit(1)
    )
    first = (
        select(rows.c.waits_until, rows.c.error_type, rows.c.error_message)
        .where(rows.c.run_id == run_id, rows.c.status == "open", rows.c.waits_until > now)
        .order_by(rows.c.waits_until)
        .limit(1)
    )
    waiting = connection.execute(first).one_or_none()
    return QueueState(
        ready=connection.execute(
            ready, {"of_run": run_id, "now": now, "until": until, "most": most}
        ).scalar_one(),
        leased=connection.execute(held).first() is not None,
        next_at=waiting.waits_until if waiting else None,
        error_type=(waiting.error_type if waiting else None) or "waiting",
        message=(waiting.error_message if waiting else None) or "rows wait",
    )


def _candidates(
    connection: Connection, asked: ClaimRequest, most: int, *, but: str | None = None
) -> Sequence[Mapping[str, Any]]:
    """Free rows in input order; one in whose company a worker died only alone and after all others."""
    for claim in [_UNTROUBLED, _CALM] if asked.prefer_untried else [_CALM]:
        if found := _locked(connection, asked, claim, most, but):
            return found
    return _locked(connection, asked, _IN_BAD_COMPANY, 1, but) if asked.is_idle else []


def _locked(
    connection: Connection, asked: ClaimRequest, claim: Any, most: int, but: str | None
) -> Sequence[Mapping[str, Any]]:
    told = {"of_run": asked.run_id, "now": asked.now, "until": asked.now, "most": most, "but": but}
    return [dict(row) for row in connection.execute(claim, told).mappings()]


def _begin(connection: Connection, asked: ClaimRequest, found: Sequence[Mapping[str, Any]]) -> ClaimResult:
    claim_result = ClaimResult()
    by_key = {row["row_key"]: row for row in reversed(found)}
    until = asked.now + timedelta(seconds=asked.lease_s)
    taken = seize(connection, list(by_key), owner=asked.owner, now=asked.now, until=until)
    if not taken:
        return claim_result
    mine = [row for row in found if row["row_key"] in taken and by_key[row["row_key"]] is row]
    # After the leases are ours nobody else can finish a row of these keys.
    sources = sources_of(connection, asked.run_id, [row["row_id"] for row in mine])
    tried = attempt_counts(connection, asked.run_id, [row["row_id"] for row in mine if row["tried"]])
    given_back: list[Lease] = []
    claimed: list[ClaimedRow] = []
    for row in mine:
        lease = taken[row["row_key"]]
        source = sources.get(row["row_id"])
        if source is not None:
            copy_from(
                connection,
                asked.run_id,
                row["row_id"],
                source_run_id=source[0],
                source_row_id=source[1],
                now=asked.now,
            )
        left = None if source is not None else _left_to_spend(connection, asked, row)
        if source is not None or (left is not None and left <= 0):
            claim_result.settled += 1
            given_back.append(lease)
            continue
        claimed.append(_begun(asked, row, tried.get(row["row_id"], {}), lease, left))
    _write_begun(connection, asked, claim_result, claimed, given_back)
    give_back(connection, given_back)
    return claim_result


def _left_to_spend(connection: Connection, asked: ClaimRequest, row: Mapping[str, Any]) -> int | None:
    """What the row may still cost, in pico-dollars; where that is nothing, it has failed by now."""
    if asked.row_most_pico is None or not row["tried"]:
        return asked.row_most_pico
    left = asked.row_most_pico - budgets.spent_on(connection, asked.run_id, row["row_id"])
    if left <= 0:
        kind, message = asked.over_row_cap(asked.row_most_pico - left)
        row_id, now = row["row_id"], asked.now
        fail(connection, asked.run_id, row_id, error_type=kind, error_message=message, now=now)
    return left


def _begun(
    asked: ClaimRequest, row: Mapping[str, Any], counts: Mapping[str, Any], lease: Lease, left: int | None
) -> ClaimedRow:
    number = row["tried"] + 1
    return ClaimedRow(
        row=OpenRow(**{name: row[name] for name in _SHOWN}, attempts=row["tried"], **counts),
        lease=lease,
        attempt_id=trials.attempt_id(asked.run_id, row["row_id"], lease, number),
        number=number,
        left_pico=left,
    )


def _write_begun(
    connection: Connection,
    asked: ClaimRequest,
    claim_result: ClaimResult,
    claimed: Sequence[ClaimedRow],
    given_back: list[Lease],
) -> None:
    """Set aside what the rows may cost, as far as the budget goes, and write their attempts."""
    costs = [asked.may_cost(one.row.prompt) for one in claimed]
    granted = len(claimed)
    if claimed and not budgets.fits(connection, asked.run_id, sum(costs)):
        granted = 0
        for cost in costs:
            try:
                budgets.reserve(connection, asked.run_id, cost, asked.now)
            except BudgetReachedError as short:
                claim_result.short = short
                break
            granted += 1
    given_back.extend(one.lease for one in claimed[granted:])
    claim_result.rows = list(claimed[:granted])
    trials.write_begun(
        connection,
        [
            {
                "attempt_id": one.attempt_id,
                "run_id": asked.run_id,
                "row_id": one.row.row_id,
                "row_key": one.row.row_key,
                "attempt": one.number,
                "fence": one.lease.fence,
                "owner": asked.owner,
                "started_at": asked.now,
                "node_id": asked.node_id,
                "host": asked.host,
                "backend": asked.backend,
                "data_dir": asked.data_dir,
                "gate_id": asked.gate_id,
                "reserved_pico": cost,
                "call_most_pico": asked.call_most_pico,
            }
            for one, cost in zip(claim_result.rows, costs, strict=False)
        ],
    )
    if claim_result.short is not None and granted:
        # What was begun just now is in flight, and may give back some of what is set aside for it.
        claim_result.short = BudgetReachedError(in_flight=True)
    elif claim_result.short is not None and not claim_result.short.in_flight:
        budgets.refuse(connection, asked.run_id, costs[0])
