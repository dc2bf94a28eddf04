"""Outages: a provider that answers no row makes no row final; a row that alone is not answered fails."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from engine_runs import Engine, setting

from opencode_tasks import AnnotationResult, RunPausedError
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.testing import Call, Reply, ScriptedProvider
from opencode_tasks.testing.scripted_backend import scripted_backend

OUTAGE_S = 12.0
ROWS = (1, 3, 6, 30)
DOWN = Reply(status=503, body={"error": {"message": "Loading model"}})
REPLIES: Mapping[str, Reply] = {
    "503": DOWN,
    "503 with Retry-After": Reply(status=503, headers={"Retry-After": "1"}, body={"error": "down"}),
    "529": Reply(status=529, body={"error": {"message": "Overloaded"}}),
    "stream": Reply(text="", stream_error={"type": "overloaded_error", "message": "Overloaded"}),
}


@contextmanager
def engine(folder: Path, rows: int, provider: ScriptedProvider) -> Generator[Engine]:
    """An engine with a ledger in a folder; at most four of its rows are in flight."""
    folder.mkdir(exist_ok=True)
    with scripted_backend(provider) as name:
        yield Engine(folder, provider, {"backend": name, "concurrency": 4}, rows=rows)


@contextmanager
def engines(folder: Path) -> Generator[list[Engine]]:
    """An engine with its provider and ledger for each number of rows."""
    with ExitStack() as stack:
        providers = [stack.enter_context(ScriptedProvider()) for _ in ROWS]
        yield [
            stack.enter_context(engine(folder / f"{count}", count, provider))
            for count, provider in zip(ROWS, providers, strict=True)
        ]


def until(seconds: float) -> Callable[[Call], bool]:
    """Whether a request arrives less than ``seconds`` after the first one."""
    first: list[float] = []

    def is_down(call: Call) -> bool:
        first.append(call.at)
        return call.at - first[0] < seconds

    return is_down


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["503", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in REPLIES if kind != "503")],
)
def test_an_outage_makes_no_row_final(tmp_path: Path, kind: str) -> None:
    def run(one: Engine) -> AnnotationResult:
        return one.execute(one.plan(max_attempts=2))

    with engines(tmp_path) as found:
        for one in found:
            one.provider.on(until(OUTAGE_S), REPLIES[kind])
        with ThreadPoolExecutor(len(found)) as pool:
            results = list(pool.map(run, found))
        for one, result in zip(found, results, strict=True):
            count = len(one.frame)
            assert result.counts["completed"] == count
            answered = Counter(call.prompt for call in one.provider.calls if call.ended and is_answer(call))
            assert set(answered.values()) == {1}
            refused = len(one.provider.calls) - count
            # Ten failures close the gate; those in flight come on top, and probes after 5 and 10 s.
            assert refused <= min(3 * count, 10 + 4 + 3)


def is_answer(call: Call) -> bool:
    return call.status == 200 and call.output_tokens > 0


@pytest.mark.nightly
def test_a_row_that_alone_is_not_answered_fails(tmp_path: Path, provider: ScriptedProvider) -> None:
    provider.on(lambda call: call.prompt == "row 2", DOWN)
    with setting("OUTAGE", "0"), engine(tmp_path, 12, provider) as one:
        result = one.execute(one.plan())
    assert (result.counts["completed"], result.counts["failed"]) == (11, 1)
    sent = Counter(provider.prompts())
    assert sent == Counter({f"row {number}": 1 for number in range(12)} | {"row 2": 3})


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(12, marks=pytest.mark.nightly)])
def test_an_outage_without_end_pauses_the_run_and_resume_completes_it(tmp_path: Path, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ScriptedProvider(port=port) as closed:
        """Its port is closed after this block: connections are refused."""
    with setting("MAX_OUTAGE_WAIT", "4"), engine(tmp_path, count, closed) as one:
        with pytest.raises(RunPausedError, match="OPENCODE_TASKS_MAX_OUTAGE_WAIT") as paused:
            one.execute(one.plan())
        assert "the provider has answered no row for" in str(paused.value)
        assert {row["status"] for row in one.outcomes()} == {"open"}
    with ScriptedProvider(port=port) as provider, engine(tmp_path, count, provider) as one:
        result = one.execute(one.plan(), context=RunContext(resumed_run_id=paused.value.run_id))
        assert result.counts["completed"] == count
        assert set(Counter(provider.prompts()).values()) == {1}
