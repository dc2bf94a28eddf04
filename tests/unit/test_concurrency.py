"""The rules of the adaptive limit, and their simulation against a provider with a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.concurrency import (
    FIRST_GAP_S,
    FIRST_LIMIT,
    IDLE_S,
    MAX_AGE_S,
    MAX_GAP_S,
    MIN_COSTS_PER_TRY,
    AdaptiveLimit,
    after_answers,
    after_refusals,
    current_limit,
    divide,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def known(limit: float = 10, ceiling: int | None = 10, **more: object) -> AdaptiveLimit:
    """A gate at its ceiling, the next try in twenty seconds."""
    pace = AdaptiveLimit(limit=limit, ceiling=ceiling, used_at=NOW, grown_at=NOW, try_at=at(FIRST_GAP_S))
    return replace(pace, **more)


def refused(
    pace: AdaptiveLimit, rows: int, in_flight: int, seconds: float, rest_s: float = 2.0
) -> AdaptiveLimit:
    return after_refusals(
        pace, [at(seconds - 0.1)] * rows, in_flight=in_flight, rest_s=rest_s, now=at(seconds)
    )


def test_a_gate_begins_low_and_where_the_user_says() -> None:
    assert current_limit(None, start=FIRST_LIMIT, now=NOW).slots == FIRST_LIMIT
    assert current_limit(current_limit(None, start=FIRST_LIMIT, now=NOW), start=16, now=at(1)).slots == 16


def test_it_climbs_with_answers_but_by_no_more_than_half_a_second() -> None:
    first = current_limit(None, start=4, now=NOW)
    one = after_answers(first, [NOW], is_pressed=True, now=at(1))
    assert (one.limit, one.row_s) == (5, 1)
    assert after_answers(one, [NOW] * 1000, is_pressed=True, now=at(2)).limit == 7.5
    assert after_answers(one, [NOW] * 1000, is_pressed=True, now=at(1.2)).limit == pytest.approx(5.5)


def test_it_does_not_climb_where_the_limit_holds_nothing_back() -> None:
    assert (
        after_answers(current_limit(None, start=4, now=NOW), [NOW] * 9, is_pressed=False, now=at(1)).limit
        == 4
    )
    assert after_answers(known(), [NOW] * 9, is_pressed=False, now=at(9)) == known(row_s=9)


def test_a_burst_is_one_cut_to_what_was_taken() -> None:
    climbing = replace(current_limit(None, start=13, now=NOW), limit=13.9)
    first = refused(climbing, 1, 13, 1)
    assert (first.slots, first.ceiling) == (12, 12)
    rest = after_refusals(first, [at(0.9), at(0.95)], in_flight=12, rest_s=2, now=at(1.2))
    assert (rest.slots, rest.ceiling, rest.cut_at) == (10, 10, at(1))


def test_a_burst_halves_at_most() -> None:
    assert refused(known(20, 20), 19, 20, 1).slots == 10


def test_refusals_with_few_in_flight_say_nothing() -> None:
    found = refused(known(), 3, 4, 1)
    assert (found.limit, found.ceiling) == (10, 10)
    assert refused(known(1, 1), 1, 1, 1).slots == 1


def test_one_row_more_is_tried_when_its_time_has_come() -> None:
    assert after_answers(known(), [], is_pressed=True, now=at(FIRST_GAP_S - 1)).limit == 10
    tried = after_answers(known(), [], is_pressed=True, now=at(FIRST_GAP_S))
    assert (tried.limit, tried.ceiling, tried.tried_at) == (11, 10, at(FIRST_GAP_S))


def test_a_try_that_fails_is_repeated_ever_more_rarely() -> None:
    pace, now, gaps = known(), 0.0, list[float]()
    while now < 4000:
        tried = after_answers(pace, [], is_pressed=True, now=at(now))
        if tried.tried_at is not None:
            pace = refused(tried, 1, 11, now)
            assert (pace.limit, pace.ceiling, pace.try_at) == (10, 10, at(now + pace.gap_s))
            gaps.append(pace.gap_s)
        now += 1
    assert gaps[:4] == [40, 80, 160, 320]
    assert gaps[-1] == MAX_GAP_S


def test_a_long_rest_makes_tries_rarer() -> None:
    tried = after_answers(known(), [], is_pressed=True, now=at(20))
    assert refused(tried, 1, 11, 21, rest_s=60).try_at == at(21 + 60 * MIN_COSTS_PER_TRY)
    slow = replace(tried, row_s=30)
    assert refused(slow, 1, 11, 21, rest_s=2).try_at == at(21 + 32 * MIN_COSTS_PER_TRY)


def test_steps_double_once_a_try_is_answered() -> None:
    pace, now, limits = known(gap_s=160), FIRST_GAP_S, list[float]()
    for _ in range(5):
        pace = after_answers(pace, [at(now)] * 100, is_pressed=True, now=at(now))
        limits.append(pace.limit)
        now += 1
    assert limits == [11, 13, 17, 25, 37]
    assert (pace.ceiling, pace.gap_s) == (25, FIRST_GAP_S)


def test_answers_to_rows_sent_before_the_try_say_nothing_of_it() -> None:
    tried = after_answers(known(), [], is_pressed=True, now=at(20))
    assert after_answers(tried, [at(19)] * 100, is_pressed=True, now=at(22)).limit == 11
    assert after_answers(tried, [at(21)] * 5, is_pressed=True, now=at(22)).limit == 11
    assert after_answers(tried, [at(21)] * 6, is_pressed=True, now=at(22)).limit == 13


def test_a_try_that_fails_does_not_go_below_what_was_answered() -> None:
    tried = known(25, 17, tried_at=at(5), step=8)
    assert refused(tried, 5, 25, 6).slots == 20
    assert refused(tried, 12, 25, 6).slots == 17


def test_what_was_found_is_remembered_for_a_day() -> None:
    used = known(13, 11, tried_at=at(5), gap_s=320)
    later = current_limit(used, start=FIRST_LIMIT, now=at(IDLE_S + 1))
    assert (later.limit, later.gap_s, later.tried_at) == (11, FIRST_GAP_S, None)
    assert current_limit(used, start=FIRST_LIMIT, now=at(IDLE_S - 1)).limit == 13
    assert current_limit(used, start=FIRST_LIMIT, now=at(MAX_AGE_S + 1)).ceiling is None


def test_slots_are_divided_by_what_each_can_use() -> None:
    assert divide(10, [30, 30]) == [5, 5]
    assert divide(10, [90, 10]) == [8, 2]
    assert divide(10, [64, 0]) == [10, 0]
    assert divide(10, [3, 4]) == [3, 4]
    assert divide(10, []) == []


def test_with_more_workers_than_slots_each_has_its_turn() -> None:
    assert [divide(1, [5, 0, 5], turn=turn) for turn in range(3)] == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]


@given(st.integers(1, 100), st.lists(st.integers(0, 200), max_size=12), st.integers(0, 1000))
def test_a_division_gives_out_all_that_is_wanted_and_there(slots: int, wants: list[int], turn: int) -> None:
    given_out = divide(slots, wants, turn=turn)
    assert sum(given_out) == min(slots, sum(wants))
    assert all(0 <= given <= want for given, want in zip(given_out, wants, strict=True))
    if slots >= len(wants):
        assert all(given for given, want in zip(given_out, wants, strict=True) if want)


# A provider with a limit, workers that ask once per second, and the waits of the gate between them.

STEP_S = 0.02
LATENCY_S = 1.0
REFUSAL_S = 0.15
REST_S = 2.0


@dataclass(slots=True)
class Row:
    sent: float
    arrives: float
    ends: float = 0.0
    is_refused: bool = False


@dataclass(slots=True)
class Worker:
    next_visit: float
    share: int = 0
    flying: list[Row] = field(default_factory=list[Row])
    answers: list[datetime] = field(default_factory=list[datetime])
    refusals: list[datetime] = field(default_factory=list[datetime])
    refused_of: int = 0
    is_pressed: bool = False


@dataclass(slots=True)
class World:
    """One gate in seconds: closed for two after a refusal, then one row goes first."""

    allowed: Callable[[float], int]
    workers: Sequence[Worker]
    fixed: int | None = None
    pace: AdaptiveLimit | None = None
    closed_until: float | None = None
    probe: Row | None = None
    busy: list[float] = field(default_factory=list[float])
    answered: int = 0
    refused: int = 0

    def run(self, seconds: float) -> None:
        for tick in range(int(seconds / STEP_S)):
            now = tick * STEP_S
            self.busy = [end for end in self.busy if end > now]
            for worker in self.workers:
                self._arrive(worker, now)
                self._end(worker, now)
            for index, worker in enumerate(self.workers):
                if now >= worker.next_visit or worker.refusals:
                    self._visit(index, now)
                self._send(worker, now)

    def _arrive(self, worker: Worker, now: float) -> None:
        for number, row in enumerate(worker.flying):
            if row.ends or row.arrives > now:
                continue
            row.is_refused = len(self.busy) >= self.allowed(now)
            # Not all answers take the same time.
            takes = LATENCY_S * (0.9 + 0.05 * ((number + int(now * 10)) % 5))
            row.ends = now + (REFUSAL_S if row.is_refused else takes)
            if not row.is_refused:
                self.busy.append(row.ends)

    def _end(self, worker: Worker, now: float) -> None:
        for row in [row for row in worker.flying if row.ends and row.ends <= now]:
            if row.is_refused:
                self.refused += 1
                worker.refused_of = max(worker.refused_of, len(worker.flying))
                worker.refusals.append(at(row.sent))
                if self.closed_until is None or self.probe is row:
                    self.closed_until, self.probe = now + REST_S, None
            else:
                self.answered += 1
                worker.answers.append(at(row.sent))
                if self.probe is row:
                    self.closed_until = self.probe = None
            worker.flying.remove(row)

    def _visit(self, index: int, now: float) -> None:
        worker = self.workers[index]
        others = [other for other in self.workers if other is not worker]
        pace = current_limit(self.pace, start=self.fixed or FIRST_LIMIT, now=at(now))
        if self.fixed is None:
            flying = worker.refused_of + sum(len(other.flying) for other in others)
            pace = after_refusals(pace, worker.refusals, in_flight=flying, rest_s=REST_S, now=at(now))
            pace = after_answers(pace, worker.answers, is_pressed=worker.is_pressed, now=at(now))
        held = sum(max(other.share, len(other.flying)) for other in others)
        fair = divide(pace.slots, [1000] * len(self.workers))[index]
        worker.share = max(0, min(fair, pace.slots - held))
        worker.answers, worker.refusals, worker.refused_of, worker.is_pressed = [], [], 0, False
        worker.next_visit = max(worker.next_visit, now + 1.0 if now >= worker.next_visit else 0.0)
        self.pace = pace

    def _send(self, worker: Worker, now: float) -> None:
        if self.closed_until is not None:
            if now >= self.closed_until and self.probe is None:
                self.probe = Row(now, now + 0.1)
                worker.flying.append(self.probe)
            return
        while len(worker.flying) < worker.share:
            worker.flying.append(Row(now, now + 0.05 + 0.01 * (len(worker.flying) % 10)))
        worker.is_pressed = True


def world(allowed: Callable[[float], int], count: int, seconds: float, fixed: int | None = None) -> World:
    made = World(allowed, [Worker(next_visit=0.3 * index) for index in range(count)], fixed)
    made.run(seconds)
    return made


CASES: dict[str, Callable[[float], int]] = {
    "constant": lambda _: 10,
    "halving": lambda now: 10 if now < 100 else 5,
    "doubling": lambda now: 10 if now < 100 else 20,
}


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_provider_of_so_many_places_is_used_well(case: str, workers: int) -> None:
    best = max(world(CASES[case], workers, 200, fixed).answered for fixed in (5, 8, 10, 12, 20))
    found = world(CASES[case], workers, 200)
    assert found.answered >= 0.9 * best
    assert found.refused <= 0.02 * (found.answered + found.refused)


def test_all_workers_together_keep_to_the_limit() -> None:
    made = World(lambda _: 10, [Worker(next_visit=0.3 * index) for index in range(3)])
    for _ in range(40):
        made.run(1)
        assert made.pace is not None
        if made.closed_until is None:
            assert sum(worker.share for worker in made.workers) <= made.pace.slots
