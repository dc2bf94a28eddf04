"""The requests of one prompt are bounded: by its end, by failing tools, by steps and by cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from raw_provider import ANSWER, MODELS, RawProvider
from rig import BASH, RARELY_CLI, Rig

from opencode_tasks.errors import (
    BudgetExceededError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.opencode.backend import DEFAULT_AGENT, BackendName
from opencode_tasks.testing import Reply

BAD_CALL = Reply(tool_calls=[("no_such_tool", {"x": 1})])
# 100 tokens at 1 USD and 20 at 2 USD per million tokens.
WORK = Reply(tool_calls=[BASH], input_tokens=100, output_tokens=20)
WORK_PICO = 140_000_000
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]}
NO_FINISH = "the provider's stream ended without a finish reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The error that an abnormal end is, the number of its steps, and whether their usage is known."""

    kind: type[OpenCodeError]
    words: str
    usage_known: bool = True
    steps: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The answer's finish reason, and whether its usage is known."""

    finish: str
    usage_known: bool = True


ENDS: dict[str, Failed | Completed] = {
    "cut": Failed(kind=ServerError, words=NO_FINISH, usage_known=False),
    "no-finish": Failed(kind=ServerError, words=NO_FINISH),
    "nothing": Failed(kind=ServerError, words=NO_FINISH, usage_known=False),
    "html": Failed(kind=ServerError, words='HTML page "Sign in" instead of an answer', steps=0),
    "json": Completed(finish="stop", usage_known=False),
    "eos": Completed(finish="eos"),
    "empty-finish": Completed(finish="unknown"),
    "eos-without-text": Failed(kind=UnknownOpenCodeError, words="'eos', and sent no text"),
    "sensitive": Failed(kind=ContentFilteredError, words="'sensitive'"),
    "window": Failed(kind=MaxOutputTokensError, words="'model_context_window_exceeded'"),
    "error": Failed(kind=ServerError, words="'error'"),
    "no-call": Failed(kind=UnknownOpenCodeError, words="'tool_calls', and called no tool"),
    "gemini-blocked": Failed(kind=ContentFilteredError, words="blocked the prompt (PROHIBITED_CONTENT)"),
    "gemini-other": Failed(kind=UnknownOpenCodeError, words="'OTHER', and sent no text"),
    "gemini-cut": Failed(kind=ServerError, words=NO_FINISH, usage_known=False),
    "claude-cut": Failed(kind=ServerError, words=NO_FINISH, usage_known=False),
    "claude-eos": Completed(finish="eos"),
    "two-answers": Completed(finish="stop"),
    "response-incomplete": Failed(kind=ServerError, words="'incomplete'"),
}
CLI_KINDS = ("cut",)


@pytest.fixture(scope="module")
def raw() -> Iterator[RawProvider]:
    with RawProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def raw_rig(opencode_binary: Path, raw: RawProvider) -> Iterator[Rig]:
    with Rig(opencode_binary, extra=raw.opencode_config()) as rig:
        yield rig


def check_end(raw: RawProvider, rig: Rig, name: str, agent: str, backend: BackendName) -> None:
    """One request, and the answer or the error of the table, with the step that was paid for."""
    raw.requests.clear()
    asked = rig.ask(model=f"{MODELS[name].wire}/{name}", agent=agent, system=None, backend=backend)
    assert raw.requests == {name: 1}
    expected = ENDS[name]
    assert len(asked.attempt.steps) == (expected.steps if isinstance(expected, Failed) else 1)
    if isinstance(expected, Completed):
        answer = asked.good
        assert (answer.text, answer.finish_reason, answer.turns) == (ANSWER, expected.finish, 1)
        assert asked.attempt.usage_known is expected.usage_known
        return
    error = asked.failed(expected.kind)
    assert expected.words in error.raw_message
    assert "HTTP 400" not in error.raw_message
    assert asked.attempt.usage_known is expected.usage_known


@pytest.mark.slow
@pytest.mark.parametrize("agent", [DEFAULT_AGENT, pytest.param("plain", marks=pytest.mark.nightly), "worker"])
@pytest.mark.parametrize("name", ENDS)
def test_an_end_that_opencode_does_not_know_costs_one_request_through_a_server(
    raw: RawProvider, raw_rig: Rig, name: str, agent: str
) -> None:
    check_end(raw, raw_rig, name, agent, "server")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in CLI_KINDS else pytest.mark.nightly) for n in ENDS],
)
def test_an_end_that_opencode_does_not_know_costs_one_request_through_the_command_line(
    raw: RawProvider, raw_rig: Rig, name: str
) -> None:
    check_end(raw, raw_rig, name, "worker", "cli")


