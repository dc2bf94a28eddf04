"""Budget of a run: the amount set aside before a row is sent, and the amount spent.

``attempts.reserved_pico`` is the part of an attempt's reservation that is still set aside. It stays
after the end of an attempt whose usage is unknown, as the upper bound of what was not reported. For an
agent with tools it grows to the bound of all its steps of unknown cost.
``attempts.spent_pico`` is the cost of its recorded steps. ``runs.reserved_pico`` and
``runs.spent_pico`` are the sums of both, kept as counters, so that a reservation takes the same time
in the last row of a run as in its first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from opencode_tasks.domain.money import format_usd
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.schema import attempts, leases, rows, runs, usage

# ``error_type`` of rows that the budget of their run does not cover.
BUDGET_REACHED = "budget_exceeded"
# With fewer costs than this, the percentile says little.
MIN_KNOWN_COSTS = 20
COSTLIEST_PERCENT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Budget of a run in pico-dollars (1e-12 US dollars).

    Attributes:
        max_cost_pico: Cost limit; None if there is none.
        spent_pico: Cost of the ended attempts.
        reserved_pico: Sum of the reservations of rows in flight, and of attempts whose cost is unknown.
        refused_pico: Smallest reservation that did not fit although no row was in flight: the run needs a
            higher budget to continue. None if there was no such reservation.

    Examples:
        >>> from opencode_tasks import Budget
        >>> budget = Budget(max_cost_pico=5 * 10**12, spent_pico=10**12, reserved_pico=0, refused_pico=None)
        >>> (budget.max_cost_pico - budget.spent_pico) / 1e12
        4.0
    """

    max_cost_pico: int | None
    spent_pico: int
    reserved_pico: int
    refused_pico: int | None


def get_budget(connection: Connection, run_id: str) -> Budget:
    """The budget of a run. Raises LookupError if there is no such run."""
    columns = (runs.c.max_cost_pico, runs.c.spent_pico, runs.c.reserved_pico, runs.c.refused_pico)
    found = connection.execute(select(*columns).where(runs.c.run_id == run_id)).mappings().one_or_none()
    if found is None:
        raise LookupError(f"the ledger has no run {run_id!r}")
    return Budget(**found)


def budget_message(budget: Budget) -> str:
    """Message for a budget that is too small for the next row: amounts spent, uncertain and needed."""
    message = f"{format_usd(budget.spent_pico)} of {format_usd(budget.max_cost_pico)} is spent"
    if budget.reserved_pico:
        uncertain = format_usd(budget.reserved_pico)
        message += f", up to {uncertain} more may have been spent by attempts that were cut short"
    return f"{message}; the next row may cost up to {format_usd(budget.refused_pico)}"


def set_budget(connection: Connection, run_id: str, max_cost_pico: int | None) -> None:
    """Set or replace the budget of a run, in pico-dollars; None removes it."""
    values = {"max_cost_pico": max_cost_pico, "refused_pico": None}
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(**values))


_AMOUNT = bindparam("amount", type_=runs.c.reserved_pico.type)
_RESERVE = (
    runs.update()
    .where(
        runs.c.run_id == bindparam("of_run"),
        or_(
            runs.c.max_cost_pico.is_(None),
            runs.c.spent_pico + runs.c.reserved_pico + _AMOUNT <= runs.c.max_cost_pico,
        ),
    )
    .values(reserved_pico=runs.c.reserved_pico + _AMOUNT)
)


def try_reserve(connection: Connection, run_id: str, pico: int) -> bool:
    """Set an amount aside in the budget of a run; False, without any change, if it does not fit."""
    return bool(connection.execute(_RESERVE, {"of_run": run_id, "amount": pico}).rowcount)


def record_refusal(connection: Connection, run_id: str, pico: int) -> None:
    """Record that a reservation did not fit with no row in flight."""
    is_smaller = or_(runs.c.refused_pico.is_(None), runs.c.refused_pico > pico)
    connection.execute(runs.update().where(runs.c.run_id == run_id, is_smaller).values(refused_pico=pico))


