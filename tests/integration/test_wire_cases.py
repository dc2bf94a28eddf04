"""Each case on each wire: class, requests, reset time, usage and cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig
from wire_cases import CASES, WIRES, faults_of, wired_rig

from opencode_tasks.testing import Wire


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    with wired_rig(opencode_binary) as rig:
        yield rig


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_case_on_a_wire(wired: Rig, wire: Wire, name: str) -> None:
    _, faults = faults_of(wired, wire, name, "server")
    assert faults == []
