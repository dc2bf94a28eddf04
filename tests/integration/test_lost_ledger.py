"""The file of a ledger that is deleted, moved or replaced while a run uses it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Desk

from opencode_tasks.testing import Reply

ROWS, IN_FLIGHT = 40, 2


def delete(ledger: Path) -> None:
    for file in ledger.parent.glob(f"{ledger.name}*"):
        file.unlink()


def delete_without_its_log(ledger: Path) -> None:
    ledger.unlink()


def delete_folder(ledger: Path) -> None:
    shutil.rmtree(ledger.parent)


def replace(ledger: Path) -> None:
    delete(ledger)
    ledger.write_bytes(b"")


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize(
    "lose",
    [
        delete,
        replace,
        *(pytest.param(one, marks=pytest.mark.nightly) for one in (delete_without_its_log, delete_folder)),
    ],
)
def test_a_run_whose_ledger_is_lost_stops_and_keeps_its_answers(
    desk: Desk, lose: Callable[[Path], None]
) -> None:
    ledger = desk.folder / "kept" / "ledger.db"
    desk.provider.on("row", Reply(text="fine", delay_s=0.4))
    desk.write_csv("in.csv", [{"prompt": f"row {i}"} for i in range(ROWS)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--concurrency", str(IN_FLIGHT))
    with desk.start(*arguments, "--ledger", str(ledger)) as process:
        deadline = time.monotonic() + 60
        while len(desk.provider.calls) < 3 * IN_FLIGHT:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lose(ledger)
        _, shown = process.communicate(timeout=120)
    assert process.returncode == 70, shown
    assert f"The ledger {ledger} was deleted, moved or replaced while a run used it." in shown
    assert len(desk.provider.calls) < ROWS
    named = re.search(r"Run opencode-tasks resume(?: --ledger (\S+\.db))?\.", shown)
    assert named is not None, shown
    assert (named[1] is not None) is (lose is replace)
    kept = Path(named[1] or ledger)
    # Only the rows whose answers came after the copy are asked again.
    resumed = desk.run("resume", "--ledger", str(kept))
    assert resumed.code == 0, resumed.stderr
    assert len(desk.provider.calls) <= ROWS + 2 * IN_FLIGHT
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["fine"] * ROWS
