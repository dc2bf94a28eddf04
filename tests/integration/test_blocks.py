"""Prefect blocks: what they add to a run, and that their secrets go to opencode and nowhere else."""

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
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from opencode_tasks import OpenCodeAgent, OpenCodeCredentials, SetupError
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.orchestration.block_options import secrets_of


@pytest.fixture(autouse=True)
def _no_server_stays_warm() -> Iterator[None]:
    yield
    server_pool.close()


def name() -> str:
    return f"b{uuid.uuid4().hex[:8]}"


def save(block: Any) -> str:
    """Save a block under a new name; the name."""
    chosen = name()
    block.save(chosen)
    return chosen


def keyless(desk: Desk) -> list[str]:
    """The arguments that annotate two rows with a provider of which the config has no key."""
    told = desk.arguments("in.csv", "-o", "out.csv", "--json")
    desk.write_csv("in.csv", [{"prompt": "row 1"}, {"prompt": "row 2"}])
    (desk.folder / "opencode.json").write_text(json.dumps(desk.provider.opencode_config(api_key=None)))
    return told


def test_prefect_finds_the_blocks_by_themselves() -> None:
    (found,) = [one for one in entry_points(group="prefect.collections") if one.name == "opencode_tasks"]
    module = found.load()
    assert module.OpenCodeAgent is OpenCodeAgent
    assert module.OpenCodeCredentials is OpenCodeCredentials


def test_a_key_goes_to_opencode_and_is_found_nowhere_else(ray_desk: Desk) -> None:
    secret, variable = f"sk-{uuid.uuid4().hex}", f"var-{uuid.uuid4().hex}"
    credentials = OpenCodeCredentials(
        api_keys={"fake": secret},  # pyright: ignore[reportArgumentType]  pydantic makes a secret of it
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
    told = keyless(ray_desk)
    (ray_desk.folder / "opencode.json").write_text(json.dumps(config))
    ran = ray_desk.run(*told, "--credentials", block, "--log-dir", str(ray_desk.folder))
    assert ran.code == 0, ran.stderr
    assert {call.authorization for call in ray_desk.provider.calls} == {f"Bearer {secret}"}
    assert {call.headers["x-own"] for call in ray_desk.provider.calls} == {variable}
    with Ledger.open(str(ray_desk.folder / "ledger.db")) as ledger:
        (flow_run_id,) = ledger.runs.newest()[0]["flow_run_ids"]
    told_server = [*pages(flow_run_id), *logs(flow_run_id)]
    for word in (secret, variable):
        assert seen
        assert not [text for text in (*seen, *told_server, ran.stdout, ran.stderr) if word in text]
        assert files_with(word, [ray_desk.folder, Path(tempfile.gettempdir())]) == []


def pages(flow_run_id: str) -> list[str]:
    """What the server tells anybody who asks: all blocks, and all of a flow run."""
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
    """Every file below the folders that holds the word, Prefect's database and Ray's logs among them."""
    found: list[Path] = []
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink() and word.encode() in path.read_bytes():
                    found.append(path)
            except OSError:
                continue
    return found


def test_an_agent_block_says_how_rows_are_asked(desk: Desk) -> None:
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
    told = keyless(desk)
    place = told.index("--model")
    del told[place : place + 2]
    ran = desk.run(*told, "--agent", agent)
    assert ran.code == 0, ran.stderr
    assert {(call.model, call.system, call.authorization) for call in desk.provider.calls} == {
        ("other", "Say it in one word.", f"Bearer {secret}")
    }
    # What is said beside it wins.
    ran = desk.run(
        *told, "--agent", f"opencode-agent/{agent}", "--system", "Two words.", "--model", "fake/echo"
    )
    assert ran.code == 0, ran.stderr
    assert (desk.provider.calls[-1].model, desk.provider.calls[-1].system) == ("echo", "Two words.")


def test_a_block_that_is_not_there_is_told_before_anything_is_sent(desk: Desk) -> None:
    told = keyless(desk)
    ran = desk.run(*told, "--credentials", "nobody")
    assert (ran.code, desk.provider.calls) == (2, [])
    assert "there is no Prefect block opencode-credentials/nobody" in ran.stderr
    ran = desk.run(*told, "--agent", "opencode-agent/nobody")
    assert ran.code == 2
    assert "there is no Prefect block opencode-agent/nobody" in ran.stderr
    ran = desk.run(*told, "--ledger", "block://secret/nobody")
    assert ran.code == 2
    assert "there is no Prefect block secret/nobody" in ran.stderr
    ran = desk.run(*told, "--credentials", "some", env={"PREFECT_API_URL": None})
    assert ran.code == 70, ran.stderr
    assert "set PREFECT_API_URL" in ran.stderr


def test_one_prompt_as_a_task_takes_a_block_too(desk: Desk) -> None:
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


def test_a_prefect_that_does_not_answer_is_no_missing_block() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(SetupError, match="cannot read the Prefect block"),
    ):
        secrets_of("opencode-credentials/any")
