"""Next step of a run: send rows, wait until a time, wait for a person, or end. Pure.

``next_step`` is the only place that decides it. It is a function of one read of the ledger, so that
worker, dispatcher and flow have the same answer and the same sentence for people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from opencode_tasks.domain.hold import Hold
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.errors import BudgetExceededError, ServerError


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWait:
    """The first time (aware UTC) until which an open row waits, and the error of that row."""

    until: datetime
    error_type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedGate:
    """A gate that lets no row pass until a time (aware UTC), or with ``until`` None until a person acts.

    ``is_confirmed`` False: another row is to show whether only the first one is refused.
    """

    until: datetime | None
    error_type: str
    message: str
    is_confirmed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """State of a run at one time, as the ledger has it.

    Attributes:
        now: That time (aware UTC).
        ready: Number of rows that wait for nothing but the gate and the budget, counted up to a limit.
        has_leased: Whether open rows are in flight, in this run or under the same key in another one.
        first_wait: The row that waits for the shortest time; None if no row waits.
        gate: The gate of the run's rows; None if it is open.
        failing_since: Time (aware UTC) since which the provider is unavailable; None if it is not.
        budget_message: Reason why the budget covers no further row; None if it does.
        open_rows: Number of rows without an outcome; 0 if they were not counted, since some can be sent.
        last_progress: Time (aware UTC) of the last outcome, or of the start or resume of the run by a person;
            None if it was not read.

    The row that an unconfirmed gate suspects is not ``ready``, not leased and does not wait.
    """

    now: datetime
    ready: int
    has_leased: bool
    first_wait: RowWait | None
    gate: ClosedGate | None = None
    failing_since: datetime | None = None
    budget_message: str | None = None
    open_rows: int = 0
    last_progress: datetime | None = None

    @property
    def has_rows(self) -> bool:
        """Whether rows can be sent, or wait to be sent, once gate and budget allow it."""
        return bool(self.ready) or self.has_leased or self.first_wait is not None

    def waits_at_most(self, seconds: float) -> bool:
        """Whether a row waits, for ``seconds`` at most."""
        return self.first_wait is not None and (self.first_wait.until - self.now).total_seconds() <= seconds


@dataclass(frozen=True, slots=True)
class Run:
    """Rows may be sent now, or are in flight."""


@dataclass(frozen=True, slots=True)
class Wait:
    """No row may be sent before ``hold.until``."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class NeedsPerson:
    """No row may be sent before a person acts; ``hold.until`` is None."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Done:
    """Every row has an outcome."""


NextStep = Run | Wait | NeedsPerson | Done


def next_step(state: RunState, limits: RetryLimits) -> NextStep:
    """Return what a run does next.

    A wait that would end more than ``max_rate_limit_wait_s`` after the last progress, and an outage that
    lasts longer than ``max_outage_wait_s``, need a person: all rows share that fate, and none fails.
    """
    if not state.has_rows and not state.open_rows:
        return Done()
    hold = _hold(state)
    if hold is None:
        return Run()
    hold = replace(_limited(hold, state, limits), open_rows=state.open_rows)
    return NeedsPerson(hold) if hold.until is None else Wait(hold)


def hold_of(step: NextStep) -> Hold | None:
    """The hold of a step; None if rows may be sent or none is left."""
    return step.hold if isinstance(step, Wait | NeedsPerson) else None


def is_longer_than(step: NextStep, seconds: float, now: datetime) -> bool:
    """Whether no row may be sent for more than ``seconds`` from ``now``."""
    hold = hold_of(step)
    return hold is not None and hold.is_longer_than(seconds, now)


def _hold(state: RunState) -> Hold | None:
    if state.budget_message is not None:
        budget = BudgetExceededError.error_type
        return Hold(until=None, error_type=budget, message=state.budget_message, applies_to_all=True)
    gate = state.gate
    if gate is not None and _lets_no_row_pass(gate, state):
        return Hold(until=gate.until, error_type=gate.error_type, message=gate.message, applies_to_all=True)
    if state.ready or state.has_leased or state.first_wait is None:
        return None
    return Hold(
        until=state.first_wait.until, error_type=state.first_wait.error_type, message=state.first_wait.message
    )


def _lets_no_row_pass(gate: ClosedGate, state: RunState) -> bool:
    if gate.until is not None:
        return gate.until > state.now
    return gate.is_confirmed or not state.has_rows


def _limited(hold: Hold, state: RunState, limits: RetryLimits) -> Hold:
    """The hold, until a person acts if it lasts longer than the limits allow."""
    if hold.until is None:
        return hold
    if hold.error_type == ServerError.error_type and state.failing_since is not None:
        outage_s = (state.now - state.failing_since).total_seconds()
        if outage_s > limits.max_outage_wait_s:
            reason = (
                f"the provider has answered no row for {_shown(outage_s)}; the limit of "
                f"OPENCODE_TASKS_MAX_OUTAGE_WAIT is {_shown(limits.max_outage_wait_s)}"
            )
            return replace(hold, until=None, message=f"{hold.message} ({reason})")
    since = state.last_progress
    if since is not None and (hold.until - since).total_seconds() > limits.max_rate_limit_wait_s:
        reason = (
            f"the wait until {hold.until:%Y-%m-%d %H:%M:%S} UTC is longer than "
            f"{_shown(limits.max_rate_limit_wait_s)}, the limit of OPENCODE_TASKS_MAX_RATE_LIMIT_WAIT"
        )
        return replace(hold, until=None, message=f"{hold.message} ({reason})")
    return hold


def _shown(seconds: float) -> str:
    """A duration in its two largest units, such as "1 day 12 h" or "1 min 30 s"."""
    left, parts = round(seconds), list[str]()
    for name, size in (("day", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}{'s' if name == 'day' and count > 1 else ''}")
    return " ".join(parts[:2]) or "0 s"
