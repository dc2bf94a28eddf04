"""How many rows may be in flight at a gate: found by trying, cut by refusals, remembered.

All that is in flight at a gate, in every worker and run, counts together. The number climbs with
each answer until the provider refuses a row for too many at once. What it took then is the ceiling.
From there on one row more is tried now and then, ever more rarely while it is refused, since each
refusal rests the whole gate for seconds; once it is answered, the steps up double.

A refusal is a rate limit (429) or a provider that says it is overloaded. Those of rows that were
sent before the cut are one burst and one cut: to what was in flight, less what was refused of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

FIRST_LIMIT = 4
# The climb while nothing is known: rows more for each answer, and at most this share in a second.
ROWS_PER_ANSWER = 1.0
MAX_GROWTH = 0.5
# A refusal comes at once and an answer later: so much of a round answered, nothing was refused in it.
ENOUGH_OF_A_ROUND = 0.5
# Seconds until one row more is tried, doubled each time that it is refused.
FIRST_GAP_S = 20.0
MAX_GAP_S = 640.0
# A refusal costs the provider's rest and the time that the row which goes first then takes; a try
# is at least so many times that away.
COSTS_PER_GAP = 8.0
WEIGHT_OF_THE_NEWEST = 0.2
# With nothing in flight for so long a later run begins: at what is known, without haste to try more.
IDLE_S = 60.0
# What was found longer ago than that is forgotten.
REMEMBERED_S = 24 * 3600.0
# Where a worker has no slot because there are more workers than slots, its turn comes.
TURN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimit:
    """What is known of a gate.

    ``limit`` rows may be in flight. ``ceiling`` is how many were seen to be taken at once when more
    were refused, None where nothing was refused yet. From ``try_at`` on the limit may go ``step``
    beyond it, which it did at ``tried_at`` (None: it does not), with ``answered`` answers since.
    ``cut_from`` were in flight at ``cut_at`` when the first of ``refused`` rows was refused, and it
    is cut to ``cut_floor`` at least. ``row_s`` is how long rows took of late. ``grown_at`` and
    ``used_at`` are when it was last looked at.
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
        """How many rows may be in flight."""
        return max(1, int(self.limit))


def claimed(known: AdaptiveLimit | None, *, start: int, now: datetime) -> AdaptiveLimit:
    """What a worker begins or goes on with; ``start`` rows where nothing was refused yet."""
    if known is None or _since(known.used_at, now) > REMEMBERED_S:
        return AdaptiveLimit(limit=start, used_at=now, grown_at=now)
    pace = replace(known, used_at=now)
    if _since(known.used_at, now) > IDLE_S:
        pace = replace(
            pace,
            limit=pace.limit if pace.ceiling is None else pace.ceiling,
            gap_s=FIRST_GAP_S,
            try_at=now + timedelta(seconds=FIRST_GAP_S),
            tried_at=None,
            answered=0,
            grown_at=now,
        )
    if pace.ceiling is None:
        return replace(pace, limit=max(pace.limit, start))
    return pace


def grown(
    pace: AdaptiveLimit, answers: Sequence[datetime], *, is_pressed: bool, now: datetime
) -> AdaptiveLimit:
    """The pace after answers to rows that were sent at these moments; not pressed, it stays.

    ``is_pressed`` says that rows are kept from being sent by the limit alone.
    """
    pace = replace(pace, row_s=_row_s(pace, answers, now))
    if pace.ceiling is None:
        more = 0.0
        if is_pressed:
            at_most = MAX_GROWTH * min(1.0, _since(pace.grown_at, now))
            more = min(ROWS_PER_ANSWER * len(answers), at_most * pace.limit)
        return replace(pace, limit=pace.limit + more, grown_at=now)
    if not is_pressed:
        return pace
    if pace.tried_at is None:
        if pace.try_at is not None and now < pace.try_at:
            return pace
        return replace(pace, limit=pace.ceiling + 1, step=1, tried_at=now, answered=0)
    tried_at = pace.tried_at
    answered = pace.answered + sum(1 for sent in answers if sent >= tried_at)
    if answered < ENOUGH_OF_A_ROUND * pace.limit:
        return replace(pace, answered=answered)
    ceiling = pace.slots
    step = min(2 * pace.step, max(1, ceiling // 2))
    return replace(
        pace,
        ceiling=ceiling,
        limit=ceiling + step,
        step=step,
        gap_s=FIRST_GAP_S,
        tried_at=now,
        answered=0,
    )


def cut(
    pace: AdaptiveLimit, refusals: Sequence[datetime], *, in_flight: int, rest_s: float, now: datetime
) -> AdaptiveLimit:
    """The pace after refusals of rows that were sent at these moments.

    ``in_flight`` were so when the first was refused, itself among them; ``rest_s`` is how long the
    provider wants none. Few in flight say nothing of how many may be.
    """
    for sent in refusals:
        if pace.cut_at is not None and sent <= pace.cut_at:
            pace = replace(pace, refused=pace.refused + 1)
        else:
            pace = _new_burst(pace, in_flight, rest_s, now)
        if pace.tried_at is None and pace.cut_from:
            limit = max(pace.cut_floor, pace.cut_from - pace.refused)
            pace = replace(pace, limit=limit, ceiling=limit)
    return pace


def _new_burst(pace: AdaptiveLimit, in_flight: int, rest_s: float, now: datetime) -> AdaptiveLimit:
    counted = min(in_flight, pace.slots)
    if 2 * counted < pace.slots or pace.slots == 1:
        return replace(pace, cut_at=now, cut_from=0, refused=1)
    was_tried = pace.tried_at is not None and pace.ceiling is not None
    gap_s = min(MAX_GAP_S, 2 * pace.gap_s) if was_tried else pace.gap_s
    return replace(
        pace,
        cut_at=now,
        cut_from=counted,
        # What was refused beyond a number that was answered before says nothing against that.
        cut_floor=pace.ceiling if was_tried and pace.ceiling else max(1, pace.slots // 2),
        refused=1,
        gap_s=gap_s,
        try_at=now + timedelta(seconds=max(gap_s, COSTS_PER_GAP * (rest_s + pace.row_s))),
        tried_at=None,
        answered=0,
    )


def _row_s(pace: AdaptiveLimit, answers: Sequence[datetime], now: datetime) -> float:
    if not answers:
        return pace.row_s
    newest = sum(_since(sent, now) for sent in answers) / len(answers)
    return pace.row_s + WEIGHT_OF_THE_NEWEST * (newest - pace.row_s) if pace.row_s else newest


def divide(slots: int, wants: Sequence[int], *, turn: int = 0) -> list[int]:
    """Slots for workers that could use so many: in proportion, all of them given where they are wanted.

    Each gets one at least while there are enough; where there are not, ``turn`` says whose turn it is.
    """
    given = [0] * len(wants)
    asking = [index for index, want in enumerate(wants) if want > 0]
    if not asking:
        return given
    if slots < len(asking):
        for place in range(slots):
            given[asking[(turn + place) % len(asking)]] = 1
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
