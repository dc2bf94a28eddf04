"""Providers that stop to send: on each wire, every attempt ends in its class within its clocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rig import Rig
from wire_cases import WIRES, wired_rig

from opencode_tasks.errors import OpenCodeTimeoutError
from opencode_tasks.opencode.backend import BackendName, Clocks
from opencode_tasks.testing import Reply, Wire

FOREVER_S = 3600.0
SILENCES: Mapping[str, Reply] = {
    "never answers": Reply(hang=True),
    "headers alone": Reply(text="abc", stop_after_bytes=0),
    "half an event": Reply(text="abc", stop_after_bytes=20),
    "half an answer": Reply(text="abcdef", chunks=2, chunk_delay_s=FOREVER_S),
    "keep-alives": Reply(text="abc", keep_alive_s=FOREVER_S),
    "a byte a second": Reply(text="abc", byte_delay_s=1.0),
    "closed": Reply(text="abcdef", chunks=3, cut_after=1),
}
NOTHING = "the provider sent nothing within {first_event_s:g} s (--first-event-timeout {first_event_s:g})"
STALLED = "the provider stopped sending for {stall_s:g} s (--stall-timeout {stall_s:g})"
TOTAL = "the answer was not complete within {total_s:g} s (--timeout {total_s:g})"
MESSAGES: Mapping[str, str] = {
    "never answers": NOTHING,
    "headers alone": NOTHING,
    "half an event": STALLED,
    "half an answer": STALLED,
    "keep-alives": TOTAL,
    "a byte a second": TOTAL,
}
# On a loaded machine, opencode needs many seconds before it sends its first requests.
CLOCKS: Mapping[BackendName, Clocks] = {
    "server": Clocks(first_event_s=30, stall_s=10, total_s=45),
    "cli": Clocks(first_event_s=60, stall_s=10, total_s=75),
}


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    with wired_rig(opencode_binary) as rig:
        yield rig


def ended(rig: Rig, backend: BackendName, silence: str, wire: Wire) -> str:
    """Class, message and number of requests of one prompt."""
    asked = rig.ask(SILENCES[silence], model=f"{wire}/echo", backend=backend, clocks=CLOCKS[backend])
    message = asked.error.raw_message if asked.error else "answered"
    kind = "" if isinstance(asked.error, OpenCodeTimeoutError) else f"{type(asked.error).__name__}: "
    return f"{kind}{message}" + ("" if len(asked.calls) == 1 else f" after {len(asked.calls)} requests")


def expected(backend: BackendName, silence: str, wire: Wire) -> str:
    if silence == "closed":
        return "ServerError: the connection to the provider broke"
    # opencode reports a sign of a Bedrock answer with its headers. AWS's event stream has no comments.
    has_begun = wire == "bedrock" and silence in ("headers alone", "keep-alives")
    kind = "half an event" if has_begun else silence
    clocks = CLOCKS[backend]
    return MESSAGES[kind].format(
        first_event_s=clocks.first_event_s, stall_s=clocks.stall_s, total_s=clocks.total_s
    )


def test_each_silence_ends_in_its_class_within_its_clock(wired: Rig) -> None:
    check(wired, "server", side_by_side=len(WIRES) * len(SILENCES))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_silence_ends_in_its_class_within_its_clock_without_a_server(wired: Rig) -> None:
    check(wired, "cli", side_by_side=6)


def check(rig: Rig, backend: BackendName, *, side_by_side: int) -> None:
    cases: list[tuple[str, Wire]] = [(silence, wire) for silence in SILENCES for wire in WIRES]
    with ThreadPoolExecutor(side_by_side) as pool:
        texts = list(pool.map(lambda case: ended(rig, backend, *case), cases))
    found = dict(zip(cases, texts, strict=True))
    wrong = {case: text for case, text in found.items() if text != expected(backend, *case)}
    assert wrong == {}
