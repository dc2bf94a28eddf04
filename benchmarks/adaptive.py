"""Adaptive concurrency compared with the best fixed concurrency.

    python benchmarks/adaptive.py constant    a provider that accepts 10 requests at the same time
    python benchmarks/adaptive.py halving     the same, and 5 after half of the rows
    python benchmarks/adaptive.py doubling    the same, and 20 after half of the rows

The scripted provider answers after one second, and with status 429 beyond its limit. Prints for each run the
rows per second from the first call to the last answer, and the share of refused calls.
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
FIRST_LIMIT = 10
LATENCY_S = 1.0
CHECK_INTERVAL_S = 0.1
LIMIT_S = 540


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The limit of the provider after half of the rows, and the fixed concurrencies to compare with."""

    second_limit: int
    fixed: Sequence[int]


CASES = {
    "constant": Case(second_limit=FIRST_LIMIT, fixed=(8, 10, 12)),
    "halving": Case(second_limit=FIRST_LIMIT // 2, fixed=(5, 7, 10)),
    "doubling": Case(second_limit=2 * FIRST_LIMIT, fixed=(10, 15, 20)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of one run; ``log`` are the lines that the command wrote to stderr."""

    rows_per_s: float
    refused: int
    calls: int
    log: Sequence[str]

    def __str__(self) -> str:
        return f"{self.rows_per_s:.2f} | {self.refused}/{self.calls} | {self.refused / self.calls:.1%}"


def count_answers(provider: ScriptedProvider) -> int:
    """Return the number of answered calls."""
    return sum(1 for call in list(provider.calls) if call.ended and call.status == 200)


def change_limit(
    provider: ScriptedProvider,
    after: int,
    limit: int,
    options: argparse.Namespace,
    stop: threading.Event,
) -> None:
    """Change the limit of the provider after this number of answers."""
    while not stop.wait(CHECK_INTERVAL_S):
        if count_answers(provider) >= after:
            provider.limit_concurrency(limit, retry_after_s=options.retry_after)
            return


def measure(case: Case, options: argparse.Namespace, *arguments: str) -> Result:
    """Run the command once with more ``arguments``, in a new folder with a new HOME and ledger."""
    with tempfile.TemporaryDirectory() as name, ScriptedProvider() as provider:
        folder, stop = Path(name), threading.Event()
        provider.on("row", Reply(text="fine", delay_s=LATENCY_S))
        provider.limit_concurrency(FIRST_LIMIT, retry_after_s=options.retry_after)
        changes = threading.Thread(
            target=change_limit, args=(provider, options.rows // 2, case.second_limit, options, stop)
        )
        changes.start()
        (folder / "opencode.json").write_text(json.dumps(provider.opencode_config()))
        prompts = [f"row {number:05}" for number in range(options.rows)]
        (folder / "in.csv").write_text("\n".join(["prompt", *prompts]) + "\n")
        command = [COMMAND, "annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db"]
        command += ["--model", "fake/echo", "--runner", options.runner]
        command += ["--opencode-config", "opencode.json", "--opencode-bin", str(find_binary(None))]
        homes = {key: str(folder / key) for key in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        done = subprocess.run(
            [*command, *arguments],
            cwd=folder,
            env=os.environ | homes,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        stop.set()
        changes.join()
        if done.returncode != 0:
            sys.exit(done.stderr)
        with (folder / "out.csv").open(newline="") as file:
            assert [row["status"] for row in csv.DictReader(file)] == ["completed"] * options.rows
        calls = list(provider.calls)
    seconds = calls[-1].at + LATENCY_S - calls[0].at
    return Result(
        rows_per_s=options.rows / seconds,
        refused=sum(1 for call in calls if call.status == 429),
        calls=len(calls),
        log=done.stderr.splitlines(),
    )


def compare(name: str, options: argparse.Namespace) -> None:
    """Print the table of one case."""
    case = CASES[name]
    fixed = [int(number) for number in options.fixed.split(",")] if options.fixed else case.fixed
    limits = f"limit {FIRST_LIMIT}, then {case.second_limit}"
    print(f"\n{name}: {limits}; {options.rows} rows on {options.runner}\n", flush=True)
    print("| concurrency | rows/s | refused/calls | share |\n|---|---|---|---|", flush=True)
    best = 0.0
    for number in fixed:
        result = measure(case, options, "--concurrency", str(number))
        best = max(best, result.rows_per_s)
        print(f"| {number}, fixed | {result} |", flush=True)
    adaptive = measure(case, options)
    print(f"| adaptive | {adaptive} |", flush=True)
    if best:
        print(f"\nadaptive / best fixed: {adaptive.rows_per_s / best:.2f}", flush=True)
    if options.log:
        print("\n".join(adaptive.log), flush=True)


def main() -> None:
    """Run the named cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--runner", default="threads", choices=["threads", "ray"])
    parser.add_argument("--retry-after", type=float, metavar="SECONDS", help="Retry-After of a refusal")
    parser.add_argument("--fixed", default="", metavar="N,N", help="fixed concurrencies to compare with")
    parser.add_argument("--log", action="store_true", help="print the log of the adaptive run")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        sys.exit(f"unknown cases: {', '.join(unknown)}; use some of {', '.join(CASES)}")
    for name in options.cases:
        compare(name, options)


if __name__ == "__main__":
    main()
