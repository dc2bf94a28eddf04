"""``OpenCodeLLM`` alone: its results, its exceptions, and the number of its requests."""

from __future__ import annotations

import logging
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rig import BASH, Rig

from opencode_tasks import OpenCodeLLM
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.records import QueryResult, RemoteTool
from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    InputError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
)
from opencode_tasks.opencode.backend import Clocks
from opencode_tasks.testing import Call, Reply

QUICK: dict[str, Any] = {"backoff_start_s": 0.05, "backoff_max_s": 0.1}


def llm(rig: Rig, *, retries: int = 2, **more: Any) -> OpenCodeLLM:
    """One that shares the session's warm server."""
    options: dict[str, Any] = {
        "system_message": "Be brief.",
        "retries": retries,
        "opencode_bin": str(rig.spec.binary),
        "config": rig.spec.config,
        "clocks": rig.spec.clocks,
        "limits": RetryLimits(max_attempts=retries, **QUICK),
    }
    return OpenCodeLLM("fake/echo", **{**options, **more})


@dataclass(frozen=True, slots=True)
class RunEvent:
    """What a prompt came to: a result or an error, and the provider calls."""

    result: QueryResult | OpenCodeError
    calls: list[Call]


def tell(rig: Rig, model: OpenCodeLLM, *replies: Reply, prompt: str) -> RunEvent:
    rig.provider.on(lambda call: call.prompt == prompt, *replies)
    before = len(rig.provider.calls)
    try:
        result: QueryResult | OpenCodeError = model.prompt(prompt)
    except OpenCodeError as error:
        result = error
    return RunEvent(result, rig.provider.calls[before:])


def test_an_answer(rig: Rig) -> None:
    model = llm(rig)
    reply = Reply(
        text="Four.",
        reasoning_text="Two and two.",
        input_tokens=100,
        cache_read_tokens=30,
        output_tokens=20,
        reasoning_tokens=5,
    )
    told = tell(rig, model, reply, prompt="llm answers")
    assert told.result == QueryResult(
        "Four.", 0, "", "[Thinking]\nTwo and two.\n\n[Response]\nFour.", success=True
    )
    assert [call.system for call in told.calls] == ["Be brief."]
    session_id = model.last_metadata.pop("session_id")
    assert session_id.startswith("ses_")
    assert model.last_metadata == {
        "model": "fake/echo",
        "tools": [],
        "usage": {
            "input_tokens": 70,
            "cache_read_tokens": 30,
            "cache_write_tokens": 0,
            "output_tokens": 15,
            "reasoning_tokens": 5,
        },
        "turns": 1,
        "cost": pytest.approx((70 + 3 + 40) / 1e6),
    }


def test_no_system_message_is_a_helpful_assistant(rig: Rig) -> None:
    told = tell(rig, llm(rig, system_message=""), Reply(text="x"), prompt="llm has no system")
    assert [call.system for call in told.calls] == ["You are a helpful assistant."]


def test_it_travels_by_pickle(rig: Rig) -> None:
    model = llm(rig)
    model.prompt("llm before the journey")
    copy = pickle.loads(pickle.dumps(model))
    assert copy.last_metadata == model.last_metadata
    assert copy.prompt("llm after the journey").result == "llm after the journey"


@pytest.mark.parametrize(
    ("name", "reply", "kind"),
    [
        ("rate limit", Reply(status=429, headers={"Retry-After": "100"}), RateLimitError),
        ("authentication", Reply(status=401), AuthenticationError),
        ("billing", Reply(status=402), BillingError),
        ("invalid request", Reply(status=400, body={"error": {"message": "no"}}), InvalidRequestError),
    ],
)
def test_what_asking_again_cannot_mend_is_raised_at_once(
    rig: Rig, name: str, reply: Reply, kind: type[OpenCodeError]
) -> None:
    told = tell(rig, llm(rig, retries=3), reply, prompt=f"llm meets {name}")
    assert type(told.result) is kind
    assert len(told.calls) == 1


def test_a_cut_answer_is_asked_once_more_even_with_one_attempt(rig: Rig) -> None:
    cut = Reply(text="part", finish_reason="length")
    told = tell(rig, llm(rig, retries=1), cut, prompt="llm is cut twice")
    assert isinstance(told.result, MaxOutputTokensError)
    assert told.result.partial_text == "part"
    assert len(told.calls) == 2
    told = tell(rig, llm(rig, retries=1), cut, Reply(text="whole"), prompt="llm is cut once")
    assert isinstance(told.result, QueryResult)
    assert told.result.result == "whole"
    assert len(told.calls) == 2


@pytest.mark.parametrize("retries", [1, 3])
def test_a_server_error_is_raised_when_the_attempts_are_spent(rig: Rig, retries: int) -> None:
    told = tell(rig, llm(rig, retries=retries), Reply(status=500), prompt=f"llm fails {retries}")
    assert isinstance(told.result, ServerError)
    assert len(told.calls) == retries


def test_a_server_error_that_passes_is_an_answer(rig: Rig) -> None:
    told = tell(rig, llm(rig), Reply(status=503), Reply(text="up again"), prompt="llm recovers")
    assert isinstance(told.result, QueryResult)
    assert (told.result.result, told.result.success) == ("up again", True)
    assert len(told.calls) == 2


