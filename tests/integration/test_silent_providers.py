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
# One clock of each is short, and long enough for an opencode that starts slowly on a loaded machine.
FIRST = Clocks(first_event_s=60, stall_s=10, total_s=600)
STALL = Clocks(stall_s=10, total_s=600)
TOTAL = Clocks(total_s=60)
CLOCKS: Mapping[str, Clocks] = {
    "never answers": FIRST,
    "headers alone": FIRST,
    "half an event": STALL,
    "half an answer": STALL,
    "keep-alives": TOTAL,
    "a byte a second": TOTAL,
    "closed": TOTAL,
}
BROKEN = "ServerError: the connection to the provider broke"


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    with wired_rig(opencode_binary) as rig, ThreadPoolExecutor(len(WIRES)) as pool:
        # The SDK of a wire is loaded with its first request.
        list(pool.map(lambda wire: rig.ask(prompt=wire, model=f"{wire}/echo"), WIRES))
        yield rig


def ended(rig: Rig, backend: BackendName, silence: str, wire: Wire) -> str:
    """Class, message and number of requests of one prompt."""
    asked = rig.ask(SILENCES[silence], model=f"{wire}/echo", backend=backend, clocks=CLOCKS[silence])
    message = asked.error.raw_message if asked.error else "answered"
    kind = "" if isinstance(asked.error, OpenCodeTimeoutError) else f"{type(asked.error).__name__}: "
    return f"{kind}{message}" + ("" if len(asked.calls) == 1 else f" after {len(asked.calls)} requests")


def expected(silence: str, wire: Wire) -> str:
    if silence == "closed":
        return BROKEN
    clocks = CLOCKS[silence]
    if clocks is TOTAL:
        return f"the answer was not complete within {clocks.total_s:g} s (--timeout {clocks.total_s:g})"
    # For opencode, an answer of Bedrock begins with the headers.
    if clocks is STALL or (silence, wire) == ("headers alone", "bedrock"):
        return f"the provider stopped sending for {clocks.stall_s:g} s (--stall-timeout {clocks.stall_s:g})"
    limit = f"{clocks.first_event_s:g}"
    return f"the provider sent nothing within {limit} s (--first-event-timeout {limit})"


@pytest.mark.nightly
def test_each_silence_ends_in_its_class_within_its_clock(wired: Rig) -> None:
    check(wired, "server", side_by_side=len(WIRES) * len(SILENCES))


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_each_silence_ends_in_its_class_within_its_clock_without_a_server(wired: Rig) -> None:
    check(wired, "cli", side_by_side=4)


def check(rig: Rig, backend: BackendName, *, side_by_side: int) -> None:
    cases: list[tuple[str, Wire]] = [(silence, wire) for silence in SILENCES for wire in WIRES]
    with ThreadPoolExecutor(side_by_side) as pool:
        texts = list(pool.map(lambda case: ended(rig, backend, *case), cases))
    found = dict(zip(cases, texts, strict=True))
    wrong = {case: text for case, text in found.items() if text != expected(*case)}
    assert wrong == {}
