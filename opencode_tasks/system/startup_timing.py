"""When the parts of a start took place, by name, so that a person can be told what took the time.

Parts of other processes are added as they come back; all moments are seconds since 1970.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

# What took less is not worth telling.
SHOWN_S = 0.05


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that went on from ``start`` to ``end``."""

    name: str
    start: float
    end: float


@dataclass(slots=True)
class StartupTiming:
    """The parts of this process's start, in the order in which they ended."""

    parts: list[Part] = field(default_factory=list[Part])

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Note that what happens in the context is a part, unless it fails."""
        start = time.time()
        yield
        self.add([Part(name, start, time.time())])

    def add(self, parts: Iterable[Part]) -> None:
        """Note parts that have ended."""
        self.parts.extend(parts)


startup_timing = StartupTiming()


@contextmanager
def loading() -> Generator[None]:
    """A part in which modules are imported: without the garbage collector, which finds none there.

    It takes a sixth of the time to look through what stays.
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


def process_began() -> float:
    """When this process was started."""
    return psutil.Process().create_time()


def told(parts: Sequence[Part], began: float, ended: float) -> str:
    """The parts by name with their seconds, those of one name together, and the time over all."""
    seconds: dict[str, float] = {}
    for part in parts:
        seconds[part.name] = seconds.get(part.name, 0.0) + part.end - part.start
    whole = ended - began
    listed = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items() if spent >= SHOWN_S)
    at_once = " (some at the same time)" if sum(seconds.values()) > whole else ""
    return f"first row after {whole:.1f} s: {listed}{at_once}"
