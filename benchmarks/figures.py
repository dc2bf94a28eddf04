"""The figures of a run, from what the provider served and what the processes used. Pure.

Steady state is the same for all ways: from the moment at which the provider had sent off a tenth of
the rows' answers to that of nine tenths. Starting, the first calls of a cold server and the last rows,
when fewer are in flight, are outside of it.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

WAVES = 4
Used = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run in numbers; None where there were too few rows to tell.

    ``first_row_s`` is the time from the program's start to the provider's first answer, a warm-up's
    too. ``peak_pss`` and ``peak_rss`` are bytes, ``cpu_s`` and ``steady_cpu_s`` CPU seconds a row.
    ``others_cores`` is how many cores the rest of the machine used meanwhile, the provider included.
    """

    rows_per_s: float
    steady_rows_per_s: float | None
    cpu_s: float
    steady_cpu_s: float | None
    peak_pss: float
    peak_rss: float
    first_row_s: float
    others_cores: float


def steady(answered: Sequence[float], at_once: int = 1) -> tuple[float, float, int] | None:
    """Begin, end and rows of the steady state, by the moments of the answers in order.

    None where the rows are fewer than four times those ``at_once`` in flight: they come in waves, of
    which there are then too few.
    """
    first, last = math.ceil(len(answered) * 0.1), math.floor(len(answered) * 0.9)
    if len(answered) < WAVES * at_once or last <= first or answered[last - 1] <= answered[first - 1]:
        return None
    return answered[first - 1], answered[last - 1], last - first


def used_at(used: Used, at: float) -> float:
    """CPU seconds used up to a moment, on a straight line between the two looks around it."""
    after = min(max(bisect_left(used, at, key=lambda look: look[0]), 1), len(used) - 1)
    (x, low), (y, high) = used[after - 1], used[after]
    return low + (high - low) * min(1.0, max(0.0, (at - x) / (y - x or 1)))


def by_kind(
    looks: Sequence[tuple[float, Mapping[str, float]]], answered: Sequence[float], at_once: int = 1
) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds of each kind of process, most first: in the whole run, and a row at steady state.

    ``looks`` are moments and what each kind had used then. The second is empty where there is none.
    """
    kinds = sorted(looks[-1][1], key=lambda kind: -looks[-1][1][kind])
    window = steady(sorted(answered), at_once)

    def used(kind: str) -> Used:
        return [(at, kinds.get(kind, 0.0)) for at, kinds in looks]

    whole = {kind: looks[-1][1][kind] for kind in kinds}
    if window is None:
        return whole, {}
    begin, end, rows = window
    return whole, {kind: (used_at(used(kind), end) - used_at(used(kind), begin)) / rows for kind in kinds}


def figures(
    answered: Sequence[float],
    report: Mapping[str, Any],
    *,
    first_answer: float,
    at_once: int = 1,
    phase: tuple[float, float] | None = None,
) -> Figures:
    """A run's figures by the moments of its rows' answers and the report of ``measured.py``.

    ``first_answer`` is the moment of the provider's first, a warm-up's too, ``at_once`` how many rows
    were in flight (1 where the way chose). ``phase`` is when the rows
    began and ended where that is not the life of the program: what came before is a warm-up that its
    rate and CPU time leave out.
    """
    answered = sorted(answered)
    used: Used = report["cpu"]
    began, ended = phase or (report["started"], report["ended"])
    # With no warm-up all that was used is the rows', the ends of processes after the program's too.
    cpu_s = used_at(used, ended) - used_at(used, began) if phase else used[-1][1]
    window = steady(answered, at_once)
    return Figures(
        rows_per_s=len(answered) / (ended - began),
        steady_rows_per_s=window and window[2] / (window[1] - window[0]),
        cpu_s=cpu_s / len(answered),
        steady_cpu_s=window and (used_at(used, window[1]) - used_at(used, window[0])) / window[2],
        peak_pss=report["peak_pss"],
        peak_rss=report["peak_rss"],
        first_row_s=first_answer - report["started"],
        others_cores=report["others_cpu_s"] / (used[-1][0] - used[0][0]),
    )


def median(runs: Sequence[Figures]) -> Figures:
    """Each figure's median over the rounds that have it."""
    found: dict[str, Any] = {}
    for field in fields(Figures):
        values = [value for run in runs if (value := getattr(run, field.name)) is not None]
        found[field.name] = statistics.median(values) if values else None
    return Figures(**found)


def faults(
    prompts: Sequence[str], *, code: int | None, asked: Sequence[str], answers: Mapping[str, str]
) -> list[str]:
    """Why a run counts for nothing; empty where each row was asked once and has its own answer.

    ``asked`` is what the provider was asked, titles and warm-ups left out.
    """
    found: list[str] = []
    if code != 0:
        found.append("killed at its time limit" if code is None else f"exit code {code}")
    times = Counter(asked)
    if missed := sum(not times[prompt] for prompt in prompts):
        found.append(f"{missed} prompts never reached the provider")
    if again := sum(times[prompt] > 1 for prompt in prompts):
        found.append(f"{again} prompts reached it more than once")
    if others := len(times.keys() - set(prompts)):
        found.append(f"{others} prompts reached it that are no row's")
    if wrong := sum(answers.get(prompt) != prompt for prompt in prompts):
        found.append(f"{wrong} rows without their answer")
    return found
