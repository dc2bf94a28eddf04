"""Times of the phases of a start, so that the command line can show what took the time.

Phases of other processes are added when those processes report them. Times are seconds since 1970.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import psutil

# Shorter phases are left out of the summary.
MIN_SHOWN_S = 0.05


@dataclass(frozen=True, slots=True)
class Part:
    """One phase of a start, from ``start`` to ``end``."""

    name: str
    start: float
    end: float


@dataclass(slots=True)
class StartupTiming:
    """Phases of this process's start, in the order in which they ended."""

    parts: list[Part] = field(default_factory=list[Part])

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Record the block as a phase, unless it raises."""
        start = time.time()
        yield
        self.add([Part(name, start, time.time())])

    def add(self, parts: Iterable[Part]) -> None:
        """Record phases that have ended."""
        self.parts.extend(parts)


startup_timing: Final = StartupTiming()


@contextmanager
def timed_imports() -> Generator[None]:
    """Record the block as the phase "loading" and run it without the garbage collector.

    Imports create few objects that can be collected, and the collector takes a sixth of their time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with startup_timing.part("loading"):
            yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def process_start_time() -> float:
    """Start time of this process."""
    return psutil.Process().create_time()


def timing_summary(parts: Sequence[Part], began: float, ended: float) -> str:
    """One line with the total time from ``began`` to ``ended`` and the seconds of each phase.

    Phases with the same name are added up.
    """
    seconds: dict[str, float] = {}
    for part in parts:
        seconds[part.name] = seconds.get(part.name, 0.0) + part.end - part.start
    total = ended - began
    listed = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items() if spent >= MIN_SHOWN_S)
    overlap = " (some at the same time)" if sum(seconds.values()) > total else ""
    return f"first row after {total:.1f} s: {listed}{overlap}"
