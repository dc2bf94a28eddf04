"""What providers answer, through the real opencode: one request, and the exception that is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from provider_answers import FailedAnswer, failed_answers
from rig import Rig

from opencode_tasks.errors import InvalidRequestError, RateLimitError
from opencode_tasks.opencode.config import merge
from opencode_tasks.testing import Reply, Wire

WIRES: tuple[Wire, ...] = get_args(Wire)
ANSWERS = {answer.name: answer for answer in failed_answers()}


@pytest.fixture(scope="module")
def wired(opencode_binary: Path) -> Iterator[Rig]:
    """One server with a provider for each wire, whose name is the wire."""
    rig = Rig(opencode_binary)
    config: dict[str, Any] = dict(rig.spec.config)
    for wire in WIRES:
        config = merge(config, rig.provider.opencode_config(name=wire, wire=wire))
    rig.spec = replace(rig.spec, config=config)
    with rig:
        yield rig


def first_of_each_kind() -> set[str]:
    """The first answer of each wire with each class, fate and wait; `test_classify` has all of them."""
    kinds: dict[tuple[object, ...], str] = {}
    for name, answer in ANSWERS.items():
        kind = (answer.wire, answer.kind, answer.is_final, answer.concerns_all_rows, answer.wait_s is None)
        kinds.setdefault(kind, name)
    return set(kinds.values())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in first_of_each_kind() else pytest.mark.nightly) for n in ANSWERS],
)
def test_an_answer_has_its_class_after_one_request(wired: Rig, name: str) -> None:
    answer: FailedAnswer = next(one for one in failed_answers() if one.name == name)
    asked = wired.ask(answer.reply, model=f"{answer.wire}/echo")
    error = asked.failed(answer.kind)
    assert len(asked.calls) == 1
    assert (error.max_attempts == 1) is answer.is_final
    assert error.concerns_all_rows is answer.concerns_all_rows
    if answer.wait_s is not None:
        assert isinstance(error, RateLimitError)
        assert error.reset_time.timestamp() - asked.at == pytest.approx(answer.wait_s, abs=3 + asked.seconds)
    assert asked.attempt.usage_known
    assert asked.attempt.inner_retries == []


def test_words_of_the_prompt_decide_nothing(wired: Rig) -> None:
    echoed = "insufficient balance, please recharge, incorrect API key, the model does not exist"
    body = {"error": {"message": f"1 validation error: input_value='{echoed}'"}}
    wired.provider.on(lambda call: echoed in call.prompt, Reply(status=400, body=body))
    asked = wired.ask(prompt=f"Is this paid? {echoed}")
    assert not asked.failed(InvalidRequestError).concerns_all_rows
