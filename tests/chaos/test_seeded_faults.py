"""Runs under faults that a seed draws: nothing is lost, and what may be paid twice is listed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cluster import Desk
from seeded_faults import DISK_MB, HEAD, SHORT, WHOLE, run_seed

from opencode_tasks.testing import ScriptedProvider

# Of the short form: they kill the command, a worker and opencode, cut streams, interrupt the command and
# restart PostgreSQL, on threads and on Ray, with both kinds of ledger.
SHORT_SEEDS = (43, 269, 785)
SEEDS_VARIABLE = "OPENCODE_TASKS_TEST_SEEDS"


def seeds() -> Sequence[int]:
    """The seeds to try: 1 to the number in the environment, or those from "first-last"; three without it."""
    wanted = os.environ.get(SEEDS_VARIABLE)
    if wanted is None:
        return SHORT_SEEDS
    first, _, last = wanted.rpartition("-")
    return range(int(first or 1), int(last) + 1)


@pytest.fixture(scope="module")
def table() -> Path | None:
    """The file for the results; None if none is requested."""
    path = os.environ.get("OPENCODE_TASKS_TEST_SEED_TABLE")
    if path is None:
        return None
    Path(path).write_text(HEAD + "\n", encoding="utf-8")
    return Path(path)


@pytest.fixture
def quiet_desk(tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path) -> Desk:
    """A user's folder without the Prefect server and the Ray of the session."""
    return Desk(folder=tmp_path, provider=provider, binary=opencode_binary)


@pytest.fixture
def disk() -> Iterator[Path | None]:
    """A small disk that a fault can fill; None for a user who may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="disk"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
    else:
        yield folder
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", seeds())
def test_a_run_under_faults_keeps_every_promise(
    quiet_desk: Desk,
    empty_postgresql: str,
    disk: Path | None,
    table: Path | None,
    seed: int,
) -> None:
    result = run_seed(
        seed, quiet_desk, empty_postgresql, disk, WHOLE if SEEDS_VARIABLE in os.environ else SHORT
    )
    if table is not None:
        with table.open("a", encoding="utf-8") as file:
            file.write(result.line() + "\n")
    assert result.faults, "no fault happened, so nothing was tested"
    assert (result.lost, result.doubled, result.failed) == (0, 0, 0), result
    assert result.audit_faults == [], result
    assert result.left == [], result
    assert result.sent_twice <= result.in_flight, result
    assert result.ledger_usd <= result.provider_usd + 1e-9, result
    assert result.provider_usd <= result.at_most_usd + 1e-9, result