def test_an_unknown_error_is_returned(rig: Rig) -> None:
    told = tell(rig, llm(rig, retries=2), Reply(text=""), prompt="llm gets nothing")
    assert isinstance(told.result, QueryResult)
    assert not told.result.success
    assert told.result.stderr.startswith("empty response")
    assert '"role": "assistant"' in told.result.stream_result
    assert len(told.calls) == 2


@pytest.mark.slow
def test_a_time_out_is_returned(rig: Rig) -> None:
    # Other clocks would start another server; the backend's own are what runs out.
    clocks = Clocks(first_event_s=4, stall_s=60, total_s=60)
    told = tell(rig, llm(rig, retries=1, clocks=clocks), Reply(hang=True), prompt="llm waits in vain")
    assert isinstance(told.result, QueryResult)
    assert not told.result.success
    assert "--first-event-timeout" in told.result.stderr
    assert len(told.calls) == 1


def test_an_unknown_model_is_an_invalid_request(rig: Rig) -> None:
    before = len(rig.provider.calls)
    model = llm(rig)
    model.model = "fake/nope"
    with pytest.raises(InvalidRequestError, match="no model 'nope'"):
        model.prompt("llm asks nobody")
    assert len(rig.provider.calls) == before


@pytest.mark.nightly
def test_no_model_lets_opencode_choose_and_says_so(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    model = llm(rig, config={**rig.spec.config, "model": "fake/free"})
    model.model = None
    with caplog.at_level(logging.DEBUG, logger="opencode"):
        result = model.prompt("llm names no model")
    assert result.success
    assert rig.provider.calls[-1].model == "free"
    assert model.last_metadata["model"] == "<opencode default>"
    assert "opencode chooses its default" in caplog.text


@pytest.mark.slow
def test_traces_are_appended_for_answers_and_failures(rig: Rig, tmp_path: Path) -> None:
    model = llm(rig, retries=2, log_dir=tmp_path, logging_name="labels", agent_name="worker")
    replies = (
        Reply(status=500, body={"error": {"message": "boom"}}),
        Reply(tool_calls=[BASH]),
        Reply(text="Done."),
    )
    told = tell(rig, model, *replies, prompt="llm is traced")
    assert isinstance(told.result, QueryResult)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"labels_\d{8}_\d{6}\.log", path.name)
    text = path.read_text()
    assert text.count("Prompt: llm is traced") == 2
    assert re.search(r"\[Error\]\nserver_error on \w+: HTTP 500: boom", text)
    assert "[Tool Call: bash]\n" in text
    assert "[Tool Result]\nstepped" in text
    assert text.rstrip().endswith("[Response]\nDone.")


@pytest.mark.slow
def test_tools_are_named_in_the_metadata(rig: Rig) -> None:
    # Nothing serves the tool: opencode answers without it.
    tool = RemoteTool(name="search", hostname="127.0.0.1", port=9)
    model = llm(rig)
    result = model.prompt("llm has a tool", [tool])
    assert result.success
    assert model.last_metadata["tools"] == [
        {"name": "search", "hostname": "127.0.0.1", "port": 9, "node_id": None}
    ]


@pytest.mark.nightly
def test_the_command_line_backend(rig: Rig) -> None:
    # Its server, which only checks the model, is ended: it must not be the session's.
    model = llm(rig, backend="cli", config={**rig.spec.config, "snapshot": False})
    told = tell(rig, model, Reply(text="by hand"), prompt="llm runs a process")
    assert isinstance(told.result, QueryResult)
    assert told.result == QueryResult("by hand", 0, told.result.stderr, "[Response]\nby hand", success=True)
    assert len(told.calls) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": 0}, "at least 1"),
        ({"retries": 2.5}, "retries: 2.5 is not"),
        ({"retries": True}, "retries: True is not"),
        ({"retries": "3"}, "retries: '3' is not"),
        ({"timeout_seconds": 0}, "above 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds: nan is not"),
        ({"timeout_seconds": "5"}, "timeout_seconds: '5' is not"),
        ({"model": 5}, "model: 5 is not text"),
        ({"extra_cli_args": "--foo bar"}, "extra_cli_args: '--foo bar' is not a list"),
        ({"backend": "shell"}, "'server' or 'cli'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OpenCodeLLM(**options)


@pytest.mark.parametrize(
    ("prompt", "tools", "fault"),
    [
        (5, None, "prompt: 5 is not text"),
        (" ", None, "prompt: the prompt is empty"),
        ("Hello", "weather", "tools: 'weather' is not a list of remote MCP servers (RemoteTool)"),
    ],
)
def test_a_prompt_that_cannot_be_sent_is_one_line(prompt: Any, tools: Any, fault: str) -> None:
    with pytest.raises(InputError) as refused:
        OpenCodeLLM(opencode_bin="/none").prompt(prompt, tools)
    assert refused.value.faults == (fault,)


def test_it_loads_none_of_the_frameworks() -> None:
    code = "import sys, opencode_tasks; opencode_tasks.OpenCodeLLM; "
    code += "print([m for m in ('prefect', 'ray', 'pandas') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
