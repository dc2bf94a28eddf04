"""Processes that open a ledger and claim its rows at the same time."""

from __future__ import annotations

import subprocess
import sys

CLAIM_ROWS = """
import sys
from datetime import UTC, datetime
from opencode_tasks.ledger import Lease, Ledger
owner, url, rows = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
now = datetime(2026, 3, 1, 12, tzinfo=UTC)
with Ledger.open(url) as ledger:
    for row in range(int(rows)):
        lease = ledger.queue.claim_row("r", str(row), owner=owner, now=now, lease_s=60)
        if isinstance(lease, Lease):
            print(row, lease.fence)
"""


def claim_in_processes(url: str, count: int, rows: int) -> list[str]:
    """Let ``count`` processes claim the rows "0" to ``rows - 1`` of the run "r"; returns their output.

    A line of the output is the id of a claimed row and the fencing number of its lease.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CLAIM_ROWS, f"owner{i}", url, str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    printed: list[str] = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        printed.append(out)
    return printed
