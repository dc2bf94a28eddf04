"""Reading opencode's messages: the answer, the steps and what is unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.records import Usage
from opencode_tasks.domain.usage import add_usage
from opencode_tasks.outcomes import session_messages as export

DONE_MS = 1_777_636_800_000
TOKENS = {"input": 70, "output": 15, "reasoning": 5, "cache": {"read": 30, "write": 2}}


def user(text: str = "asked") -> dict[str, Any]:
    return {"info": {"role": "user"}, "parts": [{"type": "text", "text": text}]}


def assistant(*parts: Any, **info: Any) -> dict[str, Any]:
    whose = {"role": "assistant", "id": "msg_1", "providerID": "p", "modelID": "m", "agent": "a"}
    return {"info": {**whose, **info}, "parts": list(parts)}


def text(value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def finish(number: int = 1, *, cost: Any = 0.25, tokens: Any = TOKENS) -> dict[str, Any]:
    return {"type": "step-finish", "id": f"prt_{number}", "reason": "stop", "cost": cost, "tokens": tokens}


TOOL = {"type": "tool", "tool": "bash", "state": {}}
SUMMARY = assistant(text("summary"), summary=True)


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        ([], ""),
        ([user()], ""),
        ([user(), assistant(text("a"), text("b"))], "ab"),
        ([user(), assistant(text("first")), assistant(text("last"))], "last"),
        # The last that has text, not the last.
        ([user(), assistant(text("said")), assistant(TOOL)], "said"),
        ([user(), assistant(text("said")), assistant(text(""))], "said"),
        ([user(), assistant(text("said")), SUMMARY], "said"),
        ([user(), assistant(text("said")), assistant(text("s"), agent="compaction")], "said"),
        ([user(), SUMMARY], ""),
        ([user(), assistant(text("shown"), text("hidden", ignored=True))], "shown"),
        ([user(), assistant({"type": "reasoning", "text": "hm"}, text("a"))], "a"),
        ([user(), assistant(text(None), text(5), "odd", None)], ""),
    ],
)
def test_the_answer(messages: list[Any], answer: str) -> None:
    assert export.answer_text(messages) == answer


def test_what_the_last_prompt_led_to() -> None:
    before, after = assistant(text("before")), assistant(text("after"))
    assert export.after_last_prompt([user(), before, user("again"), after]) == [after]
    assert export.after_last_prompt([before]) == [before]
    assert export.after_last_prompt([user(), before, user()]) == []


def test_views_of_the_last_message() -> None:
    error = {"name": "APIError", "data": {}}
    messages = [user(), assistant(TOOL, error={"name": "Old"}, finish="tool-calls"), assistant(finish="stop")]
    assert export.last_error(messages) is None
    assert export.last_error([*messages, assistant(error=error)]) == error
    assert export.finish_reason(messages) == "stop"
    assert export.finish_reason([user()]) is None
    assert export.has_tool_call(messages)
    assert not export.has_tool_call([assistant(text("a"))])
    assert len(export.assistant_messages(messages)) == 2


def test_the_model_is_that_of_the_answer_not_of_a_summary() -> None:
    summary = assistant(text("s"), summary=True, modelID="small")
    assert export.model_ref([assistant(), summary]) == "p/m"
    assert export.model_ref([summary]) is None
    assert export.message_model({"providerID": None}) == "unknown/unknown"


def test_steps_are_read_from_the_parts_and_add_up() -> None:
    # The message's own tokens are those of its last step only.
    message = assistant(
        finish(1),
        TOOL,
        finish(2, cost=0.5),
        tokens=TOKENS,
        cost=0.75,
        time={"created": 5, "completed": DONE_MS},
    )
    first, second = export.steps_of([user(), message], "ses_1")
    assert (first.step_id, first.session_id, first.message_id) == ("prt_1", "ses_1", "msg_1")
    assert (first.model_ref, first.agent, first.finish_reason) == ("p/m", "a", "stop")
    assert first.ended_at == datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    assert add_usage([first.usage, second.usage]) == Usage(
        input_tokens=140,
        cache_read_tokens=60,
        cache_write_tokens=4,
        output_tokens=30,
        reasoning_tokens=10,
        cost_pico=750_000_000_000,
    )


@pytest.mark.parametrize(
    ("cost", "unpriced", "source", "pico"),
    [
        (0.25, (), "reported", 250_000_000_000),
        (1e-7, (), "reported", 100_000),
        (0, (), "reported", 0),
        (0, ("p/m",), "unpriced", None),
        (0.25, ("p/other",), "reported", 250_000_000_000),
        (None, (), "unpriced", None),
        ("dear", (), "unpriced", None),
        (float("nan"), (), "unpriced", None),
        (float("inf"), (), "unpriced", None),
        (True, (), "unpriced", None),
        ([], (), "unpriced", None),
    ],
)
def test_an_unknown_cost_is_none_and_never_0(
    cost: Any, unpriced: tuple[str, ...], source: str, pico: int | None
) -> None:
    (step,) = export.steps_of([assistant(finish(cost=cost))], "ses_1", unpriced=unpriced)
    assert (step.cost_source, step.usage.cost_pico) == (source, pico)


UNKNOWN = (None, None, None, None, None)


@pytest.mark.parametrize(
    ("tokens", "counts"),
    [
        (TOKENS, (70, 30, 2, 15, 5)),
        (None, UNKNOWN),
        ({}, UNKNOWN),
        ("many", UNKNOWN),
        ({"input": 1, "output": 2}, (1, None, None, 2, None)),
        ({**TOKENS, "cache": None}, (70, None, None, 15, 5)),
        ({**TOKENS, "cache": {"read": 0, "write": 0}}, (70, 0, 0, 15, 5)),
        ({**TOKENS, "input": float("nan"), "output": "15", "reasoning": True}, (None, 30, 2, None, None)),
        ({**TOKENS, "input": 70.0}, (70, 30, 2, 15, 5)),
    ],
)
def test_tokens_are_split_and_the_unknown_stays_unknown(tokens: Any, counts: tuple[int | None, ...]) -> None:
    (step,) = export.steps_of([assistant(finish(tokens=tokens))], "ses_1")
    usage = step.usage
    assert counts == (
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    )


@pytest.mark.parametrize(
    ("time", "ended"),
    [
        ({"completed": DONE_MS, "created": 5}, datetime(2026, 5, 1, 12, 0, tzinfo=UTC)),
        ({"created": DONE_MS}, datetime(2026, 5, 1, 12, 0, tzinfo=UTC)),
        ({"completed": 1e300}, None),
        ({"completed": "now"}, None),
        (None, None),
    ],
)
def test_when_a_step_ended(time: Any, ended: datetime | None) -> None:
    (step,) = export.steps_of([assistant(finish(), time=time)], "ses_1")
    assert step.ended_at == ended


def test_a_sessions_record() -> None:
    messages = [user(), assistant(finish())]
    session = export.session_of("ses_2", messages, parent_id="ses_1")
    assert (session.session_id, session.parent_id, session.messages) == ("ses_2", "ses_1", messages)
    assert [step.session_id for step in session.steps] == ["ses_2"]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
odd_parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool", "step-finish"])},
    optional={"text": json_values, "cost": json_values, "tokens": json_values, "reason": json_values},
)
odd_infos = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional=dict.fromkeys(("error", "finish", "time", "providerID", "summary", "agent"), json_values),
)
odd_messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"info": json_values | odd_infos, "parts": json_values | st.lists(odd_parts | json_values)},
    ),
    max_size=3,
)


@given(odd_messages)
def test_no_json_breaks_the_reading(messages: list[dict[str, Any]]) -> None:
    assert isinstance(export.answer_text(messages), str)
    assert isinstance(export.finish_reason(messages), (str, type(None)))
    assert isinstance(export.model_ref(messages), (str, type(None)))
    export.last_error(messages)
    export.has_tool_call(messages)
    for step in export.steps_of(messages, "ses_1"):
        assert step.usage.cost_pico is None or step.cost_source == "reported"