@pytest.mark.parametrize("name", ["refusal", "response-refusal"])
def test_a_refusal_of_the_model_is_no_answer_and_its_text_is_kept(
    raw: RawProvider, raw_rig: Rig, name: str
) -> None:
    raw.requests.clear()
    asked = raw_rig.ask(model=f"{MODELS[name].wire}/{name}", system=None)
    assert asked.failed(ContentFilteredError).partial_text == ANSWER
    assert asked.attempt.usage_known
    assert raw.requests == {name: 1}


@pytest.mark.slow
@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_agent_continues_after_a_tool_call_whatever_the_finish_reason(
    rig: Rig, backend: BackendName
) -> None:
    asked = rig.ask(
        Reply(tool_calls=[BASH], finish_reason="eos"),
        Reply(text="done", finish_reason="eos"),
        agent="worker",
        system=None,
        backend=backend,
    )
    assert (asked.text, asked.good.finish_reason, asked.good.turns) == ("done", "eos", 2)
    assert len(asked.calls) == 2


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_sub_agent_whose_answer_ends_abnormally_sends_one_request(rig: Rig, backend: BackendName) -> None:
    task = {"description": "one thing", "prompt": "do the odd thing", "subagent_type": "hand"}
    rig.provider.on("do the odd thing", Reply(text="thing done", finish_reason="eos"))
    replies = [Reply(tool_calls=[("task", task)]), Reply(text="all done")]
    asked = rig.ask(*replies, agent="boss", system=None, backend=backend)
    assert asked.text == "all done"
    assert len(asked.calls) == len(asked.attempt.steps) == 3


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_answer_with_an_unknown_finish_reason_can_be_repaired(rig: Rig, backend: BackendName) -> None:
    replies = [Reply(text='{"label": "so so"}', finish_reason="eos"), Reply(text='{"label": "bad"}')]
    asked = rig.ask(*replies, schema=SCHEMA, backend=backend)
    assert asked.good.structured == {"label": "bad"}
    assert len(asked.calls) == len(asked.attempt.steps) == 2


def test_the_text_of_an_earlier_step_is_no_answer(rig: Rig) -> None:
    asked = rig.ask(
        Reply(text="I look first.", tool_calls=[BASH]),
        Reply(text="", finish_reason="eos"),
        agent="worker",
        system=None,
    )
    assert "sent no text" in asked.failed(UnknownOpenCodeError).raw_message
    assert len(asked.calls) == 2


@pytest.mark.parametrize(
    ("agent", "backend"),
    [
        (DEFAULT_AGENT, "server"),
        ("worker", "server"),
        pytest.param("worker", "cli", marks=pytest.mark.nightly),
        pytest.param(DEFAULT_AGENT, "cli", marks=pytest.mark.nightly),
    ],
)
def test_a_model_whose_tool_calls_all_fail_is_ended(rig: Rig, agent: str, backend: BackendName) -> None:
    asked = rig.ask(BAD_CALL, agent=agent, system=None, backend=backend)
    error = asked.failed(InvalidRequestError)
    assert "no tool call succeeded in 8 model calls in a row; the last one: no_such_tool" in error.raw_message
    assert "HTTP 400" not in error.raw_message
    assert len(asked.calls) == len(asked.attempt.steps) == 8
    assert asked.attempt.usage_known


def test_failing_tool_calls_with_a_success_between_them_are_no_loop(rig: Rig) -> None:
    replies = [*[BAD_CALL] * 7, WORK, *[BAD_CALL] * 7, Reply(text="found it")]
    asked = rig.ask(*replies, agent="worker", system=None)
    assert asked.text == "found it"
    assert len(asked.calls) == 16


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_session_sends_no_request_once_it_has_cost_more_than_its_limit(
    rig: Rig, backend: BackendName
) -> None:
    asked = rig.ask(WORK, agent="worker", system=None, backend=backend, max_cost_pico=2 * WORK_PICO)
    error = asked.failed(BudgetExceededError)
    assert (error.limit_usd, error.spent_usd) == (0.00028, 0.00042)
    assert len(asked.calls) == 3
    assert sum(step.usage.cost_pico or 0 for step in asked.attempt.steps) == 3 * WORK_PICO
    assert asked.attempt.usage_known
    assert "opencodeTasks" not in json.dumps([call.body for call in asked.calls])


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_the_cost_of_a_sub_agent_counts(rig: Rig, backend: BackendName) -> None:
    task = {"description": "one thing", "prompt": "do the costly thing", "subagent_type": "hand"}
    rig.provider.on("do the costly thing", Reply(text="thing done", input_tokens=900, output_tokens=50))
    asked = rig.ask(
        Reply(tool_calls=[("task", task)], input_tokens=50, output_tokens=5),
        Reply(text="all done"),
        agent="boss",
        system=None,
        backend=backend,
        max_cost_pico=500_000_000,
    )
    assert asked.failed(BudgetExceededError).spent_usd == 0.00106
    assert len(asked.calls) == len(asked.attempt.steps) == 2


