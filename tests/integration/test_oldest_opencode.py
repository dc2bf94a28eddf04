"""The oldest opencode of the tested range, installed from npm, does what the newest does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rig import BASH, RARELY_CLI, Rig

from opencode_tasks.errors import (
    AuthenticationError,
    BudgetExceededError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
)
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.binary import MIN_VERSION, check_version, machine_packages, version_of
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.install import _npm_install
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.resolver import ResolvedOptions
from opencode_tasks.testing import Reply

pytestmark = pytest.mark.slow
# The keys of two prompts, by agent.
STORED_KEYS: dict[str | None, list[str]] = {
    None: [
        "b9a31a169d5a601935383225356fc5fd5d5719076db6b84e44accd6b492422fc",
        "ee2d7882caa7f7a18ae197d7af9dd946d289f4a917348cb51cdffef12684dbdb",
    ],
    "worker": [
        "544f981652247ad389bd1f51f8715caba6da7778e09dfe30a6c5134630f64a89",
        "2d74164f2a0bcc321aab2209893440be8accd837f4be3271713575e41b106181",
    ],
}


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("oldest")
    package = machine_packages()[0]
    _npm_install(f"{package}@{MIN_VERSION}", folder, print)
    binary = folder / "node_modules" / package / "bin" / "opencode"
    assert version_of(binary) == MIN_VERSION
    check_version(MIN_VERSION)
    with Rig(binary) as rig:
        yield rig


@pytest.mark.parametrize("backend", RARELY_CLI)
@pytest.mark.parametrize(
    ("name", "reply", "kind"),
    [
        ("429", Reply(status=429, headers={"Retry-After": "7200"}), RateLimitError),
        ("500", Reply(status=500, body={"error": {"message": "boom"}}), ServerError),
        ("401", Reply(status=401, body={"error": {"message": "bad key"}}), AuthenticationError),
        ("cut", Reply(text="abcdef", chunks=3, cut_after=1), ServerError),
        ("length", Reply(text="partial", finish_reason="length"), MaxOutputTokensError),
    ],
)
def test_a_fault_is_its_exception(
    oldest: Rig, backend: BackendName, name: str, reply: Reply, kind: type[OpenCodeError]
) -> None:
    del name
    asked = oldest.ask(reply, backend=backend)
    error = asked.failed(kind)
    assert len(asked.calls) == 1
    if isinstance(error, RateLimitError):
        assert (error.reset_time - datetime.now(UTC)).total_seconds() == pytest.approx(7200, abs=10)


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_prompt_arrives_byte_for_byte_and_is_counted(oldest: Rig, backend: BackendName) -> None:
    prompt = "--help \"q\" 'y'\r\n\t😀 \n\n"
    asked = oldest.ask(prompt=prompt, backend=backend)
    assert asked.text == prompt
    assert [call.prompt for call in asked.calls] == [prompt]
    assert asked.calls[0].system == "Be brief."
    (step,) = asked.attempt.steps
    assert step.usage.input_tokens == asked.calls[0].input_tokens
    assert step.usage.output_tokens == asked.calls[0].output_tokens
    assert step.usage.cost_pico
    assert asked.attempt.notes == ()


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_an_end_that_opencode_does_not_know_costs_one_request(oldest: Rig, backend: BackendName) -> None:
    asked = oldest.ask(Reply(text="done", finish_reason="eos"), agent="plain", system=None, backend=backend)
    # This version does not repeat the request, so the plugin reports nothing of the provider's word.
    assert "(unknown)" in asked.failed(ServerError).raw_message
    assert len(asked.calls) == 1


@pytest.mark.parametrize("backend", RARELY_CLI)
def test_a_session_sends_no_request_once_it_has_cost_more_than_its_limit(
    oldest: Rig, backend: BackendName
) -> None:
    work = Reply(tool_calls=[BASH], input_tokens=100, output_tokens=20)
    asked = oldest.ask(work, agent="worker", system=None, backend=backend, max_cost_pico=280_000_000)
    assert asked.failed(BudgetExceededError).spent_usd == 0.00042
    assert len(asked.calls) == 3


def test_a_session_with_a_finished_step_waits_inside_opencode(oldest: Rig) -> None:
    replies = (
        Reply(tool_calls=[BASH]),
        Reply(status=503, headers={"Retry-After": "1"}),
        Reply(text="recovered"),
    )
    asked = oldest.ask(*replies, agent="worker", system=None)
    assert asked.text == "recovered"
    assert len(asked.calls) == 3
    assert len(asked.attempt.inner_retries) == 1


def keys(rig: Rig, folder: Path, agent: str | None, more: dict[str, Any]) -> list[str]:
    """The row keys of two prompts."""
    frame = pd.DataFrame({"prompt": ["one", "two"]})
    options = Options(
        model="fake/echo",
        agent=agent,
        opencode_config=merge(rig.spec.config, more),
        opencode_bin=str(rig.spec.binary),
        ledger=str(folder / "ledger.db"),
    )
    return [row.row_key for row in make_plan(frame, ResolvedOptions(options=options)).rows]


UNUSED = {"mcp": {"unused": {"type": "remote", "url": "http://127.0.0.1:9/mcp", "enabled": False}}}


@pytest.mark.nightly
@pytest.mark.parametrize("agent", [None, "worker"])
def test_the_keys_of_rows_do_not_depend_on_the_version(
    oldest: Rig, rig: Rig, tmp_path: Path, agent: str | None
) -> None:
    found = keys(rig, tmp_path, agent, {})
    assert keys(oldest, tmp_path, agent, {}) == found
    assert keys(oldest, tmp_path, agent, UNUSED) == keys(rig, tmp_path, agent, UNUSED) == found
    # A change here sends all rows of all users again.
    assert found == STORED_KEYS[agent]
