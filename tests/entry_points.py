"""Each public entry point, called from each kind of code; a script that prints the result of each call.

It reads a JSON object from standard input and writes one line of JSON for each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.task_runners import ThreadPoolTaskRunner

from opencode_tasks import (
    OpenCodeAgent,
    OpenCodeCredentials,
    OpenCodeLLM,
    annotate,
    annotate_dataset,
    cost_report,
    opencode_task,
)
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.config import merge

GIVEN: dict[str, Any] = json.load(sys.stdin) if __name__ == "__main__" else {}
FOLDER = Path(GIVEN.get("folder", "."))
CONFIG: dict[str, Any] = {"opencode_config": GIVEN.get("config"), "opencode_bin": GIVEN.get("binary")}
RUNNER: Any = ThreadPoolTaskRunner()
SECRET_LEDGER = "block://secret/ledger-url"


def call_annotate() -> Any:
    frame = pd.DataFrame({"prompt": ["one"]})
    blocks: dict[str, Any] = {"agent": "opencode-agent/reviewer", "ledger": SECRET_LEDGER}
    return list(annotate(frame, refresh=True, **blocks, **CONFIG).frame["response"])


def call_dataset() -> Any:
    totals: Any = annotate_dataset(
        str(FOLDER / "in.csv"),
        str(FOLDER / "out.csv"),
        agent="opencode-agent/reviewer",
        ledger=SECRET_LEDGER,
        refresh=True,
        runner="threads",
        **CONFIG,
    )
    return totals["rows"]["completed"]


def call_report() -> Any:
    return len(cost_report(str(FOLDER / "report"), ledger=SECRET_LEDGER)["files"])


def call_task() -> Any:
    return opencode_task("one", model="fake/echo", credentials="team", **CONFIG).text


def call_llm() -> Any:
    config = merge(GIVEN["config"], {"provider": {"fake": {"options": {"apiKey": GIVEN["key"]}}}})
    return OpenCodeLLM("fake/echo", config=config, opencode_bin=GIVEN["binary"]).prompt("one").result


ENTRIES: dict[str, Callable[[], Any]] = {
    "annotate": call_annotate,
    "annotate_dataset": call_dataset,
    "cost_report": call_report,
    "opencode_task": call_task,
    "OpenCodeLLM": call_llm,
}


@flow(task_runner=RUNNER, persist_result=False)
def in_flow(name: str) -> list[Any]:
    return [ENTRIES[name]()]


@flow(task_runner=RUNNER, persist_result=False)
async def in_async_flow(name: str) -> list[Any]:
    return [ENTRIES[name]()]


@flow(task_runner=RUNNER, persist_result=False)
async def in_sync_subflow_of_async(name: str) -> list[Any]:
    return in_flow(name)


@task(cache_policy=NO_CACHE, persist_result=False)
def a_task(name: str) -> list[Any]:
    return [ENTRIES[name]()]


@task(cache_policy=NO_CACHE, persist_result=False)
async def an_async_task(name: str) -> list[Any]:
    return [ENTRIES[name]()]


@flow(task_runner=RUNNER, persist_result=False)
def in_submitted_task(name: str) -> list[Any]:
    return a_task.submit(name).result()


@flow(task_runner=RUNNER, persist_result=False)
async def in_async_task(name: str) -> list[Any]:
    return await an_async_task(name)


async def in_notebook(name: str) -> list[Any]:
    return [ENTRIES[name]()]


CALLERS: dict[str, Callable[[str], Any]] = {
    "in_notebook": in_notebook,
    "in_flow": in_flow,
    "in_async_flow": in_async_flow,
    "in_sync_subflow_of_async": in_sync_subflow_of_async,
    "in_submitted_task": in_submitted_task,
    "in_async_task": in_async_task,
}


def spend() -> Any:
    """Pause: the first of two rows spends nearly the whole budget."""
    frame = pd.DataFrame({"prompt": ["expensive 1", "expensive 2"]})
    blocks: dict[str, Any] = {"agent": "opencode-agent/reviewer", "ledger": SECRET_LEDGER}
    limits: dict[str, Any] = {"concurrency": 1, "max_cost": 0.012, "on_wait": "sleep"}
    return annotate(frame, refresh=True, **blocks, **limits, **CONFIG)


@flow(task_runner=RUNNER, persist_result=False)
def pausing_flow() -> None:
    spend()


@flow(task_runner=RUNNER, persist_result=False)
async def async_pausing_flow() -> None:
    spend()


def paused(pausing: Any) -> list[Any]:
    """State, default of the budget form, artifacts, and deployment in the ledger, of a deployed flow run."""
    with get_client(sync_client=True) as client:
        deployment_id = client.create_deployment(client.create_flow(pausing), name="paused")
        flow_run = client.create_flow_run_from_deployment(deployment_id)
        before = artifacts()
        # Prefect's process of a flow run catches it.
        with contextlib.suppress(Pause):
            ended = run_flow(pausing, flow_run=flow_run)
            if asyncio.iscoroutine(ended):
                asyncio.run(ended)
        state: Any = client.read_flow_run(flow_run.id).state
        keyset = state.state_details.run_input_keyset
        form = json.loads(client.read_flow_run_input(flow_run.id, keyset["schema"]))
        default = form["properties"]["max_cost"]["default"]
        new = sorted((artifacts() - before).elements())
    with Ledger.open(str(FOLDER / "ledger.db")) as ledger:
        return [state.name, default, new, ledger.runs.newest()[0]["deployment"]]


def artifacts() -> Counter[str]:
    """Number of the artifacts with each key."""
    with get_client(sync_client=True) as client:
        return Counter(str(one.key) for one in client.read_artifacts())


def called(caller: Callable[[str], Any], name: str) -> list[Any]:
    async def run(started: Awaitable[list[Any]]) -> list[Any]:
        return await started

    found = caller(name)
    return asyncio.run(run(found)) if asyncio.iscoroutine(found) else found


def write(*values: Any) -> None:
    sys.stdout.write(f"{json.dumps(values)}\n")
    sys.stdout.flush()


def save_blocks() -> None:
    keys: Any = {"fake": GIVEN["key"]}
    OpenCodeCredentials(api_keys=keys).save("team", overwrite=True)
    credentials: Any = OpenCodeCredentials.load("team")
    OpenCodeAgent(model="fake/echo", credentials=credentials).save("reviewer", overwrite=True)
    url: Any = str(FOLDER / "ledger.db")
    Secret(value=url).save("ledger-url", overwrite=True)


def main() -> None:
    save_blocks()
    (FOLDER / "in.csv").write_text("prompt\none\n")
    for name in ENTRIES:
        for caller_name, caller in CALLERS.items():
            if name == "OpenCodeLLM" and caller_name not in ("in_notebook", "in_async_flow"):
                continue  # It does not use Prefect.
            before = artifacts()
            try:
                result = called(caller, name)
            except Exception as error:  # noqa: BLE001  the test shows it
                result = [f"{type(error).__name__}: {error}"]
            write(name, caller_name, *result, sorted((artifacts() - before).elements()))
    pausing_flows: tuple[Any, ...] = (pausing_flow, async_pausing_flow)
    for pausing in pausing_flows:
        write("pause", pausing.fn.__name__, *paused(pausing))


if __name__ == "__main__":
    main()
