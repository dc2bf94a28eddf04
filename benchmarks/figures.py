"""Figures of one run, from the times of the provider's answers and the resources of the processes. Pure.

The steady state is the same for all methods: it begins when the provider has sent a tenth of the answers
and ends when it has sent nine tenths. It excludes the start, the first calls of a cold server, and the last
rows, when fewer rows are in flight.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

# The steady state needs this number of rows for each row in flight.
MIN_WAVES = 4
# Times and the CPU seconds that had been used at them.
CpuTimeline = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one run; None if there were too few rows.

    ``first_row_s`` is the time from the start of the program to the first answer of the provider, warm-up
    included. ``peak_pss`` and ``peak_rss`` are bytes. ``cpu_s`` and ``steady_cpu_s`` are CPU seconds per
    row. ``others_cores`` is the number of cores that other processes of the machine used at the same
    time, the provider included.
    """

    rows_per_s: float
    steady_rows_per_s: float | None
    cpu_s: float
    steady_cpu_s: float | None
    peak_pss: float
    peak_rss: float
    first_row_s: float
    others_cores: float


def steady_state(answer_times: Sequence[float], concurrency: int = 1) -> tuple[float, float, int] | None:
    """Return start, end and number of rows of the steady state, from the sorted times of the answers.

    Returns None if there are fewer than ``MIN_WAVES`` rows for each row in flight: answers come in waves,
    and the rate of a few waves is not accurate.
    """
    first, last = math.ceil(len(answer_times) * 0.1), math.floor(len(answer_times) * 0.9)
    if len(answer_times) < MIN_WAVES * concurrency or last <= first:
        return None
    start, end = answer_times[first - 1], answer_times[last - 1]
    return None if end <= start else (start, end, last - first)


def cpu_used_at(timeline: CpuTimeline, time: float) -> float:
    """Return the CPU seconds that had been used at a time, interpolated between two samples."""
    after = min(max(bisect_left(timeline, time, key=lambda sample: sample[0]), 1), len(timeline) - 1)
    (start, start_s), (end, end_s) = timeline[after - 1], timeline[after]
    return start_s + (end_s - start_s) * min(1.0, max(0.0, (time - start) / (end - start or 1)))


def cpu_by_kind(
    samples: Sequence[tuple[float, Mapping[str, float]]], answer_times: Sequence[float], concurrency: int = 1
) -> tuple[dict[str, float], dict[str, float]]:
    """Return CPU seconds by kind of process, the largest first: of the whole run, and per row when steady.

    ``samples`` are times and the CPU seconds that each kind had used at them. The second result is empty
    if there is no steady state.
    """
    total = samples[-1][1]
    kinds = sorted(total, key=lambda kind: -total[kind])
    whole = {kind: total[kind] for kind in kinds}
    steady = steady_state(sorted(answer_times), concurrency)
    if steady is None:
        return whole, {}
    start, end, rows = steady

    def used(kind: str) -> float:
        timeline = [(time, by_kind.get(kind, 0.0)) for time, by_kind in samples]
        return cpu_used_at(timeline, end) - cpu_used_at(timeline, start)

    return whole, {kind: used(kind) / rows for kind in kinds}


def figures(
    answer_times: Sequence[float],
    report: Mapping[str, Any],
    *,
    first_answer: float,
    concurrency: int = 1,
    phase: tuple[float, float] | None = None,
) -> Figures:
    """Return the figures of a run from the times of its answers and the report of ``process_tree.py``.

    ``first_answer`` is the time of the provider's first answer, warm-up included. ``concurrency`` is the
    number of rows in flight, 1 if the method decides it. ``phase`` is the start and the end of the rows
    if the program also does something else: rate and CPU time then exclude what came before.
    """
    answer_times = sorted(answer_times)
    timeline: CpuTimeline = report["cpu"]
    started, ended = phase or (report["started"], report["ended"])
    # Without a warm-up all CPU time counts, also that of processes that end after the program.
    cpu_s = cpu_used_at(timeline, ended) - cpu_used_at(timeline, started) if phase else timeline[-1][1]
    steady = steady_state(answer_times, concurrency)
    return Figures(
        rows_per_s=len(answer_times) / (ended - started),
        steady_rows_per_s=steady and steady[2] / (steady[1] - steady[0]),
        cpu_s=cpu_s / len(answer_times),
        steady_cpu_s=steady
        and (cpu_used_at(timeline, steady[1]) - cpu_used_at(timeline, steady[0])) / steady[2],
        peak_pss=report["peak_pss"],
        peak_rss=report["peak_rss"],
        first_row_s=first_answer - report["started"],
        others_cores=report["others_cpu_s"] / (timeline[-1][0] - timeline[0][0]),
    )


def median(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure over the runs in which it is known."""
    medians: dict[str, Any] = {}
    for field in fields(Figures):
        values = [value for run in runs if (value := getattr(run, field.name)) is not None]
        medians[field.name] = statistics.median(values) if values else None
    return Figures(**medians)


def faults(
    prompts: Sequence[str], *, code: int | None, sent: Sequence[str], answers: Mapping[str, str]
) -> list[str]:
    """Return the reasons why a run is not valid; [] if each row was sent once and has its own answer.

    ``sent`` are the prompts that the provider received, without those of titles and warm-ups.
    """
    found: list[str] = []
    if code != 0:
        found.append("killed at its time limit" if code is None else f"exit code {code}")
    counts = Counter(sent)
    if missing := sum(not counts[prompt] for prompt in prompts):
        found.append(f"{missing} prompts did not reach the provider")
    if repeated := sum(counts[prompt] > 1 for prompt in prompts):
        found.append(f"{repeated} prompts reached the provider more than once")
    if unknown := len(counts.keys() - set(prompts)):
        found.append(f"{unknown} prompts of no row reached the provider")
    if wrong := sum(answers.get(prompt) != prompt for prompt in prompts):
        found.append(f"{wrong} rows do not have their answer")
    return found
