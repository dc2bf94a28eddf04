"""What a row costs us ourselves, from a thousand rows to a hundred thousand.

    python benchmarks/scale.py [--rows 1000,10000,100000] [--runners threads,ray] [--markdown]

The ``null`` backend answers in the worker, so all that is measured is our own: reading, pulling,
recording, writing. Each run has a new ledger; the largest is run once more over its finished rows.

- rows/s and CPU ms/row: from the moment at which the run says that it begins until the command ends,
  its output written. CPU is that of the command and of all processes below it.
- driver: the most resident memory of the command's process, and how much of it came after the run began.
- again: seconds of the whole command over rows that are finished already.
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
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from tables import drawn

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
LOOK_EVERY_S = 0.1
LIMIT_S = 1800
HEAD = ("runner", "rows", "rows/s", "CPU ms/row", "driver MB", "of it growth MB", "output MB", "again s")


@dataclass(slots=True)
class Watch:
    """A command and what it takes; ``begun`` is when its run began."""

    process: psutil.Process
    begun: float | None = None
    ended: float = 0.0
    cpu_begun: float = 0.0
    cpu: float = 0.0
    rss_begun: int = 0
    rss: int = 0

    def look(self) -> None:
        """Look at the processes until the command ends."""
        seen: dict[int, float] = {}
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                self.rss = max(self.rss, self.process.memory_info().rss)
                for one in (self.process, *self.process.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = one.cpu_times()
                        seen[one.pid] = times.user + times.system
            self.cpu = sum(seen.values())
            if self.begun is None:
                self.cpu_begun, self.rss_begun = self.cpu, self.rss
            self.ended = time.monotonic()
            time.sleep(LOOK_EVERY_S)


def run(folder: Path, source: Path, runner: str) -> Watch:
    """Annotate the table into the folder's ledger; raises where a row is not completed."""
    args = [COMMAND, "annotate", str(source), "-o", str(folder / "out.csv"), "--id-column", "id"]
    args += ["--backend", "null", "--runner", runner, "--concurrency", "64", "--json"]
    env = os.environ | {"OPENCODE_TASKS_LEDGER": str(folder / "ledger.db")}
    process = subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = Watch(psutil.Process(process.pid))
    looking = threading.Thread(target=watch.look, daemon=True)
    looking.start()
    assert process.stderr is not None
    assert process.stdout is not None
    words: list[str] = []
    for line in process.stderr:
        words.append(line)
        if watch.begun is None and line.startswith("run "):
            watch.begun = time.monotonic()
    told = process.stdout.read()
    looking.join()
    if process.wait(LIMIT_S) != 0:
        raise SystemExit(f"the run failed:\n{''.join(words)}")
    rows = json.loads(told)["rows"]
    if rows["completed"] != rows["total"]:
        raise SystemExit(f"not all rows completed: {rows}")
    return watch


def write_input(path: Path, rows: int) -> None:
    """A table of prompts, each its own."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt"])
        for number in range(rows):
            review = f"It came on day {number}, was bigger than it looked, and the cat slept in its box."
            writer.writerow([f"r{number}", f"Is this review positive or negative? {review}"])


def measure(runner: str, rows: int, *, again: bool) -> list[str]:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.csv"
        write_input(source, rows)
        print(f"{runner}, {rows} rows", file=sys.stderr)
        watch = run(folder, source, runner)
        assert watch.begun is not None
        size = (folder / "out.csv").stat().st_size
        second = "-"
        if again:
            began = time.monotonic()
            run(folder, source, runner)
            second = f"{time.monotonic() - began:.1f}"
        return [
            runner,
            f"{rows:,}",
            f"{rows / (watch.ended - watch.begun):.0f}",
            f"{1000 * (watch.cpu - watch.cpu_begun) / rows:.2f}",
            f"{watch.rss / 1e6:.0f}",
            f"{(watch.rss - watch.rss_begun) / 1e6:.0f}",
            f"{size / 1e6:.1f}",
            second,
        ]


def main() -> None:
    """Measure and print."""
    words = __doc__ or ""
    parser = argparse.ArgumentParser(description=words.partition("\n")[0])
    parser.add_argument("--rows", default="1000,10000,100000", help="how many rows, one run each")
    parser.add_argument("--runners", default="threads,ray")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    counts = [int(count) for count in options.rows.split(",")]
    lines = [
        measure(runner, rows, again=rows == max(counts))
        for runner in options.runners.split(",")
        for rows in counts
    ]
    print(drawn(HEAD, lines, markdown=options.markdown))


if __name__ == "__main__":
    main()
