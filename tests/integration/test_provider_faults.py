"""Faults of a provider in the middle of work: for all rows, in sub-agents and in streams."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from cluster import Desk
from rig import BASH, RARELY_CLI, Rig

from opencode_tasks.errors import (
    BillingError,
    ContentFilteredError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.opencode.backend import Clocks
from opencode_tasks.testing import Call, Reply

TASK = {"description": "one thing", "prompt": "do the one thing", "subagent_type": "hand"}
GONE = {"error": {"message": "The model `echo` has been deprecated", "code": "model_not_found"}}


def once_in(calls: int) -> Any:
    """A condition that holds for every call after the first ``calls``."""
    lock, seen = threading.Lock(), [0]

    def is_later(_: Call) -> bool:
        with lock:
            seen[0] += 1
            return seen[0] > calls

    return is_later


@pytest.mark.nightly
def test_a_model_that_is_retired_ends_the_run(desk: Desk) -> None:
    desk.provider.on(once_in(10), Reply(status=404, body=GONE))
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(60)])
    ran = desk.run(*desk.arguments("in.csv", "-o", "out.csv", "--concurrency", "4"))
    assert ran.code == 1, ran.stderr
    rows = desk.read_csv("out.csv")
    assert [row["status"] for row in rows].count("completed") == 10
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == 50
    assert {row["error_type"] for row in failed} == {"invalid_request"}
    # Three failures in a row, and what was in flight.
    assert len(desk.provider.calls) <= 10 + 3 + 4
    unsent = [row for row in failed if row["error_message"].startswith("not sent")]
    assert len(unsent) >= 50 - 3 - 4
    assert {row["attempts"] for row in unsent} == {"0"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_failure_of_a_sub_agent_is_the_rows(rig: Rig, backend: Any) -> None:
    limited = Reply(status=429, headers={"Retry-After": "7200"}, body={"error": {"message": "slow down"}})
    prompt = f"fail at the one thing, {backend}"
    rig.provider.on(prompt, limited)
    asked = rig.ask(
        Reply(tool_calls=[("task", {**TASK, "prompt": prompt})]),
        Reply(text="done without it"),
        agent="boss",
        system=None,
        backend=backend,
    )
    error = asked.failed(RateLimitError)
    assert error.reset_time.timestamp() - asked.at == pytest.approx(7200, abs=5 + asked.seconds)
    assert len(asked.calls) == 2


def test_a_filter_in_a_stream_of_a_sub_agent_is_the_rows(rig: Rig) -> None:
    refused = {"message": "Output blocked by content filtering policy", "type": "invalid_request_error"}
    rig.provider.on("do the filtered thing", Reply(text="", stream_error=refused))
    asked = rig.ask(
        Reply(tool_calls=[("task", {**TASK, "prompt": "do the filtered thing"})]),
        Reply(text="done without it"),
        agent="boss",
        system=None,
    )
    asked.failed(ContentFilteredError)
    assert len(asked.calls) == 2


def test_the_text_of_a_sub_agent_with_an_unknown_end_is_kept(rig: Rig) -> None:
    rig.provider.on("do the eos thing", Reply(text="thing done", finish_reason="eos"))
    asked = rig.ask(
        Reply(tool_calls=[("task", {**TASK, "prompt": "do the eos thing"})]),
        Reply(text="all done"),
        agent="boss",
        system=None,
    )
    assert asked.text == "all done"
    assert len(asked.calls) == 3
    assert "thing done" in json.dumps(asked.calls[-1].body)


@pytest.mark.slow
def test_a_transient_error_in_a_stream_after_a_step_is_left_to_opencode(rig: Rig) -> None:
    overloaded = {"message": "Overloaded", "type": "overloaded_error"}
    asked = rig.ask(
        Reply(tool_calls=[BASH]),
        Reply(text="", stream_error=overloaded),
        Reply(text="recovered"),
        agent="worker",
        system=None,
    )
    assert asked.text == "recovered"
    assert len(asked.calls) == 3


def test_half_a_text_before_an_error_is_no_answer(rig: Rig) -> None:
    asked = rig.ask(Reply(text="half of", stream_error={"message": "Provider disconnected", "code": 502}))
    error = asked.failed(ServerError)
    assert error.raw_message == "Provider disconnected"
    assert len(asked.calls) == 1
    assert not asked.attempt.usage_known


@pytest.mark.slow
def test_comments_of_a_provider_are_a_sign_of_life(rig: Rig) -> None:
    clocks = Clocks(first_event_s=2, stall_s=2, total_s=60)
    asked = rig.ask(Reply(text="at last", keep_alive_s=5), clocks=clocks)
    assert asked.text == "at last"


def test_an_answer_with_reasoning_alone_is_explained_and_not_repeated(rig: Rig) -> None:
    asked = rig.ask(Reply(text="", reasoning_text="Let me think."))
    error = asked.failed(UnknownOpenCodeError)
    assert "reasoning and no text" in error.raw_message
    assert error.max_attempts == 1
    assert len(asked.calls) == 1


def test_json_in_place_of_a_stream_is_the_answer(rig: Rig) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
    choice = {"index": 0, "message": {"role": "assistant", "content": "whole"}, "finish_reason": "stop"}
    whole = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "echo",
        "choices": [choice],
        "usage": usage,
    }
    asked = rig.ask(Reply(raw=json.dumps(whole).encode()))
    assert asked.text == "whole"
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.output_tokens) == (40, 10)


def sse(*events: dict[str, Any]) -> bytes:
    """A stream of chat completions, in ASCII with escapes as Python writes JSON."""
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice], **more}


STREAM = "text/event-stream"
USAGE = {"prompt_tokens": "40", "completion_tokens": "10", "total_tokens": "50"}


def test_a_corrected_event_keeps_its_text(rig: Rig) -> None:
    text = "café 余额 👍"
    asked = rig.ask(Reply(raw=sse(chunk(text, "stop", usage=USAGE)), content_type=STREAM))
    assert asked.text == text
    (step,) = asked.attempt.steps
    assert (step.usage.input_tokens, step.usage.output_tokens) == (40, 10)


def test_an_error_in_several_lines_and_in_chinese_is_read(rig: Rig) -> None:
    body = json.dumps({"error": {"code": "1113", "message": "余额不足"}}, indent=2)
    for raw in (body, "event: error\n" + "".join(f"data: {line}\n" for line in body.splitlines()) + "\n"):
        asked = rig.ask(
            Reply(raw=sse(chunk("half"))[: -len("data: [DONE]\n\n")] + raw.encode(), content_type=STREAM)
        )
        assert "余额不足" in asked.failed(BillingError).raw_message
        assert len(asked.calls) == 1


def test_an_error_is_found_in_an_event_that_repeats_the_request(rig: Rig) -> None:
    refused = {"code": "content_filter", "message": "no"}
    asked = rig.ask(Reply(status=400, body={"error": {**refused, "message": "x" * 20_000}}))
    asked.failed(ContentFilteredError)


def test_retries_that_succeeded_do_not_count(rig: Rig) -> None:
    over = Reply(status=503, headers={"Retry-After": "0"}, body={"error": {"message": "over"}})
    work = [reply for _ in range(6) for reply in (over, Reply(tool_calls=[BASH]))]
    asked = rig.ask(Reply(tool_calls=[BASH]), *work, Reply(text="done"), agent="worker", system=None)
    assert asked.text == "done"
    assert len(asked.calls) == 14
