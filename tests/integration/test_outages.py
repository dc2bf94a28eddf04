"""Outages: a provider that answers no row makes no row final; a row that alone is not answered fails."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cluster import Desk, Ran

from opencode_tasks.testing import Call, Reply, ScriptedProvider

OUTAGE_S = 12.0
ROWS = (1, 3, 6, 30)
DOWN = Reply(status=503, body={"error": {"message": "Loading model"}})
REPLIES: Mapping[str, Reply] = {
    "503": DOWN,
    "503 with Retry-After": Reply(status=503, headers={"Retry-After": "1"}, body={"error": "down"}),
    "529": Reply(status=529, body={"error": {"message": "Overloaded"}}),
    "stream": Reply(text="", stream_error={"type": "overloaded_error", "message": "Overloaded"}),
}


def begin(desk: Desk, count: int, *more: str, env: Mapping[str, str] | None = None) -> Ran:
    """Annotate ``count`` rows, at most four at a time."""
    desk.write_csv("in.csv", [{"prompt": f"row {number:03}"} for number in range(count)])
    return desk.run(
        *desk.arguments("in.csv", "-o", "out.csv", "--concurrency", "4", "--json", *more), env=env
    )


def statuses(desk: Desk) -> Counter[str]:
    return Counter(row["status"] for row in desk.read_csv("out.csv"))


@contextmanager
def desks(like: Desk, folder: Path) -> Generator[dict[int, Desk]]:
    """A desk with its provider and ledger for each number of rows."""
    with ExitStack() as stack:
        found: dict[int, Desk] = {}
        for count in ROWS:
            (folder / f"{count}").mkdir()
            provider = stack.enter_context(ScriptedProvider())
            found[count] = Desk(folder=folder / f"{count}", provider=provider, binary=like.binary)
        yield found


def until(seconds: float) -> Callable[[Call], bool]:
    """Whether a request arrives less than ``seconds`` after the first one."""
    first: list[float] = []

    def is_down(call: Call) -> bool:
        first.append(call.at)
        return call.at - first[0] < seconds

    return is_down


@pytest.mark.parametrize(
    "kind",
    ["503", *(pytest.param(kind, marks=pytest.mark.chaos) for kind in REPLIES if kind != "503")],
)
def test_an_outage_makes_no_row_final(desk: Desk, tmp_path: Path, kind: str) -> None:
    with desks(desk, tmp_path) as found:
        for one in found.values():
            one.provider.on(until(OUTAGE_S), REPLIES[kind])
        with ThreadPoolExecutor(len(found)) as pool:
            ran = list(pool.map(lambda count: begin(found[count], count, "--max-attempts", "2"), found))
        for (count, one), end in zip(found.items(), ran, strict=True):
            assert end.code == 0, (count, end.stderr)
            assert statuses(one) == {"completed": count}
            answered = Counter(call.prompt for call in one.provider.calls if call.ended and is_answer(call))
            assert set(answered.values()) == {1}
            refused = len(one.provider.calls) - count
            # Ten failures close the gate; those in flight come on top, and probes after 5 and 10 s.
            assert refused <= min(3 * count, 10 + 4 + 3)


def is_answer(call: Call) -> bool:
    return call.status == 200 and call.output_tokens > 0


def test_a_row_that_alone_is_not_answered_fails(desk: Desk) -> None:
    desk.provider.on("row 002", DOWN)
    ran = begin(desk, 12, env={"OPENCODE_TASKS_OUTAGE": "0"})
    assert ran.code == 1, ran.stderr
    assert statuses(desk) == {"completed": 11, "failed": 1}
    sent = Counter(desk.provider.prompts())
    assert sent == Counter({f"row {number:03}": 1 for number in range(12)} | {"row 002": 3})


@pytest.mark.parametrize("count", [1, 12])
def test_an_outage_without_end_pauses_the_run_and_resume_completes_it(desk: Desk, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    desk.write_csv("in.csv", [{"prompt": f"row {number:03}"} for number in range(count)])
    with ScriptedProvider(port=port) as provider:
        # Its port is closed after this block: connections are refused.
        closed = Desk(folder=desk.folder, provider=provider, binary=desk.binary)
        arguments = closed.arguments("in.csv", "-o", "out.csv", "--json")
    ran = closed.run(*arguments, env={"OPENCODE_TASKS_MAX_OUTAGE_WAIT": "4"})
    assert ran.code == 75, ran.stderr
    assert statuses(closed) == {"open": count}
    assert "the provider has answered no row for" in ran.stderr
    assert "OPENCODE_TASKS_MAX_OUTAGE_WAIT" in ran.stderr
    command = re.search(r"opencode-tasks (resume \S+)", ran.stderr)
    assert command is not None, ran.stderr
    with ScriptedProvider(port=port) as provider:
        again = desk.run(*command[1].split(), "--ledger", str(desk.folder / "ledger.db"))
        assert again.code == 0, again.stderr
        assert statuses(closed) == {"completed": count}
        assert set(Counter(provider.prompts()).values()) == {1}
