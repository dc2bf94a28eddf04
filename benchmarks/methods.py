"""The compared methods, and one run of one of them: its input, its checks and its figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from figures import Figures, cpu_by_kind, faults, figures
from floor import WARM_UP_PROMPT
from provider_process import ProviderProcess
from tables import read_answers, write_rows

Method = Literal["reference", "floor", "threads", "ray", "postgres", "peer"]
METHODS: tuple[Method, ...] = get_args(Method)
NAMES: dict[Method, str] = {
    "reference": "opencode run + export, on Ray",
    "floor": "bare client",
    "threads": "opencode-tasks, threads",
    "ray": "opencode-tasks, Ray",
    "postgres": "opencode-tasks, Ray, PostgreSQL",
    "peer": "inspect-ai, no opencode",
}
PROJECT_METHODS: tuple[Method, ...] = ("threads", "ray", "postgres")
HERE = Path(__file__).parent
COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
# The length of a review to label. In 200 chunks, each chunk has about one word.
PROMPT_CHARACTERS = 400
FILLING = "the parcel came late and the box was open but what was in it works and looks as it should "
LIMIT_S = 600
# Settings of the user must not affect a figure.
USER_SETTINGS = ("OPENCODE", "PREFECT_", "RAY_", "XDG_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of the table. If ``concurrency`` or ``batch_size`` is None, the project decides it."""

    method: Method
    rows: int
    delay_s: float = 0.0
    chunks: int = 1
    concurrency: int | None = None
    batch_size: int | None = None
    servers: int = 1

    @property
    def name(self) -> str:
        """Name of the method in the table."""
        servers = f", {self.servers} server{'s'[: self.servers > 1]}" if self.method == "floor" else ""
        return NAMES[self.method] + servers

    @property
    def concurrency_text(self) -> str:
        """Number of rows in flight in the table."""
        if self.method == "reference":
            return "1 per core"
        return "automatic" if self.concurrency is None else str(self.concurrency)

    @property
    def batch_text(self) -> str:
        """Number of rows per task in the table."""
        if self.method in PROJECT_METHODS:
            return "automatic" if self.batch_size is None else str(self.batch_size)
        return "1" if self.method == "reference" else "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRun:
    """One run of a cell. ``figures`` is None if ``faults`` has reasons why the run is not valid.

    ``cpu_by_kind`` has CPU seconds by kind of process, ``steady_cpu_by_kind`` has them per row.
    """

    cell: Cell
    figures: Figures | None
    faults: list[str]
    cpu_by_kind: dict[str, float] = field(default_factory=dict[str, float])
    steady_cpu_by_kind: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The environment of the runs. ``root`` has a HOME that all runs share, and a folder for each run.

    ``peer`` is the Python of the peer, ``postgres`` the URL of a server for ledgers; None if no cell
    needs it.
    """

    root: Path
    binary: Path
    peer: Path | None = None
    postgres: str | None = None

    def run(self, cell: Cell) -> MethodRun:
        """Run a cell with a new provider, new prompts and a new ledger."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        token = uuid.uuid4().hex[:8]
        prompts = [make_prompt(token, number) for number in range(cell.rows)]
        write_rows(folder / "in.csv", [{"prompt": text} for text in prompts])
        with ProviderProcess(delay_s=cell.delay_s, chunks=cell.chunks) as provider:
            (folder / "opencode.json").write_text(json.dumps(provider.config))
            report = self._measure(self._command(cell, folder, provider.base_url), folder)
            served = [call for call in provider.stop() if not call.is_title]
        rows = [call for call in served if not call.prompt.startswith(WARM_UP_PROMPT)]
        # `opencode run` quotes the prompt of its command line.
        sent = [call.prompt.strip('"') for call in rows]
        answers = read_answers(folder / "out.csv")
        found = faults(prompts, code=report["code"], sent=sent, answers=answers)
        if found:
            log = (folder / "stderr.txt").read_text(errors="replace").strip()
            found += [f"see {folder}", *log.splitlines()[-3:]]
            return MethodRun(cell=cell, figures=None, faults=found)
        phase = json.loads((folder / "stdout.txt").read_text()) if cell.method == "floor" else None
        answer_times, concurrency = [call.answered for call in rows], cell.concurrency or 1
        first = min(call.answered for call in served)
        numbers = figures(answer_times, report, first_answer=first, concurrency=concurrency, phase=phase)
        whole, steady = cpu_by_kind(report["kinds"], answer_times, concurrency)
        shutil.rmtree(folder)
        return MethodRun(cell=cell, figures=numbers, faults=[], cpu_by_kind=whole, steady_cpu_by_kind=steady)

    def _command(self, cell: Cell, folder: Path, base_url: str) -> list[str]:
        tables = [str(folder / "in.csv"), str(folder / "out.csv")]
        opencode = [str(folder / "opencode.json"), str(self.binary)]
        concurrency = [] if cell.concurrency is None else ["--concurrency", str(cell.concurrency)]
        match cell.method:
            case "reference":
                return [sys.executable, str(HERE / "reference.py"), *tables, *opencode]
            case "floor":
                script = [sys.executable, str(HERE / "floor.py"), *tables, *opencode]
                return [*script, "--servers", str(cell.servers), *concurrency]
            case "peer":
                return [str(self.peer), str(HERE / "peer.py"), *tables, base_url, str(cell.concurrency)]
            case "threads" | "ray" | "postgres":
                ledger = self._create_database() if cell.method == "postgres" else str(folder / "ledger.db")
                runner = "threads" if cell.method == "threads" else "ray"
                batch = [] if cell.batch_size is None else ["--batch-size", str(cell.batch_size)]
                return [
                    *(COMMAND, "annotate", tables[0], "-o", tables[1], "--json"),
                    *("--ledger", ledger, "--runner", runner, "--model", "fake/echo"),
                    *("--opencode-config", opencode[0], "--opencode-bin", opencode[1], *concurrency, *batch),
                ]

    def _measure(self, command: list[str], folder: Path) -> dict[str, Any]:
        report = folder / "report.json"
        measured = [sys.executable, str(HERE / "process_tree.py"), str(report), str(LIMIT_S), *command]
        with (folder / "stdout.txt").open("w") as stdout, (folder / "stderr.txt").open("w") as stderr:
            # Its input is an open pipe, so that it ends if this process ends.
            process = subprocess.Popen(
                measured,
                cwd=folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            with process:
                try:
                    process.wait()
                finally:
                    process.stdin.close()  # type: ignore[union-attr]
        return json.loads(report.read_text())

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(USER_SETTINGS) and not name.endswith("_API_KEY")
        }
        home, temporary = self.root / "home", self.root / "tmp"
        for path in (home, temporary):
            path.mkdir(exist_ok=True)
        return kept | {"HOME": str(home), "TMPDIR": str(temporary)}

    def _create_database(self) -> str:
        """Create a database on the PostgreSQL server and return its URL."""
        # Imported only if a cell needs it.
        import psycopg  # noqa: PLC0415

        assert self.postgres is not None
        name = f"ledger_{uuid.uuid4().hex}"
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        address, mark, query = self.postgres.partition("?")
        return f"{address.rpartition('/')[0]}/{name}{mark}{query}"


def make_prompt(token: str, number: int) -> str:
    """Return a prompt that no other run has. All prompts have the same length and end without a space."""
    text = f"review {token} {number:05}: " + FILLING * 9
    return text[: PROMPT_CHARACTERS - 1].strip().ljust(PROMPT_CHARACTERS, ".")
