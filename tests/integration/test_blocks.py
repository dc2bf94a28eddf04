"""Prefect blocks: the options that they set, and that their secrets reach only opencode."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cluster import Desk
from flow_parts import mapping_flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import SecretStr

from opencode_tasks import OpenCodeAgent, OpenCodeCredentials, SetupError
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.orchestration.block_resolver import read_secrets, resolve_options
from opencode_tasks.plan.options import make_options
from opencode_tasks.testing import Reply


@pytest.fixture(autouse=True)
def _no_server_stays_warm() -> Iterator[None]:
    yield
    server_pool.close()


def name() -> str:
    return f"b{uuid.uuid4().hex[:8]}"


def save(block: Any) -> str:
    """Save a block under a new name; returns the name."""
    chosen = name()
    block.save(chosen)
    return chosen


def keyless(desk: Desk) -> list[str]:
    """Arguments that annotate two rows with a provider that has no key in the config."""
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--json")
    desk.write_csv("in.csv", [{"prompt": "row 1"}, {"prompt": "row 2"}])
    (desk.folder / "opencode.json").write_text(json.dumps(desk.provider.opencode_config(api_key=None)))
    return arguments


def test_prefect_finds_the_blocks_through_the_entry_point() -> None:
    (found,) = [one for one in entry_points(group="prefect.collections") if one.name == "opencode_tasks"]
    module = found.load()
    assert module.OpenCodeAgent is OpenCodeAgent
    assert module.OpenCodeCredentials is OpenCodeCredentials


@pytest.mark.slow
def test_a_key_reaches_opencode_and_is_stored_nowhere_else(ray_desk: Desk) -> None:
    secret, variable = f"sk-{uuid.uuid4().hex}", f"var-{uuid.uuid4().hex}"
    credentials = OpenCodeCredentials(
        api_keys={"fake": secret},  # pyright: ignore[reportArgumentType]  pydantic converts it to a secret
        environment={"OWN_HEADER": variable},  # pyright: ignore[reportArgumentType]  the same
    )
    block = save(credentials)
    assert secret not in repr(credentials)
    seen: list[str] = []

    def looks(call: Any) -> bool:
        del call
        seen.append(subprocess.run(["ps", "-ef", "-ww"], capture_output=True, text=True, check=True).stdout)
        return False

    ray_desk.provider.on(looks)
    config = ray_desk.provider.opencode_config(api_key=None)
    config["provider"]["fake"]["options"]["headers"] = {"x-own": "{env:OWN_HEADER}"}
    arguments = keyless(ray_desk)
    (ray_desk.folder / "opencode.json").write_text(json.dumps(config))
    ran = ray_desk.run(*arguments, "--credentials", block, "--log-dir", str(ray_desk.folder))
    assert ran.code == 0, ran.stderr
    assert {call.authorization for call in ray_desk.provider.calls} == {f"Bearer {secret}"}
    assert {call.headers["x-own"] for call in ray_desk.provider.calls} == {variable}
    with Ledger.open(str(ray_desk.folder / "ledger.db")) as ledger:
        (flow_run_id,) = ledger.runs.newest()[0]["flow_run_ids"]
    texts = [*pages(flow_run_id), *logs(flow_run_id)]
    for word in (secret, variable):
        assert seen
        assert not [text for text in (*seen, *texts, ran.stdout, ran.stderr) if word in text]
        assert files_with(word, [ray_desk.folder, Path(tempfile.gettempdir())]) == []


def pages(flow_run_id: str) -> list[str]:
    """What Prefect's API returns without a login: all blocks, and everything about a flow run."""
    ours = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    with httpx.Client(base_url=os.environ["PREFECT_API_URL"], timeout=30) as client:
        blocks = client.post("/block_documents/filter", json={"limit": 200})
        answers = [
            client.post(f"/{kind}/filter", json=ours) for kind in ("flow_runs", "task_runs", "artifacts")
        ]
        runs = [{"task_run_id": run["id"]} for run in answers[1].json()]
        states = [client.get("/task_run_states/", params=run) for run in runs]
    found = [blocks, *answers, *states]
    assert all(answer.status_code == httpx.codes.OK for answer in found)
    assert "opencode-credentials" in blocks.text
    assert states
    return [answer.text for answer in found]


def logs(flow_run_id: str) -> list[str]:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(flow_run_id)]))
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(flow_run_id))
        (run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
        )
        return [*map(str, client.read_logs(wanted)), *map(str, states), run.model_dump_json()]


def files_with(word: str, folders: list[Path]) -> list[Path]:
    """Files below the folders that contain the word, including Prefect's database and Ray's logs."""
    found: list[Path] = []
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink() and word.encode() in path.read_bytes():
                    found.append(path)
            except OSError:
                continue
    return found


