"""A run's budget: set aside before a row is sent, settled when it is known what it bought.

An attempt's ``reserved_pico`` is the part of its reservation that nothing has settled: of an
attempt that ended with its usage unknown it stays, as the upper bound of what was not reported.
``settled_pico`` is what its recorded steps cost. A run's ``reserved_pico`` and ``spent_pico`` are
the sums of both, kept as counters, so that a reservation costs the same in the last row of a run
as in its first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from opencode_tasks.ledger.schema import attempts, leases, rows, runs, usage

# What a row shows that its run's budget is too little for.
BUDGET_REACHED = "budget_exceeded"
# Fewer costs than this say little about the dear ones among them.
MIN_SEEN = 20
DEAR_PERCENT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Pico-dollars; ``max_cost_pico`` None is no budget.

    ``refused_pico`` is the smallest reservation that did not fit although nothing was in flight:
    the run can go on only with a higher budget. None while that has not happened.
    """

    max_cost_pico: int | None
    spent_pico: int
    reserved_pico: int
    refused_pico: int | None


class BudgetReachedError(Exception):
    """An attempt's reservation does not fit; ``in_flight`` says that others may yet give some back."""

    def __init__(self, *, in_flight: bool) -> None:
        super().__init__(in_flight)
        self.in_flight = in_flight


def budget_of(connection: Connection, run_id: str) -> Budget:
    """A run's budget and what became of it. LookupError without the run."""
    columns = (runs.c.max_cost_pico, runs.c.spent_pico, runs.c.reserved_pico, runs.c.refused_pico)
    found = connection.execute(select(*columns).where(runs.c.run_id == run_id)).mappings().one_or_none()
    if found is None:
        raise LookupError(f"the ledger has no run {run_id!r}")
    return Budget(**found)


def set_budget(connection: Connection, run_id: str, max_cost_pico: int | None) -> None:
    """Give a run a budget, another one or none."""
    values = {"max_cost_pico": max_cost_pico, "refused_pico": None}
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(**values))


def reserve(connection: Connection, run_id: str, pico: int, now: datetime) -> None:
    """Set aside what an attempt may cost. Raises BudgetReachedError where it does not fit."""
    if not fits(connection, run_id, pico):
        raise BudgetReachedError(in_flight=_in_flight(connection, run_id, now))


_MORE = bindparam("more", type_=runs.c.reserved_pico.type)
_SET_ASIDE = (
    runs.update()
    .where(
        runs.c.run_id == bindparam("of_run"),
        or_(
            runs.c.max_cost_pico.is_(None),
            runs.c.spent_pico + runs.c.reserved_pico + _MORE <= runs.c.max_cost_pico,
        ),
    )
    .values(reserved_pico=runs.c.reserved_pico + _MORE)
)


def fits(connection: Connection, run_id: str, pico: int) -> bool:
    """Set aside what attempts may cost; False, and nothing is, where it does not fit."""
    return bool(connection.execute(_SET_ASIDE, {"of_run": run_id, "more": pico}).rowcount)


def refuse(connection: Connection, run_id: str, pico: int) -> None:
    """Write that a reservation did not fit with nothing in flight."""
    smaller = or_(runs.c.refused_pico.is_(None), runs.c.refused_pico > pico)
    connection.execute(runs.update().where(runs.c.run_id == run_id, smaller).values(refused_pico=pico))


def _in_flight(connection: Connection, run_id: str, now: datetime) -> bool:
    held = and_(
        leases.c.row_key == attempts.c.row_key,
        leases.c.owner == attempts.c.owner,
        leases.c.fence == attempts.c.fence,
        leases.c.until > now,
    )
    query = select(attempts.c.attempt_id).join(leases, held)
    running = query.where(attempts.c.run_id == run_id, attempts.c.ended_at.is_(None))
    return connection.execute(running.limit(1)).first() is not None


def settle(connection: Connection, attempt_id: str) -> None:
    """Count what an attempt's recorded steps cost; give back what was set aside and is not needed."""
    before = connection.execute(select(attempts).where(attempts.c.attempt_id == attempt_id)).mappings().one()
    bought = connection.execute(
        select(
            func.coalesce(func.sum(usage.c.cost_pico), 0).label("cost"),
            (func.count() - func.count(usage.c.cost_pico)).label("unknown"),
        )
        .where(usage.c.run_id == before["run_id"], usage.c.row_id == before["row_id"])
        .where(usage.c.attempt_id == attempt_id)
    ).one()
    cost = int(bought.cost)
    set_aside = before["reserved_pico"] + before["settled_pico"]
    is_known = before["usage_known"] and not bought.unknown
    left = 0 if is_known else max(0, set_aside - cost)
    connection.execute(
        attempts.update()
        .where(attempts.c.attempt_id == attempt_id)
        .values(reserved_pico=left, settled_pico=cost)
    )
    connection.execute(
        runs.update()
        .where(runs.c.run_id == before["run_id"])
        .values(
            spent_pico=runs.c.spent_pico + (cost - before["settled_pico"]),
            reserved_pico=runs.c.reserved_pico + (left - before["reserved_pico"]),
        )
    )


def costliest_row(connection: Connection, run_id: str) -> int | None:
    """The 95th percentile of what this run's answered rows cost; None while few are known."""
    known = (
        (rows.c.run_id == run_id)
        & (rows.c.status == "completed")
        & rows.c.cost_pico.is_not(None)
        & ~rows.c.reused
    )
    count = connection.execute(select(func.count()).where(known)).scalar_one()
    if count < MIN_SEEN:
        return None
    query = select(rows.c.cost_pico).where(known).order_by(rows.c.cost_pico.desc())
    return connection.execute(query.limit(1).offset(count * DEAR_PERCENT // 100)).scalar_one()


def spent_on(connection: Connection, run_id: str, row_id: str) -> int:
    """What a row's recorded steps cost so far."""
    query = select(func.coalesce(func.sum(usage.c.cost_pico), 0)).where(
        usage.c.run_id == run_id, usage.c.row_id == row_id
    )
    return int(connection.execute(query).scalar_one())
