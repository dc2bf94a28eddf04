"""Rules of the adaptive concurrency limit: the number of rows that may be in flight at a gate. Pure.

The rows in flight of all workers and runs at a gate are counted together. The limit grows with each
answer until the provider refuses a row because there are too many. The number that was accepted then is
the ceiling. After that, one more row is tried from time to time. Each refusal stops the gate for seconds,
so the interval doubles after each refused try. When a try is answered, the step doubles.

A refusal is a rate limit (429) or an overloaded provider. All refusals of rows that were sent before the
limit was cut count as one burst: the limit is cut once, to the number in flight minus the refused rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

FIRST_LIMIT = 4
# Growth before the first refusal: rows per answer, and the maximum share of the limit per second.
ROWS_PER_ANSWER = 1.0
MAX_GROWTH = 0.5
# Refusals arrive before answers: if this share of the rows is answered, none of them was refused.
ANSWERED_SHARE = 0.5
# Seconds until one more row is tried. Doubled each time that it is refused.
FIRST_GAP_S = 20.0
MAX_GAP_S = 640.0
# A refusal costs the wait that the provider asks for and the duration of the row that is sent first then.
# The time until the next try is at least this multiple of that cost.
MIN_COSTS_PER_TRY = 8.0
NEW_SAMPLE_WEIGHT = 0.2
# After this time without rows in flight, a run starts at the known ceiling and tries more rows later.
IDLE_S = 60.0
# An older limit is not used.
MAX_AGE_S = 24 * 3600.0
# If there are more workers than slots, the slots move to other workers after this time.
TURN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimit:
    """State of the limit of a gate. Times are aware UTC.

    - ``limit``: number of rows that may be in flight. ``used_at``: time of the last request of a worker.
      ``grown_at``: time of the last growth.
    - ``ceiling``: number of rows that the provider accepted when it refused more; None before the first
      refusal.
    - ``step``, ``try_at``, ``tried_at``, ``answered``: from ``try_at`` on, the limit may exceed the ceiling
      by ``step``. It has done so since ``tried_at`` (None: it does not), with ``answered`` answers since.
      ``gap_s``: seconds between two tries.
    - ``cut_at``, ``cut_from``, ``cut_floor``, ``refused``: the last burst of refusals. ``cut_from`` rows were
      in flight at ``cut_at``, ``refused`` of them were refused, and the limit is not cut below ``cut_floor``.
    - ``row_s``: moving average of the duration of a row, in seconds.
    """

    limit: float
    used_at: datetime
    grown_at: datetime
    ceiling: int | None = None
    step: int = 1
    gap_s: float = FIRST_GAP_S
    try_at: datetime | None = None
    tried_at: datetime | None = None
    answered: int = 0
    cut_at: datetime | None = None
    cut_from: int = 0
    cut_floor: int = 1
    refused: int = 0
    row_s: float = 0.0

    @property
    def slots(self) -> int:
        """Number of rows that may be in flight, at least 1."""
        return max(1, int(self.limit))


def current_limit(known: AdaptiveLimit | None, *, start: int, now: datetime) -> AdaptiveLimit:
    """The state from which a worker continues; before the first refusal, the limit is at least ``start``."""
    if known is None or _since(known.used_at, now) > MAX_AGE_S:
        return AdaptiveLimit(limit=start, used_at=now, grown_at=now)
    state = replace(known, used_at=now)
    if _since(known.used_at, now) > IDLE_S:
        state = replace(
            state,
            limit=state.limit if state.ceiling is None else state.ceiling,
            gap_s=FIRST_GAP_S,
            try_at=now + timedelta(seconds=FIRST_GAP_S),
            tried_at=None,
            answered=0,
            grown_at=now,
        )
    if state.ceiling is None:
        return replace(state, limit=max(state.limit, start))
    return state


def after_answers(
    state: AdaptiveLimit, answers: Sequence[datetime], *, is_pressed: bool, now: datetime
) -> AdaptiveLimit:
    """The state after answers to rows that were sent at these times.

    ``is_pressed`` says that only the limit prevents further rows from being sent. Without it, the limit
    does not grow.
    """
    state = replace(state, row_s=_row_s(state, answers, now))
    if state.ceiling is None:
        more = 0.0
        if is_pressed:
            at_most = MAX_GROWTH * min(1.0, _since(state.grown_at, now))
            more = min(ROWS_PER_ANSWER * len(answers), at_most * state.limit)
        return replace(state, limit=state.limit + more, grown_at=now)
    if not is_pressed:
        return state
    if state.tried_at is None:
        if state.try_at is not None and now < state.try_at:
            return state
        return replace(state, limit=state.ceiling + 1, step=1, tried_at=now, answered=0)
    tried_at = state.tried_at
    answered = state.answered + sum(1 for sent in answers if sent >= tried_at)
    if answered < ANSWERED_SHARE * state.limit:
        return replace(state, answered=answered)
    ceiling = state.slots
    step = min(2 * state.step, max(1, ceiling // 2))
    return replace(
        state,
        ceiling=ceiling,
        limit=ceiling + step,
        step=step,
        gap_s=FIRST_GAP_S,
        tried_at=now,
        answered=0,
    )


def after_refusals(
    state: AdaptiveLimit, refusals: Sequence[datetime], *, in_flight: int, rest_s: float, now: datetime
) -> AdaptiveLimit:
    """The state after refusals of rows that were sent at these times.

    ``in_flight`` is the number of rows in flight at the first refusal, the refused row included. ``rest_s``
    is the number of seconds during which the provider accepts no rows. A refusal with few rows in flight
    does not change the limit, because it does not depend on their number.
    """
    for sent in refusals:
        if state.cut_at is not None and sent <= state.cut_at:
            state = replace(state, refused=state.refused + 1)
        else:
            state = _new_burst(state, in_flight, rest_s, now)
        if state.tried_at is None and state.cut_from:
            limit = max(state.cut_floor, state.cut_from - state.refused)
            state = replace(state, limit=limit, ceiling=limit)
    return state


def _new_burst(state: AdaptiveLimit, in_flight: int, rest_s: float, now: datetime) -> AdaptiveLimit:
    counted = min(in_flight, state.slots)
    if 2 * counted < state.slots or state.slots == 1:
        return replace(state, cut_at=now, cut_from=0, refused=1)
    was_tried = state.tried_at is not None and state.ceiling is not None
    gap_s = min(MAX_GAP_S, 2 * state.gap_s) if was_tried else state.gap_s
    return replace(
        state,
        cut_at=now,
        cut_from=counted,
        # A refusal of a try does not disprove the number that was accepted before.
        cut_floor=state.ceiling if was_tried and state.ceiling else max(1, state.slots // 2),
        refused=1,
        gap_s=gap_s,
        try_at=now + timedelta(seconds=max(gap_s, MIN_COSTS_PER_TRY * (rest_s + state.row_s))),
        tried_at=None,
        answered=0,
    )


def _row_s(state: AdaptiveLimit, answers: Sequence[datetime], now: datetime) -> float:
    if not answers:
        return state.row_s
    newest = sum(_since(sent, now) for sent in answers) / len(answers)
    return state.row_s + NEW_SAMPLE_WEIGHT * (newest - state.row_s) if state.row_s else newest


def divide(slots: int, wants: Sequence[int], *, turn: int = 0) -> list[int]:
    """Divide slots among workers in proportion to ``wants``; no slot stays unused if it is wanted.

    Each worker gets at least one slot if there are enough. If not, ``turn`` selects the workers that get
    one.
    """
    given = [0] * len(wants)
    asking = [index for index, want in enumerate(wants) if want > 0]
    if not asking:
        return given
    if slots < len(asking):
        for offset in range(slots):
            given[asking[(turn + offset) % len(asking)]] = 1
        return given
    more = [wants[index] - 1 for index in asking]
    left = min(slots - len(asking), sum(more))
    before, seen = 0, 0
    for index, want in zip(asking, more, strict=True):
        seen += want
        upto = left * seen // sum(more) if seen else 0
        given[index], before = 1 + upto - before, upto
    return given


def _since(then: datetime, now: datetime) -> float:
    return (now - then).total_seconds()