@pytest.mark.nightly
def test_an_agent_block_sets_model_system_text_and_credentials(desk: Desk) -> None:
    secret = f"sk-{uuid.uuid4().hex}"
    credentials = OpenCodeCredentials(api_keys={"fake": secret})  # pyright: ignore[reportArgumentType]
    credentials.save(name())
    agent = save(
        OpenCodeAgent(
            model="fake/other",
            system="Say it in one word.",
            max_attempts=1,
            credentials=credentials,
            opencode_config={
                "provider": {"fake": {"models": {"other": {"limit": {"context": 1000, "output": 10}}}}}
            },
        )
    )
    arguments = keyless(desk)
    position = arguments.index("--model")
    del arguments[position : position + 2]
    ran = desk.run(*arguments, "--agent", agent)
    assert ran.code == 0, ran.stderr
    assert {(call.model, call.system, call.authorization) for call in desk.provider.calls} == {
        ("other", "Say it in one word.", f"Bearer {secret}")
    }
    # Options have precedence over the block.
    ran = desk.run(
        *arguments, "--agent", f"opencode-agent/{agent}", "--system", "Two words.", "--model", "fake/echo"
    )
    assert ran.code == 0, ran.stderr
    assert (desk.provider.calls[-1].model, desk.provider.calls[-1].system) == ("echo", "Two words.")


@pytest.mark.usefixtures("prefect_server")
def test_an_option_that_equals_its_default_has_precedence_over_the_block() -> None:
    agent = save(OpenCodeAgent(timeout=5, max_attempts=1))

    def limits(**given: Any) -> tuple[float, int]:
        options = resolve_options(make_options({"agent": agent, **given})).options
        return options.timeout_in_force, options.max_attempts_in_force

    assert limits() == (5, 1)
    assert limits(timeout=600.0, max_attempts=3) == (600, 3)


@pytest.mark.nightly
def test_a_missing_block_is_reported_before_any_row_is_sent(desk: Desk) -> None:
    arguments = keyless(desk)
    ran = desk.run(*arguments, "--credentials", "missing")
    assert (ran.code, desk.provider.calls) == (2, [])
    assert "there is no Prefect block opencode-credentials/missing" in ran.stderr
    ran = desk.run(*arguments, "--agent", "opencode-agent/missing")
    assert ran.code == 2
    assert "there is no Prefect block opencode-agent/missing" in ran.stderr
    ran = desk.run(*arguments, "--ledger", "block://secret/missing")
    assert ran.code == 2
    assert "there is no Prefect block secret/missing" in ran.stderr
    ran = desk.run(*arguments, "--credentials", "some", env={"PREFECT_API_URL": None})
    assert ran.code == 70, ran.stderr
    assert "set PREFECT_API_URL" in ran.stderr


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
@pytest.mark.parametrize("is_setting", [False, True], ids=["option", "setting"])
def test_the_printed_command_finds_a_ledger_in_a_block(desk: Desk, *, is_setting: bool) -> None:
    block = f"block://secret/{save(Secret(value=SecretStr(str(desk.folder / 'ledger.db'))))}"
    desk.write_csv("in.csv", [{"prompt": "row 1"}])
    desk.provider.on("row", Reply(status=402, body={"error": {"message": "insufficient credit"}}), Reply())
    arguments = desk.arguments("in.csv", "-o", "out.csv")
    position = arguments.index("--ledger")
    del arguments[position : position + 2]
    ran = desk.run(
        *arguments,
        *([] if is_setting else ["--ledger", block]),
        env={"OPENCODE_TASKS_LEDGER": block if is_setting else None},
    )
    assert ran.code == 75, ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("then resume: ")]
    words = line.removeprefix("then resume: opencode-tasks ").split()
    assert words[2:] == ([] if is_setting else ["--ledger", block])
    resumed = desk.run(*words, env={"OPENCODE_TASKS_LEDGER": block if is_setting else None})
    assert resumed.code == 0, resumed.stderr


@pytest.mark.slow
def test_opencode_task_accepts_a_credentials_block(desk: Desk) -> None:
    block = save(OpenCodeCredentials(api_keys={"fake": "sk-of-a-task"}))  # pyright: ignore[reportArgumentType]
    options = {
        "model": "fake/echo",
        "opencode_config": desk.provider.opencode_config(api_key=None),
        "opencode_bin": str(desk.binary),
        "credentials": block,
    }
    runner: Any = ThreadPoolTaskRunner()
    assert mapping_flow.with_options(task_runner=runner)(["hello"], options) == ["hello"]
    assert desk.provider.calls[0].authorization == "Bearer sk-of-a-task"


def test_a_prefect_server_that_does_not_answer_is_a_setup_error() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(SetupError, match="cannot read the Prefect block"),
    ):
        read_secrets("opencode-credentials/any")
