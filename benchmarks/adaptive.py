"""What finding the number of rows in flight is worth against the best number set by hand.

    python benchmarks/adaptive.py constant    a provider that allows 10 at once all the time
    python benchmarks/adaptive.py halving     … and 5 once half of the rows are answered
    python benchmarks/adaptive.py doubling    … and 20 once half of the rows are answered

Everything is real but the provider, which answers in a second, and with a 429 beyond what it allows.
Of each run: rows per second from the first call to the last answer, and the share of calls refused.
``--rows N``, ``--runner ray``, ``--retry-after S`` (the moment that the provider names) and
``--fixed 10,12`` (the numbers to compare with) change what is run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.testing import Reply, ScriptedProvider

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
ALLOWED = 10
LATENCY_S = 1.0
LOOK_EVERY_S = 0.1
LIMIT_S = 540


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the provider allows once half of the rows are answered, and the numbers to compare with."""

    later: int
    fixed: Sequence[int]


CASES = {
    "constant": Case(later=ALLOWED, fixed=(8, 10, 12)),
    "halving": Case(later=ALLOWED // 2, fixed=(5, 7, 10)),
    "doubling": Case(later=2 * ALLOWED, fixed=(10, 15, 20)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run came to."""

    rows_per_s: float
    refused: int
    calls: int
    words: Sequence[str]

    def __str__(self) -> str:
        return f"{self.rows_per_s:.2f} | {self.refused}/{self.calls} | {self.refused / self.calls:.1%}"


def answered(provider: ScriptedProvider) -> int:
    """How many calls have had their answer."""
    return sum(1 for call in list(provider.calls) if call.ended and call.status == 200)


def change(
    provider: ScriptedProvider, at: int, allowed: int, told: argparse.Namespace, end: threading.Event
) -> None:
    """Allow another number once so many calls are answered."""
    while not end.wait(LOOK_EVERY_S):
        if answered(provider) >= at:
            provider.allow(allowed, retry_after=told.retry_after)
            return


def measure(case: Case, told: argparse.Namespace, *more: str) -> Measured:
    """One run in a folder, a home and a ledger of its own."""
    with tempfile.TemporaryDirectory() as name, ScriptedProvider() as provider:
        folder, end = Path(name), threading.Event()
        provider.on("row", Reply(text="fine", delay_s=LATENCY_S))
        provider.allow(ALLOWED, retry_after=told.retry_after)
        watch = threading.Thread(target=change, args=(provider, told.rows // 2, case.later, told, end))
        watch.start()
        (folder / "opencode.json").write_text(json.dumps(provider.opencode_config()))
        (folder / "in.csv").write_text(
            "\n".join(["prompt", *(f"row {i:05}" for i in range(told.rows))]) + "\n"
        )
        arguments = ["annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db", "--model", "fake/echo"]
        arguments += ["--opencode-config", "opencode.json", "--opencode-bin", str(find_binary(None))]
        homes = {key: str(folder / key) for key in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        done = subprocess.run(
            [COMMAND, *arguments, "--runner", told.runner, *more],
            cwd=folder,
            env=os.environ | homes,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        end.set()
        watch.join()
        if done.returncode != 0:
            sys.exit(done.stderr)
        with (folder / "out.csv").open(newline="") as file:
            assert [row["status"] for row in csv.DictReader(file)] == ["completed"] * told.rows
        calls = list(provider.calls)
    seconds = calls[-1].at + LATENCY_S - calls[0].at
    return Measured(
        rows_per_s=told.rows / seconds,
        refused=sum(1 for call in calls if call.status == 429),
        calls=len(calls),
        words=done.stderr.splitlines(),
    )


def compare(name: str, told: argparse.Namespace) -> None:
    """The table of one case."""
    case = CASES[name]
    fixed = [int(number) for number in told.fixed.split(",")] if told.fixed else case.fixed
    print(f"\n{name}: {ALLOWED} at once, then {case.later}; {told.rows} rows on {told.runner}\n", flush=True)
    print("| rows in flight | rows/s | refused/calls | share |\n|---|---|---|---|", flush=True)
    best = 0.0
    for number in fixed:
        found = measure(case, told, "--concurrency", str(number))
        best = max(best, found.rows_per_s)
        print(f"| {number}, by hand | {found} |", flush=True)
    adaptive = measure(case, told)
    print(f"| found | {adaptive} |", flush=True)
    if best:
        print(f"\n{adaptive.rows_per_s / best:.2f} of the best by hand", flush=True)
    if told.words:
        print("\n".join(adaptive.words), flush=True)


def main() -> None:
    """Run what is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--runner", default="threads", choices=["threads", "ray"])
    parser.add_argument("--retry-after", type=float, default=None)
    parser.add_argument("--fixed", default="")
    parser.add_argument("--words", action="store_true", help="print the progress of the found run")
    told = parser.parse_args()
    if unknown := [name for name in told.cases if name not in CASES]:
        sys.exit(f"unknown: {', '.join(unknown)}; there is: {', '.join(CASES)}")
    for name in told.cases:
        compare(name, told)


if __name__ == "__main__":
    main()
