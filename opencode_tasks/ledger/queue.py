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
from opencode_tasks.ledger.gates import Held
from opencode_tasks.ledger.leases import Lease, give_back, seize
from opencode_tasks.ledger.queries import OpenRow, tallies
from opencode_tasks.ledger.reuse import copy_from, sources_of
from opencode_tasks.ledger.schema import attempts, leases, rows

# Looked at when a closed gate lets one row pass: a row that it does not let pass stands for all.
AT_A_GATE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What a worker asks for: at most ``most`` rows of its run that may be sent at ``now``.

    ``untroubled_first`` has rows that never failed come before others: by its own fault such a row
    would close a gate that it is the first to try. ``is_idle`` says that nothing is in flight at the
    worker: only then it gets a row in whose company a worker died, and that row alone.
    ``may_cost`` tells the pico-dollars to set aside for a prompt, ``call_most_pico`` what a further
    call of an agent may cost; a row that has cost ``row_most_pico`` (None: any cost) is not sent
    again, it fails as ``too_dear`` (type and message) tells.
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
    too_dear: Callable[[int], tuple[str, str]] = lambda _: ("budget_exceeded", "the row cost too much")
    untroubled_first: bool = False
    is_idle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A row to send: its lease, its attempt (written as begun) and that attempt's number, from 1.

    ``left_pico`` is what it may still cost, None for any cost.
    """

    row: OpenRow
    lease: Lease
    attempt_id: str
    number: int
    left_pico: int | None


@dataclass(slots=True, kw_only=True)
class Pulled:
    """What came of a Pull; ``settled`` rows ended with it, by an answer that was there or by their cost.

    ``held`` is the gate that lets nobody pass, ``short`` the run's budget that is too little for the
    next row: ``in_flight`` of it says whether others may give back some.
    """

    rows: list[Begun] = field(default_factory=list[Begun])
    settled: int = 0
    held: Held | None = None
    short: BudgetReachedError | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing came of it at all."""
        return not self.rows and not self.settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is open in a run: ``ready`` rows may be sent now, counted up to a limit.

    ``leased`` says that others are held, by whomever. Of those that wait for a moment ``next_at`` is
    the first, with what it shows as its error; None where none waits.
    """

    ready: int
    leased: bool
    next_at: datetime | None
    error_type: str
    words: str


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


def pull(connection: Connection, asked: Pull) -> Pulled:
    """Lease rows and begin their attempts. Nothing is begun where the gate or the budget says no."""
    gate = gates.closed_line(connection, asked.gate_id)
    if gate is None:
        return _begin(connection, asked, _candidates(connection, asked, asked.most))
    if gate["reset_time"] is not None and gate["reset_time"] > asked.now:
        return Pulled(held=gates.held_by(gate))
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
            return Pulled(held=held)
    pulled = _begin(connection, asked, found)
    for row in found:
        if not any(begun.row.row_id == row["row_id"] for begun in pulled.rows):
            gates.give_up_probe(connection, asked.gate_id, asked.owner, row["row_id"])
    if not found and gate["reset_time"] is None:
        pulled.held = gates.held_by(gate)
    return pulled


def outlook(connection: Connection, run_id: str, *, now: datetime, until: datetime, most: int) -> Outlook:
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
    return Outlook(
        ready=connection.execute(
            ready, {"of_run": run_id, "now": now, "until": until, "most": most}
        ).scalar_one(),
        leased=connection.execute(held).first() is not None,
        next_at=waiting.waits_until if waiting else None,
        error_type=(waiting.error_type if waiting else None) or "waiting",
        words=(waiting.error_message if waiting else None) or "rows wait",
    )


def _candidates(
    connection: Connection, asked: Pull, most: int, *, but: str | None = None
) -> Sequence[Mapping[str, Any]]:
    """Free rows in input order; one in whose company a worker died only alone and after all others."""
    for claim in [_UNTROUBLED, _CALM] if asked.untroubled_first else [_CALM]:
        if found := _locked(connection, asked, claim, most, but):
            return found
    return _locked(connection, asked, _IN_BAD_COMPANY, 1, but) if asked.is_idle else []


def _locked(
    connection: Connection, asked: Pull, claim: Any, most: int, but: str | None
) -> Sequence[Mapping[str, Any]]:
    told = {"of_run": asked.run_id, "now": asked.now, "until": asked.now, "most": most, "but": but}
    return [dict(row) for row in connection.execute(claim, told).mappings()]


def _begin(connection: Connection, asked: Pull, found: Sequence[Mapping[str, Any]]) -> Pulled:
    pulled = Pulled()
    by_key = {row["row_key"]: row for row in reversed(found)}
    until = asked.now + timedelta(seconds=asked.lease_s)
    taken = seize(connection, list(by_key), owner=asked.owner, now=asked.now, until=until)
    if not taken:
        return pulled
    mine = [row for row in found if row["row_key"] in taken and by_key[row["row_key"]] is row]
    # After the leases are ours nobody else can finish a row of these keys.
    sources = sources_of(connection, asked.run_id, [row["row_id"] for row in mine])
    tried = tallies(connection, asked.run_id, [row["row_id"] for row in mine if row["tried"]])
    given_back: list[Lease] = []
    begun: list[Begun] = []
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
            pulled.settled += 1
            given_back.append(lease)
            continue
        begun.append(_begun(asked, row, tried.get(row["row_id"], {}), lease, left))
    _write_begun(connection, asked, pulled, begun, given_back)
    give_back(connection, given_back)
    return pulled


def _left_to_spend(connection: Connection, asked: Pull, row: Mapping[str, Any]) -> int | None:
    """What the row may still cost, in pico-dollars; where that is nothing, it has failed by now."""
    if asked.row_most_pico is None or not row["tried"]:
        return asked.row_most_pico
    left = asked.row_most_pico - budgets.spent_on(connection, asked.run_id, row["row_id"])
    if left <= 0:
        kind, words = asked.too_dear(asked.row_most_pico - left)
        row_id, now = row["row_id"], asked.now
        fail(connection, asked.run_id, row_id, error_type=kind, error_message=words, now=now)
    return left


def _begun(
    asked: Pull, row: Mapping[str, Any], tally: Mapping[str, Any], lease: Lease, left: int | None
) -> Begun:
    number = row["tried"] + 1
    return Begun(
        row=OpenRow(**{name: row[name] for name in _SHOWN}, attempts=row["tried"], **tally),
        lease=lease,
        attempt_id=trials.attempt_id(asked.run_id, row["row_id"], lease, number),
        number=number,
        left_pico=left,
    )


def _write_begun(
    connection: Connection, asked: Pull, pulled: Pulled, begun: Sequence[Begun], given_back: list[Lease]
) -> None:
    """Set aside what the rows may cost, as far as the budget goes, and write their attempts."""
    costs = [asked.may_cost(one.row.prompt) for one in begun]
    granted = len(begun)
    if begun and not budgets.fits(connection, asked.run_id, sum(costs)):
        granted = 0
        for cost in costs:
            try:
                budgets.reserve(connection, asked.run_id, cost, asked.now)
            except BudgetReachedError as short:
                pulled.short = short
                break
            granted += 1
    given_back.extend(one.lease for one in begun[granted:])
    pulled.rows = list(begun[:granted])
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
            for one, cost in zip(pulled.rows, costs, strict=False)
        ],
    )
    if pulled.short is not None and granted:
        # What was begun just now is in flight, and may give back some of what is set aside for it.
        pulled.short = BudgetReachedError(in_flight=True)
    elif pulled.short is not None and not pulled.short.in_flight:
        budgets.refuse(connection, asked.run_id, costs[0])
