"""The oldest opencode of the tested range, installed from npm, does what the newest does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rig import BASH, Rig

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
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.plan import make_plan
from opencode_tasks.plan.resolver import ResolvedOptions
from opencode_tasks.testing import Reply

pytestmark = pytest.mark.slow
BOTH: list[BackendName] = ["server", "cli"]
# The keys of two prompts, by agent.
STORED_KEYS: dict[str | None, list[str]] = {
    None: [
        "3e0b2aae7cfa7c29eeee46a7a2f40cfe8fea30a8556ce73e928da85b96aff996",
        "7e5e5cb554d38dc7581fb882c434fa8220f91dc51c85fa7f43458e8ce85165d1",
    ],
    "worker": [
        "ffa8fad45513861d6bc9cfe4d251025a22d9164488fea3b5f9bda1f1de0e02c4",
        "18b2c3f21d24a78b4286502b25b8c9718a20ea5aaf3ad4c82c6c6e580bc75814",
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


@pytest.mark.parametrize("backend", BOTH)
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


@pytest.mark.parametrize("backend", BOTH)
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


@pytest.mark.parametrize("backend", BOTH)
def test_an_end_that_opencode_does_not_know_costs_one_request(oldest: Rig, backend: BackendName) -> None:
    asked = oldest.ask(Reply(text="done", finish_reason="eos"), agent="plain", system=None, backend=backend)
    # This version does not repeat the request, so the plugin reports nothing of the provider's word.
    assert "(unknown)" in asked.failed(ServerError).raw_message
    assert len(asked.calls) == 1


@pytest.mark.parametrize("backend", BOTH)
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


@pytest.mark.parametrize("agent", [None, "worker"])
def test_the_keys_of_rows_do_not_depend_on_the_version(
    oldest: Rig, rig: Rig, tmp_path: Path, agent: str | None
) -> None:
    found = keys(rig, tmp_path, agent, {})
    assert keys(oldest, tmp_path, agent, {}) == found
    assert keys(oldest, tmp_path, agent, UNUSED) == keys(rig, tmp_path, agent, UNUSED) == found
    # A change here sends all rows of all users again.
    assert found == STORED_KEYS[agent]
