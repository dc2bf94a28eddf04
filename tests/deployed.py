"""A deployment of the flow on the Prefect server of the session, and the states of its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from cluster import Desk
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from processes import kill_family, ours

ROOT = Path(__file__).parents[1]
PREFECT = str(Path(sys.executable).with_name("prefect"))
SERVED_FLOW = Path(__file__).with_name("served_flow.py")
LIMIT_S = 120.0
# The process that serves the deployment, and Python's tracker of shared memory.
SPARED = ("served_flow.py", "resource_tracker")


@contextmanager
def running(desk: Desk, name: str, arguments: list[str], **more: str) -> Generator[SyncPrefectClient]:
    """A process that starts the flow runs of a deployment; it and its children are killed at the end."""
    env = os.environ | {
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "OPENCODE_TASKS_MAX_INLINE_WAIT": "2",
        "OPENCODE_TASKS_LEDGER": str(desk.folder / "ledger.db"),
        **more,
    }
    log = desk.folder / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(arguments, cwd=desk.folder, env=env, stdout=out, stderr=out)
    try:
        with get_client(sync_client=True) as client:
            wait_for(lambda: has_deployment(client, name), log)
            yield client
    finally:
        kill_family(process)


def served(desk: Desk, name: str, **more: str) -> AbstractContextManager[SyncPrefectClient]:
    """A served deployment, with the variables ``more`` in its environment."""
    return running(desk, name, [sys.executable, str(SERVED_FLOW), name], **more)


def worked(desk: Desk, **more: str) -> AbstractContextManager[SyncPrefectClient]:
    """The deployments of ``deployments/prefect.yaml``, and a process worker for them."""
    pool = ["work-pool", "create", "--type", "process", "opencode-tasks", "--overwrite"]
    deploy = ["--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"]
    for arguments in (pool, deploy):
        done = subprocess.run(
            [PREFECT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return running(desk, "annotate", [PREFECT, "worker", "start", "--pool", "opencode-tasks"], **more)


def has_deployment(client: SyncPrefectClient, name: str) -> bool:
    try:
        client.read_deployment_by_name(f"annotate-dataset/{name}")
    except ObjectNotFound:
        return False
    return True


def wait_for(claim: Any, log: Path, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.2)


def started(desk: Desk, client: SyncPrefectClient, name: str, rows: int, **more: Any) -> UUID:
    deployment = client.read_deployment_by_name(f"annotate-dataset/{name}")
    parameters = parameters_of(desk, rows, **more)
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def parameters_of(desk: Desk, rows: int, **more: Any) -> dict[str, Any]:
    """Parameters of a flow run over ``rows`` rows; writes its files."""
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(rows)])
    config = desk.folder / "opencode.json"
    config.write_text(json.dumps(desk.provider.opencode_config()))
    return {
        "input": str(desk.folder / "in.csv"),
        "output": str(desk.folder / "out.csv"),
        "model": "fake/echo",
        "opencode_config": str(config),
        "opencode_bin": str(desk.binary),
        "concurrency": 2,
        **more,
    }


def state_of(client: SyncPrefectClient, flow_run_id: UUID) -> State:
    state = client.read_flow_run(flow_run_id).state
    assert state is not None
    return state


def history(client: SyncPrefectClient, flow_run_id: UUID) -> list[str | None]:
    states = client.read_flow_run_states(flow_run_id)
    return [state.name for state in sorted(states, key=lambda state: state.timestamp)]


def workers(before: set[int]) -> list[str]:
    """Command lines of the flow, opencode and Ray processes of this session that started since then."""
    lines = [" ".join(words)[:200] for process, words in ours() if process.pid not in before]
    return [line for line in lines if not any(word in line for word in SPARED)]
