"""SIGKILL of a part of a run at a given time, the continuation of the run to its end, and the toll.

The number of charged calls comes from the records of the provider.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import psutil
from cluster import LIMIT_S, Desk
from processes import ours

from opencode_tasks.testing import Reply

Target = Literal["driver", "worker", "server"]
IN_FLIGHT = 4
ANSWER_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """Effect of a kill after ``after`` provider calls had started, ``in_flight`` of them without an answer.

    ``sent_twice`` counts rows with two calls, ``charged_twice`` those whose first call was answered in
    full, ``sent_more`` those with more than two.
    """

    target: Target
    after: int
    in_flight: int
    completed: int
    missing: int
    doubled: int
    sent_twice: int
    charged_twice: int
    sent_more: int
    exit_codes: tuple[int, ...]

    def line(self) -> str:
        """As a line of the table."""
        cells = (
            self.target,
            self.after,
            self.in_flight,
            self.completed,
            self.missing,
            self.doubled,
            self.sent_twice,
            self.charged_twice,
            self.sent_more,
            "/".join(map(str, self.exit_codes)),
        )
        return "| " + " | ".join(map(str, cells)) + " |"


HEAD = (
    "| killed | after calls | in flight | completed | missing | doubled | asked twice "
    "| of them answered before | asked more often | exit |\n" + "|---" * 10 + "|"
)


def kill_and_go_on(desk: Desk, target: Target, *, rows: int, after: int) -> Toll:
    """Annotate rows, kill ``target`` once ``after`` calls have begun, and bring the run to its end."""
    desk.provider.on("row", Reply(delay_s=ANSWER_S))
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(rows)])
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--concurrency", str(IN_FLIGHT), "--json")
    codes: list[int] = []
    with desk.start(*arguments) as process:
        _until(lambda: len(desk.provider.calls) >= after, process)
        victim = process.pid if target == "driver" else _find(target)
        claimed = list(desk.provider.calls)
        in_flight = sum(not call.ended for call in claimed)
        psutil.Process(victim).kill()
        in_flight += len(desk.provider.calls) - len(claimed)
        process.communicate(timeout=LIMIT_S)
        codes.append(process.returncode)
    if target == "driver":
        codes.append(desk.run("resume", "--ledger", str(desk.folder / "ledger.db"), "--json").code)
    asked = Counter(desk.provider.prompts())
    answered = Counter(call.prompt for call in desk.provider.calls if call.ended)
    output = desk.read_csv("out.csv")
    ids = Counter(row["prompt"] for row in output)
    return Toll(
        target=target,
        after=after,
        in_flight=in_flight,
        completed=sum(row["status"] == "completed" and row["response"] == row["prompt"] for row in output),
        missing=rows - len(ids),
        doubled=len(output) - len(ids),
        sent_twice=sum(count == 2 for count in asked.values()),
        charged_twice=sum(count > 1 for count in answered.values()),
        sent_more=sum(count > 2 for count in asked.values()),
        exit_codes=tuple(codes),
    )


def _until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _find(target: Target) -> int:
    """The process that answers the rows: the newest worker with a batch, or opencode server, of ours."""
    wanted = {"worker": _is_batch, "server": _is_server}[target]
    found = [(process.create_time(), process.pid) for process, words in ours() if words and wanted(words)]
    assert found, f"no {target} runs"
    return max(found)[1]


def _is_batch(words: list[str]) -> bool:
    return words[0].startswith("ray::opencode-batch")


def _is_server(words: list[str]) -> bool:
    return words[1:2] == ["serve"] and "opencode" in words[0]
