"""Cost of a workspace and of a sandbox for each row.

    python benchmarks/isolation.py [--rows 12] [--concurrency 2]

The same rows, on threads, in three ways: one process of opencode for each row in an empty folder, then with
a workspace of a repository, then with a sandbox around both. The scripted provider calls the tool ``bash``
once for each row and answers at once. Prints for each way the rows per second, and the median time from the
start of an attempt to its first model request.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from opencode_tasks import annotate
from opencode_tasks.testing import Reply, ScriptedProvider

WAYS: dict[str, dict[str, Any]] = {
    "process": {"backend": "cli", "sandbox": "none"},
    "workspace": {"workspace": "repo", "sandbox": "none"},
    "workspace and sandbox": {"workspace": "repo", "sandbox": "bwrap"},
}
# Messages of a request before the tool was called: the system text and the prompt.
PROMPT = 2
TOOL = Reply(tool_calls=[("bash", {"command": "echo more >> a.txt", "description": "work"})])


def repository(folder: Path) -> str:
    """A repository with one commit of a hundred files."""
    folder.mkdir()
    for number in range(100):
        (folder / f"{number}.txt").write_text(f"{number}\n" * 100)
    (folder / "a.txt").write_text("one\n")
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.com"]
    for args in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *args], cwd=folder, check=True)
    return f"{folder}@main"


def measured(way: dict[str, Any], rows: int, concurrency: int, folder: Path, source: str) -> list[str]:
    """A line of the table: rows per second, seconds to the first request."""
    with ScriptedProvider() as provider:
        provider.on(lambda call: len(call.body["messages"]) <= PROMPT, TOOL)
        provider.on(lambda call: len(call.body["messages"]) > PROMPT, Reply(text="done"))
        frame = pd.DataFrame({"prompt": [f"row {number}" for number in range(rows)], "repo": source})
        began = time.monotonic()
        result = annotate(
            frame,
            model="fake/echo",
            opencode_config=provider.opencode_config(),
            allow_tool=["bash"],
            concurrency=concurrency,
            ledger=str(folder / "ledger.db"),
            **way,
        )
        seconds = time.monotonic() - began
        assert result.counts["completed"] == rows, result.counts
        first: dict[str, float] = {}
        for call in provider.calls:
            first.setdefault(call.prompt, call.at)
        attempts: Any = result.attempts
    pairs = zip(attempts["row_id"], attempts["started_at"], strict=True)
    waits = [first[f"row {row}"] - started.timestamp() for row, started in pairs]
    return [f"{rows / seconds:.2f}", f"{statistics.median(waits):.2f}"]


def main() -> None:
    """Measure the ways one after the other and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=12, help="rows of each way (default 12)")
    parser.add_argument("--concurrency", type=int, default=2, help="rows at a time (default 2)")
    args = parser.parse_args()
    print("| way | rows/s | first request after s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for kind in ("DATA", "CONFIG"):
            os.environ[f"XDG_{kind}_HOME"] = f"{name}/{kind.lower()}"
        source = repository(Path(name) / "source")
        for title, way in WAYS.items():
            folder = Path(name) / title.replace(" ", "-")
            folder.mkdir()
            line = measured(way, args.rows, args.concurrency, folder, source)
            print(f"| {title} | {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
