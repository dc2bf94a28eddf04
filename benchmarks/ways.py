"""The ways that are compared, and one run of one of them: what it is asked, and what came of it."""

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

from figures import Figures, by_kind, faults, figures
from floor import WARM_UP
from scripted import Scripted
from tables import read_answers, write_rows

Way = Literal["reference", "floor", "threads", "ray", "postgres", "peer"]
WAYS: tuple[Way, ...] = get_args(Way)
NAMES: dict[Way, str] = {
    "reference": "opencode run + export, on Ray",
    "floor": "bare client",
    "threads": "opencode-tasks, threads",
    "ray": "opencode-tasks, Ray",
    "postgres": "opencode-tasks, Ray, PostgreSQL",
    "peer": "inspect-ai, no opencode",
}
PROJECT: tuple[Way, ...] = ("threads", "ray", "postgres")
HERE = Path(__file__).parent
COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
# As long as a review to be labelled; cut into 200 pieces it gives each of them a word or so.
PROMPT_CHARACTERS = 400
FILLING = "the parcel came late and the box was open but what was in it works and looks as it should "
LIMIT_S = 600
# What the user's own settings say must not decide a figure.
FOREIGN = ("OPENCODE", "PREFECT_", "RAY_", "XDG_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of the table. ``concurrency`` and ``batch_size`` None leave the choice to the project."""

    way: Way
    rows: int
    delay_s: float = 0.0
    chunks: int = 1
    concurrency: int | None = None
    batch_size: int | None = None
    servers: int = 1

    @property
    def name(self) -> str:
        """The way, for people."""
        servers = f", {self.servers} server{'s'[: self.servers > 1]}" if self.way == "floor" else ""
        return NAMES[self.way] + servers

    @property
    def at_once(self) -> str:
        """How many rows are in flight, for people."""
        if self.way == "reference":
            return "a core each"
        return "chosen" if self.concurrency is None else str(self.concurrency)

    @property
    def batch(self) -> str:
        """How many rows a task has, for people."""
        if self.way in PROJECT:
            return "chosen" if self.batch_size is None else str(self.batch_size)
        return "1" if self.way == "reference" else "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run of a cell: its figures, or why it counts for nothing.

    ``cpu_by_kind`` is CPU seconds of each kind of process, ``steady_cpu_by_kind`` those a row.
    """

    cell: Cell
    figures: Figures | None
    faults: list[str]
    cpu_by_kind: dict[str, float] = field(default_factory=dict[str, float])
    steady_cpu_by_kind: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where runs are made: ``root`` holds a HOME that they share and a folder for each.

    ``peer`` is the Python of the peer, ``postgres`` the address of a server for ledgers; None
    where no cell needs one.
    """

    root: Path
    binary: Path
    peer: Path | None = None
    postgres: str | None = None

    def run(self, cell: Cell) -> Ran:
        """Make a run, with a provider, prompts and a ledger of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        token = uuid.uuid4().hex[:8]
        prompts = [prompt(token, number) for number in range(cell.rows)]
        write_rows(folder / "in.csv", [{"prompt": text} for text in prompts])
        with Scripted(delay_s=cell.delay_s, chunks=cell.chunks) as provider:
            (folder / "opencode.json").write_text(json.dumps(provider.config))
            command = self._command(cell, folder, provider.base_url)
            report = self._measure(command, folder)
            served = [one for one in provider.record() if not one.is_title]
        # What is given to `opencode run` on its command line comes to the provider in quotes.
        rows = [one for one in served if not one.prompt.startswith(WARM_UP)]
        asked = [one.prompt.strip('"') for one in rows]
        answers = read_answers(folder / "out.csv")
        found = faults(prompts, code=report["code"], asked=asked, answers=answers)
        if found:
            told = (folder / "stderr.txt").read_text(errors="replace").strip()
            found += [f"see {folder}", *told.splitlines()[-3:]]
            return Ran(cell=cell, figures=None, faults=found)
        phase = json.loads((folder / "stdout.txt").read_text()) if cell.way == "floor" else None
        answered, at_once = [one.answered for one in rows], cell.concurrency or 1
        first = min(one.answered for one in served)
        numbers = figures(answered, report, first_answer=first, at_once=at_once, phase=phase)
        whole, at_steady = by_kind(report["kinds"], answered, at_once)
        shutil.rmtree(folder)
        return Ran(cell=cell, figures=numbers, faults=[], cpu_by_kind=whole, steady_cpu_by_kind=at_steady)

    def _command(self, cell: Cell, folder: Path, base_url: str) -> list[str]:
        tables = [str(folder / "in.csv"), str(folder / "out.csv")]
        opencode = [str(folder / "opencode.json"), str(self.binary)]
        at_once = [] if cell.concurrency is None else ["--concurrency", str(cell.concurrency)]
        match cell.way:
            case "reference":
                return [sys.executable, str(HERE / "reference.py"), *tables, *opencode]
            case "floor":
                script = [sys.executable, str(HERE / "floor.py"), *tables, *opencode]
                return [*script, "--servers", str(cell.servers), *at_once]
            case "peer":
                return [str(self.peer), str(HERE / "peer.py"), *tables, base_url, str(cell.concurrency)]
            case "threads" | "ray" | "postgres":
                ledger = self._database() if cell.way == "postgres" else str(folder / "ledger.db")
                runner = "threads" if cell.way == "threads" else "ray"
                batch = [] if cell.batch_size is None else ["--batch-size", str(cell.batch_size)]
                return [
                    *(COMMAND, "annotate", tables[0], "-o", tables[1], "--json"),
                    *("--ledger", ledger, "--runner", runner, "--model", "fake/echo"),
                    *("--opencode-config", opencode[0], "--opencode-bin", opencode[1], *at_once, *batch),
                ]

    def _measure(self, command: list[str], folder: Path) -> dict[str, Any]:
        report = folder / "report.json"
        measured = [sys.executable, str(HERE / "measured.py"), str(report), str(LIMIT_S), *command]
        with (folder / "stdout.txt").open("w") as stdout, (folder / "stderr.txt").open("w") as stderr:
            # An open pipe as its input: it ends with us.
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
                    # The end of its input has it end all that it measures.
                    process.stdin.close()  # type: ignore[union-attr]
        return json.loads(report.read_text())

    def _environment(self) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN) and not name.endswith("_API_KEY")
        }
        home, temporary = self.root / "home", self.root / "tmp"
        for path in (home, temporary):
            path.mkdir(exist_ok=True)
        return own | {"HOME": str(home), "TMPDIR": str(temporary)}

    def _database(self) -> str:
        """The address of a new database of the server."""
        # Only where its cells are wanted.
        import psycopg  # noqa: PLC0415

        assert self.postgres is not None
        name = f"ledger_{uuid.uuid4().hex}"
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        address, mark, query = self.postgres.partition("?")
        return f"{address.rpartition('/')[0]}/{name}{mark}{query}"


def prompt(token: str, number: int) -> str:
    """A prompt that no other run has, always of the same length and without a space at its end."""
    text = f"review {token} {number:05}: " + FILLING * 9
    return text[: PROMPT_CHARACTERS - 1].strip().ljust(PROMPT_CHARACTERS, ".")