def has_rows_in_flight(connection: Connection, run_id: str, lease_now: datetime) -> bool:
    """Whether rows are in flight, which may need less than is set aside for them."""
    is_leased = and_(
        leases.c.row_key == attempts.c.row_key,
        leases.c.owner == attempts.c.owner,
        leases.c.fence == attempts.c.fence,
        leases.c.expires_at > lease_now,
    )
    query = select(attempts.c.attempt_id).join(leases, is_leased)
    running = query.where(attempts.c.run_id == run_id, attempts.c.ended_at.is_(None))
    return connection.execute(running.limit(1)).first() is not None


def unreported_pico(set_aside: int, cost: int, unknown_steps: int, max_call: int) -> int:
    """Upper bound of what an attempt of unknown usage may have cost beyond ``cost``, in pico-dollars.

    ``max_call`` is the bound of one call of an agent with tools; 0 for an attempt that its reservation
    covers.
    """
    return max(0, set_aside - cost, unknown_steps * max_call)


def update_spending(connection: Connection, attempt_id: str) -> None:
    """Count the cost of an attempt's recorded steps, and release what is set aside and not needed."""
    before = connection.execute(select(attempts).where(attempts.c.attempt_id == attempt_id)).mappings().one()
    recorded = connection.execute(
        select(
            func.coalesce(func.sum(usage.c.cost_pico), 0).label("cost"),
            (func.count() - func.count(usage.c.cost_pico)).label("unknown"),
        )
        .where(usage.c.run_id == before["run_id"], usage.c.row_id == before["row_id"])
        .where(usage.c.attempt_id == attempt_id)
    ).one()
    cost = int(recorded.cost)
    set_aside = before["reserved_pico"] + before["spent_pico"]
    is_known = before["usage_known"] and not recorded.unknown
    unreported = unreported_pico(set_aside, cost, recorded.unknown, before["max_call_pico"])
    reserved = 0 if is_known else unreported
    connection.execute(
        attempts.update()
        .where(attempts.c.attempt_id == attempt_id)
        .values(reserved_pico=reserved, spent_pico=cost)
    )
    connection.execute(
        runs.update()
        .where(runs.c.run_id == before["run_id"])
        .values(
            spent_pico=runs.c.spent_pico + (cost - before["spent_pico"]),
            reserved_pico=runs.c.reserved_pico + (reserved - before["reserved_pico"]),
        )
    )


def high_row_cost(connection: Connection, run_id: str) -> int | None:
    """The 95th percentile of the cost of a run's completed rows, in pico-dollars.

    None while fewer than 20 costs are known. Reused rows do not count.
    """
    is_known = (
        (rows.c.run_id == run_id)
        & (rows.c.status == "completed")
        & rows.c.cost_pico.is_not(None)
        & ~rows.c.reused
    )
    count = connection.execute(select(func.count()).where(is_known)).scalar_one()
    if count < MIN_KNOWN_COSTS:
        return None
    query = select(rows.c.cost_pico).where(is_known).order_by(rows.c.cost_pico.desc())
    return connection.execute(query.limit(1).offset(count * COSTLIEST_PERCENT // 100)).scalar_one()


def spent_on_row(connection: Connection, run_id: str, row_id: str) -> int:
    """The cost of a row's ended attempts in pico-dollars, unreported calls by their upper bound."""
    query = select(func.coalesce(func.sum(attempts.c.spent_pico + attempts.c.reserved_pico), 0)).where(
        attempts.c.run_id == run_id, attempts.c.row_id == row_id, attempts.c.ended_at.is_not(None)
    )
    return int(connection.execute(query).scalar_one())


class Budgets(Group):
    """``ledger.budgets``: the cost limit of a run."""

    get: Final = read(get_budget)
    set: Final = write(set_budget)
    high_row_cost: Final = read(high_row_cost)
