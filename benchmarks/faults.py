"""What a provider's faults do to a run: the outcomes of mixed rows, and what errors cost in time.

    python benchmarks/faults.py mixed     200 rows of every kind, on threads and on Ray
    python benchmarks/faults.py errors    400 rows of which 5 % meet a server error, against none

Everything is real but the provider, which is the scripted one. Times are ratios of runs made here,
one after the other, each of them twice; the starts of Prefect and opencode are in them.
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
ANSWER_S = 0.5


def failing(status: int, words: str, **headers: str) -> Reply:
    """A refusal of the provider's."""
    return Reply(status=status, headers=headers, body={"error": {"message": words}})


MIXED: dict[str, tuple[Reply, ...]] = {
    "row 004": (failing(401, "bad key"),),
    "row 014": (failing(402, "no credit"),),
    "row 031": (failing(400, "no such thing"),),
    "row 047": (failing(429, "slow down", **{"Retry-After": "3"}), Reply(text="after a short limit")),
    "row 062": (Reply(text="part of it", finish_reason="length"),),
    "row 078": (failing(503, "down"), Reply(text="up again")),
    "row 093": (Reply(finish_reason="content_filter"),),
    "row 109": (Reply(hang=True),),
    "row 124": (failing(500, "broken"),),
    "row 140": (failing(429, "slow down", **{"Retry-After": "75"}), Reply(text="after a long limit")),
    "row 156": (Reply(text=""),),
    "row 171": (Reply(text="cut in two", chunks=4, cut_after=2), Reply(text="whole")),
    "row 187": (Reply(reset=True), Reply(text="connected")),
}


def annotate(provider: ScriptedProvider, count: int, *more: str) -> tuple[list[dict[str, str]], float]:
    """Annotate so many rows in a folder of their own; the output and the seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "opencode.json"
        config.write_text(json.dumps(provider.opencode_config()))
        lines = "\n".join(["prompt", *(f"row {i:03}" for i in range(count))])
        (folder / "in.csv").write_text(lines + "\n")
        arguments = ["annotate", "in.csv", "-o", "out.csv", "--ledger", "ledger.db", "--model", "fake/echo"]
        arguments += ["--opencode-config", str(config), "--opencode-bin", str(find_binary(None)), *more]
        homes = {key: str(folder / key) for key in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        started = time.monotonic()
        done = subprocess.run(
            [COMMAND, *arguments],
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
    """The outcomes of the same rows on both runners, and how often the provider was asked."""
    told: dict[str, dict[str, tuple[str, int]]] = {}
    totals: dict[str, Counter[str]] = {}
    for runner in ("threads", "ray"):
        with ScriptedProvider() as provider:
            for prompt, replies in MIXED.items():
                provider.on(prompt, *replies)
            limits = ("--timeout", "20", "--concurrency", "4")
            rows, _ = annotate(provider, MIXED_ROWS, "--runner", runner, *limits)
            asked = Counter(provider.prompts())
        totals[runner] = Counter(row["status"] for row in rows)
        told[runner] = {
            row["prompt"]: (row["error_type"] or row["status"], asked[row["prompt"]])
            for row in rows
            if row["prompt"] in MIXED or row["status"] != "completed" or asked[row["prompt"]] != 1
        }
    print("| row | threads | calls | Ray | calls |\n|---|---|---|---|---|")
    for prompt in sorted(told["threads"].keys() | told["ray"].keys()):
        cells = [cell for runner in told for cell in told[runner].get(prompt, ("completed", 1))]
        print(f"| {prompt} | " + " | ".join(map(str, cells)) + " |")
    for runner, counts in totals.items():
        print(f"\n{runner}: {dict(counts)}", end="")
    print(f"\nthe same: {told['threads'] == told['ray'] and totals['threads'] == totals['ray']}")


def errors() -> None:
    """How much longer a run takes of which one row in twenty meets a server error once."""
    seconds: dict[str, list[float]] = {"none": [], "5 %": []}
    for _ in range(2):
        for kind, times in seconds.items():
            with ScriptedProvider() as provider:
                for number in range(10, ERROR_ROWS if kind != "none" else 0, 20):
                    down = failing(500, "down")
                    provider.on(f"row {number:03}", down, Reply(text="up", delay_s=ANSWER_S))
                provider.on("row", Reply(text="fine", delay_s=ANSWER_S))
                rows, spent = annotate(provider, ERROR_ROWS, "--runner", "threads", "--concurrency", "8")
                assert Counter(row["status"] for row in rows) == {"completed": ERROR_ROWS}
                times.append(spent)
    ratio = sum(seconds["5 %"]) / sum(seconds["none"])
    print(f"{ERROR_ROWS} rows, 5 % server errors: {ratio:.2f} times the time of none")


def main() -> None:
    """Run what is named."""
    parts: dict[str, Callable[[], Any]] = {"mixed": mixed, "errors": errors}
    wanted = sys.argv[1:] or list(parts)
    if unknown := [name for name in wanted if name not in parts]:
        sys.exit(f"unknown: {', '.join(unknown)}; there is: {', '.join(parts)}")
    for name in wanted:
        parts[name]()


if __name__ == "__main__":
    main()
