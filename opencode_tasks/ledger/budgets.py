"""Budget of a run: the amount set aside before a row is sent, and the amount spent.

``attempts.reserved_pico`` is the part of an attempt's reservation that is still set aside. It stays
after the end of an attempt whose usage is unknown, as the upper bound of what was not reported. For an
agent with tools it grows to the bound of all its steps of unknown cost.
``attempts.spent_pico`` is the cost of its recorded steps. ``runs.reserved_pico`` and
``runs.spent_pico`` are the sums of both, kept as counters, so that a reservation takes the same time
in the last row of a run as in its first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from opencode_tasks.domain.money import format_usd
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.schema import attempts, leases, rows, runs

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
    """The budget of a run, and what it and its parts spent. Raises LookupError if there is no such run."""
    columns = (runs.c.max_cost_pico, runs.c.spent_pico, runs.c.reserved_pico, runs.c.refused_pico)
    is_of_run = or_(runs.c.run_id == run_id, runs.c.parent_run_id == run_id)
    # The run is the only one without a parent, or the only one.
    query = select(*columns).where(is_of_run).order_by(runs.c.run_id != run_id)
    found = connection.execute(query).mappings().all()
    if not found:
        raise LookupError(f"the ledger has no run {run_id!r}")
    refused = [one["refused_pico"] for one in found if one["refused_pico"] is not None]
    return Budget(
        max_cost_pico=found[0]["max_cost_pico"],
        spent_pico=sum(one["spent_pico"] for one in found),
        reserved_pico=sum(one["reserved_pico"] for one in found),
        refused_pico=min(refused, default=None),
    )


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
_parts = runs.alias("parts")
# The rows of a run share its budget with its canaries, which are a part of it.
_OF_PARTS = (
    select(func.coalesce(func.sum(_parts.c.spent_pico + _parts.c.reserved_pico), 0))
    .where(_parts.c.parent_run_id == bindparam("of_run"))
    .scalar_subquery()
)
_RESERVE = (
    runs.update()
    .where(
        runs.c.run_id == bindparam("of_run"),
        or_(
            runs.c.max_cost_pico.is_(None),
            runs.c.spent_pico + runs.c.reserved_pico + _OF_PARTS + _AMOUNT <= runs.c.max_cost_pico,
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


class Amounts(NamedTuple):
    """Spending of an attempt, and the amount that is set aside for it; both in pico-dollars."""

    spent_pico: int
    reserved_pico: int


def amounts(attempt: Mapping[str, Any]) -> tuple[Amounts, Amounts]:
    """The amounts of an attempt as they are stored, and as they are after its end.

    ``attempt`` is a line of ``attempts_with_sums``. What stays set aside is the upper bound of what the
    attempt may have cost beyond its known steps: the rest of its reservation, or one more call of an
    agent with tools for each step of unknown cost. It is 0 if everything is known.
    """
    old = Amounts(attempt["spent_pico"], attempt["reserved_pico"])
    spent, unknown_steps = attempt["cost_pico"], attempt["steps"] - attempt["known_cost_pico"]
    if attempt["usage_known"] and not unknown_steps:
        return old, Amounts(spent, 0)
    return old, Amounts(spent, max(0, sum(old) - spent, unknown_steps * attempt["max_call_pico"]))


_COUNT_AMOUNTS = (
    runs.update()
    .where(runs.c.run_id == bindparam("of_run"))
    .values(
        spent_pico=runs.c.spent_pico + bindparam("spent", type_=runs.c.spent_pico.type),
        reserved_pico=runs.c.reserved_pico + bindparam("reserved", type_=runs.c.reserved_pico.type),
    )
)


def count_amounts(connection: Connection, run_id: str, moved: Sequence[tuple[Amounts, Amounts]]) -> None:
    """Add the changes of attempts, each from its old to its new amounts, to the counters of their run."""
    spent = sum(new.spent_pico - old.spent_pico for old, new in moved)
    reserved = sum(new.reserved_pico - old.reserved_pico for old, new in moved)
    if spent or reserved:
        connection.execute(_COUNT_AMOUNTS, {"of_run": run_id, "spent": spent, "reserved": reserved})


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


def spent_on_rows(connection: Connection, run_id: str, row_ids: Sequence[str]) -> dict[str, int]:
    """The cost of the ended attempts of rows in pico-dollars, unreported calls by their upper bound.

    Rows without an ended attempt are left out.
    """
    if not row_ids:
        return {}
    spent = func.sum(attempts.c.spent_pico + attempts.c.reserved_pico)
    query = (
        select(attempts.c.row_id, spent.label("spent"))
        .where(attempts.c.run_id == run_id, attempts.c.row_id.in_(row_ids), attempts.c.ended_at.is_not(None))
        .group_by(attempts.c.row_id)
    )
    return {row.row_id: int(row.spent) for row in connection.execute(query)}


class Budgets(Group):
    """``ledger.budgets``: the cost limit of a run."""

    get: Final = read(get_budget)
    set: Final = write(set_budget)
    high_row_cost: Final = read(high_row_cost)
