"""Effect of provider errors on a run: outcomes of rows with different errors, and the time that errors cost.

    python benchmarks/faults.py mixed     200 rows, some with each kind of error, on threads and on Ray
    python benchmarks/faults.py errors    400 rows, 5 % with a server error, compared with none

The provider is the scripted one. Times are ratios of runs that follow each other, two of each; they include
the start of Prefect and opencode.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.testing import Reply, ScriptedProvider

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
LIMIT_S = 900
MIXED_ROWS = 200
ERROR_ROWS = 400
LATENCY_S = 0.5


def error(status: int, message: str, **headers: str) -> Reply:
    """Return an error response of the provider."""
    return Reply(status=status, headers=headers, body={"error": {"message": message}})


MIXED: dict[str, tuple[Reply, ...]] = {
    "row 004": (error(401, "bad key"),),
    "row 014": (error(402, "no credit"),),
    "row 031": (error(400, "no such thing"),),
    "row 047": (error(429, "slow down", **{"Retry-After": "3"}), Reply(text="after a short limit")),
    "row 062": (Reply(text="part of it", finish_reason="length"),),
    "row 078": (error(503, "down"), Reply(text="up again")),
    "row 093": (Reply(finish_reason="content_filter"),),
    "row 109": (Reply(hang=True),),
    "row 124": (error(500, "broken"),),
    "row 140": (error(429, "slow down", **{"Retry-After": "75"}), Reply(text="after a long limit")),
    "row 156": (Reply(text=""),),
    "row 171": (Reply(text="cut in two", chunks=4, cut_after=2), Reply(text="whole")),
    "row 187": (Reply(reset=True), Reply(text="connected")),
}


def annotate(provider: ScriptedProvider, count: int, *arguments: str) -> tuple[list[dict[str, str]], float]:
    """Annotate ``count`` rows in a new folder and return the output and the seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "opencode.json"
        config.write_text(json.dumps(provider.opencode_config()))
        lines = "\n".join(["prompt", *(f"row {number:03}" for number in range(count))])
        (folder / "in.csv").write_text(lines + "\n")
        command = [COMMAND, "annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db"]
        command += ["--model", "fake/echo"]
        command += ["--opencode-config", str(config), "--opencode-bin", str(find_binary(None))]
        homes = {key: str(folder / key) for key in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        started = time.monotonic()
        done = subprocess.run(
            [*command, *arguments],
            cwd=folder,
            env=os.environ | homes,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode not in (0, 1):
            sys.exit(done.stderr)
        with (folder / "out.csv").open(newline="") as file:
            return list(csv.DictReader(file)), time.monotonic() - started


def mixed() -> None:
    """Print the outcomes of the same rows on both runners, and the number of calls for each."""
    outcomes: dict[str, dict[str, tuple[str, int]]] = {}
    statuses: dict[str, Counter[str]] = {}
    for runner in ("threads", "ray"):
        with ScriptedProvider() as provider:
            for prompt, replies in MIXED.items():
                provider.on(prompt, *replies)
            limits = ("--timeout", "20", "--concurrency", "4")
            rows, _ = annotate(provider, MIXED_ROWS, "--runner", runner, *limits)
            calls = Counter(provider.prompts())
        statuses[runner] = Counter(row["status"] for row in rows)
        outcomes[runner] = {
            row["prompt"]: (row["error_type"] or row["status"], calls[row["prompt"]])
            for row in rows
            if row["prompt"] in MIXED or row["status"] != "completed" or calls[row["prompt"]] != 1
        }
    print("| row | threads | calls | Ray | calls |\n|---|---|---|---|---|")
    for prompt in sorted(outcomes["threads"].keys() | outcomes["ray"].keys()):
        cells = [cell for runner in outcomes for cell in outcomes[runner].get(prompt, ("completed", 1))]
        print(f"| {prompt} | " + " | ".join(map(str, cells)) + " |")
    for runner, counts in statuses.items():
        print(f"\n{runner}: {dict(counts)}", end="")
    is_same = outcomes["threads"] == outcomes["ray"] and statuses["threads"] == statuses["ray"]
    print(f"\nsame outcomes on both runners: {is_same}")


def errors() -> None:
    """Print the time of a run in which one of 20 rows has one server error, relative to a run without."""
    seconds: dict[str, list[float]] = {"none": [], "5 %": []}
    for _ in range(2):
        for share, times in seconds.items():
            with ScriptedProvider() as provider:
                for number in range(10, ERROR_ROWS if share != "none" else 0, 20):
                    broken = error(500, "down")
                    provider.on(f"row {number:03}", broken, Reply(text="up", delay_s=LATENCY_S))
                provider.on("row", Reply(text="fine", delay_s=LATENCY_S))
                rows, spent_s = annotate(provider, ERROR_ROWS, "--runner", "threads", "--concurrency", "8")
                assert Counter(row["status"] for row in rows) == {"completed": ERROR_ROWS}
                times.append(spent_s)
    ratio = sum(seconds["5 %"]) / sum(seconds["none"])
    print(f"{ERROR_ROWS} rows, 5 % with a server error / no errors: {ratio:.2f} times the time")


def main() -> None:
    """Run the named parts."""
    parts: dict[str, Callable[[], Any]] = {"mixed": mixed, "errors": errors}
    names = sys.argv[1:] or list(parts)
    if unknown := [name for name in names if name not in parts]:
        sys.exit(f"unknown parts: {', '.join(unknown)}; use some of {', '.join(parts)}")
    for name in names:
        parts[name]()


if __name__ == "__main__":
    main()
