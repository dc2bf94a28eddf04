"""Outages and dying keys on every wire: no row is lost, and no answer is paid for twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from outages import DEAD_KEYS, HEAD, REVOKED, ROWS, Ended, Office, Service, down, on_all_wires
from wire_cases import WIRES

from opencode_tasks.testing import Reply, ScriptedProvider

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]
OUTAGE_S = 90.0
FEW_ROWS = (1, 3, 6)


@pytest.fixture
def office(provider: ScriptedProvider, opencode_binary: Path, tmp_path: Path) -> Office:
    """Runs on the wires of one provider."""
    return Office(provider, opencode_binary, tmp_path)


def show(title: str, runs: list[Ended]) -> None:
    print(f"\n{title}\n{HEAD}", *(ended.line() for ended in runs), sep="\n")


@pytest.mark.parametrize("kind", ["status", "stream"])
def test_an_outage_of_90_seconds_fails_no_row(office: Office, kind: str) -> None:
    def is_down(service: Service) -> bool:
        return service.seconds() < OUTAGE_S

    services = [(service, ROWS) for service in on_all_wires(lambda wire: down(wire, kind), is_down)]
    # A short run has too few failures to close the gate.
    models = zip(("free", "alone", "unpriced"), FEW_ROWS, strict=True)
    short = [(Service("chat", model, down("chat", kind), is_down), rows) for model, rows in models]
    runs = office.run([*services, *short])
    show(f"An outage of 90 seconds: {kind}", runs)
    assert [ended.statuses for ended in runs] == [{"completed": ended.rows} for ended in runs]
    assert [ended.sent_twice for ended in runs] == [[] for _ in runs]


@pytest.mark.parametrize("shape", ["401", "own"])
def test_a_key_that_dies_pauses_the_run_and_no_answer_is_paid_for_twice(office: Office, shape: str) -> None:
    is_dead = True

    def is_refused(service: Service) -> bool:
        return is_dead and len(service.answered) >= ROWS // 3

    replies: dict[str, Reply] = {wire: DEAD_KEYS[wire] if shape == "own" else REVOKED for wire in WIRES}
    services = [(service, ROWS) for service in on_all_wires(lambda wire: replies[wire], is_refused)]
    runs = office.run(services)
    held = [ended.paused and (ended.paused.error_type, ended.paused.until) for ended in runs]
    assert held == [("authentication_failed", None)] * len(WIRES), [str(ended.paused) for ended in runs]
    is_dead = False
    runs = office.run_again(services)
    show(f"A key that dies: {shape}", runs)
    assert [ended.statuses for ended in runs] == [{"completed": ROWS} for _ in runs]
    assert [ended.sent_twice for ended in runs] == [[] for _ in runs]