def test_an_answer_that_cost_more_than_the_limit_is_kept(rig: Rig) -> None:
    asked = rig.ask(WORK, Reply(text="done"), agent="worker", system=None, max_cost_pico=WORK_PICO)
    assert asked.text == "done"


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_the_limit_holds_for_the_repair_turn_too(rig: Rig, backend: BackendName) -> None:
    replies = [WORK, Reply(text="none", input_tokens=100, output_tokens=20), WORK]
    limit = 2 * WORK_PICO
    asked = rig.ask(*replies, agent="worker", schema=SCHEMA, max_cost_pico=limit, backend=backend)
    # The first turn has used up the limit without exceeding it, so the repair turn sends one request.
    asked.failed(BudgetExceededError)
    assert len(asked.calls) == 3


@pytest.fixture(scope="module")
def short_rig(opencode_binary: Path) -> Iterator[Rig]:
    with Rig(opencode_binary) as rig:
        rig.spec = replace(rig.spec, max_steps=5)
        yield rig


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_the_requests_of_a_prompt_are_limited(short_rig: Rig, backend: BackendName) -> None:
    asked = short_rig.ask(WORK, agent="worker", system=None, backend=backend)
    error = asked.failed(BudgetExceededError)
    assert "the row has used 5 model calls" in error.raw_message
    assert "OPENCODE_TASKS_MAX_STEPS" in error.raw_message
    assert (error.limit_usd, error.spent_usd) == (None, None)
    assert len(asked.calls) == len(asked.attempt.steps) == 5


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_requests_of_sub_agents_count(short_rig: Rig, backend: BackendName) -> None:
    task = {"description": "one thing", "prompt": "do the small thing", "subagent_type": "hand"}
    short_rig.provider.on("do the small thing", Reply(text="thing done"))
    asked = short_rig.ask(Reply(tool_calls=[("task", task)]), agent="boss", system=None, backend=backend)
    asked.failed(BudgetExceededError)
    assert len(asked.calls) == 5


@pytest.mark.slow
def test_each_prompt_of_a_session_has_all_its_requests(short_rig: Rig) -> None:
    replies = [*[WORK] * 4, Reply(text="none"), *[WORK] * 4, Reply(text='{"label": "good"}')]
    asked = short_rig.ask(*replies, agent="worker", schema=SCHEMA)
    assert asked.good.structured == {"label": "good"}
    assert len(asked.calls) == 10


@pytest.mark.nightly
def test_a_long_conversation_is_summarized_but_a_long_prompt_is_not(opencode_binary: Path) -> None:
    refused = {"error": {"message": "maximum context length is 100", "code": "context_length_exceeded"}}
    too_long = Reply(status=400, body=refused)
    with Rig(opencode_binary, extra={"compaction": {"auto": True}}) as rig:
        prompt = rig.ask(too_long, Reply(text="a summary"), agent="plain", system=None)
        work = rig.ask(WORK, too_long, Reply(text="a summary"), agent="worker", system=None)
    assert "maximum context length" in prompt.failed(MaxOutputTokensError).raw_message
    assert len(prompt.calls) == 1
    # The next request has the summary in place of the steps, and the provider echoes that.
    assert "The conversation was compacted" in work.text
    assert len(work.calls) == 4


@pytest.mark.nightly
def test_without_the_plugin_a_repeated_request_is_ended(unplugged: Rig) -> None:
    asked = unplugged.ask(Reply(text="x", finish_reason="eos"), agent="plain", system=None)
    assert "ended abnormally (unknown)" in asked.failed(ServerError).raw_message
    assert not asked.attempt.usage_known


@pytest.mark.nightly
def test_without_the_plugin_a_session_that_costs_too_much_is_ended(unplugged: Rig) -> None:
    asked = unplugged.ask(WORK, agent="worker", system=None, max_cost_pico=2 * WORK_PICO)
    error = asked.failed(BudgetExceededError)
    assert error.limit_usd == 0.00028
