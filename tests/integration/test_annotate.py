"""``annotate`` wherever it is called: a script, a notebook, flows of every kind."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from cluster import Desk
from flow_parts import async_flow, parent_flow, users_flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.task_runners import ThreadPoolTaskRunner

from opencode_tasks import AnnotateOptions, AnnotationResult, InputError, annotate
from opencode_tasks.frames.io import Output
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.flows import prepared_flow
from opencode_tasks.plan.command import PreparedRun
from opencode_tasks.plan.run_context import RunContext
from opencode_tasks.testing import ScriptedProvider

LIMIT_S = 120
EVENTS_LIMIT_S = 30

SCRIPT = """
import json, sys
import pandas as pd
import psutil
from opencode_tasks import annotate

options = json.load(sys.stdin)
frame = pd.DataFrame({"prompt": ["one", "two"]})
commands = []

def look(event):
    commands.extend(" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))

def call():
    return annotate(frame, on_event=look, **options)
"""
PLAIN = "result = call()"
NOTEBOOK = """
import asyncio

async def cell():
    return call()

result = asyncio.run(cell())
"""
FORKS = """
import multiprocessing

def of_child(pipe):
    pipe.send(list(call().frame["response"]))

call()
ours, theirs = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=of_child, args=(theirs,))
child.start()
assert ours.poll(60), "the child did not answer"
print(ours.recv())
child.join(60)
print(child.exitcode, list(call().frame["response"]))
"""
REPORT = """
print(json.dumps({
    "responses": list(result.frame["response"]),
    "loaded": [name for name in ("prefect", "ray") if name in sys.modules],
    "servers": [command for command in commands if "prefect" in command],
}))
"""


def options_of(folder: Path, provider: ScriptedProvider, binary: Path) -> dict[str, Any]:
    return {
        "model": "fake/echo",
        "opencode_config": provider.opencode_config(),
        "opencode_bin": str(binary),
        "ledger": str(folder / "ledger.db"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", [PLAIN, pytest.param(NOTEBOOK, marks=pytest.mark.nightly)], ids=["script", "notebook"]
)
def test_a_script_and_a_notebook_need_no_prefect(
    call: str, tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT + call + REPORT],
        input=json.dumps(options_of(tmp_path, provider, opencode_binary)),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=tmp_path,
        env=env,
    )
    # The servers of the process are closed before the interpreter ends, without a word.
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"responses": ["one", "two"], "loaded": [], "servers": []}
    assert sorted(provider.prompts()) == ["one", "two"]


@pytest.mark.nightly
@pytest.mark.parametrize("backend", ["null", pytest.param("server", marks=pytest.mark.slow)])
def test_a_forked_child_of_a_process_that_has_called_annotate_calls_it_too(
    backend: str, tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path
) -> None:
    options = options_of(tmp_path, provider, opencode_binary) | {"backend": backend, "refresh": True}
    if backend == "null":
        del options["model"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + FORKS],
        input=json.dumps(options),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["['one', 'two']", "0 ['one', 'two']"]
    assert len(provider.calls) == (0 if backend == "null" else 6)


def task_runs(desk: Desk, result: AnnotationResult) -> list[str]:
    """Names of the task runs of the flow run that the ledger has for the run of ``result``."""
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        run = ledger.runs.get(result.run_id)
    assert run is not None
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=run["flow_run_ids"]))
    with get_client(sync_client=True) as client:
        return [one.name for one in client.read_task_runs(flow_run_filter=wanted)]


# Prefect 3.8 can leave a connection of its client open when the event loop of an async flow ends.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "kind", ["sync", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("async", "subflow"))]
)
def test_in_a_flow_the_batches_are_task_runs_of_the_flow(desk: Desk, kind: str) -> None:
    flows: dict[str, Any] = {"sync": users_flow, "async": async_flow, "subflow": parent_flow}
    chosen = flows[kind].with_options(task_runner=ThreadPoolTaskRunner())
    frame = pd.DataFrame({"prompt": ["one", "two"]})
    called = chosen(frame, options_of(desk.folder, desk.provider, desk.binary))
    (result,) = asyncio.run(called) if kind == "async" else called
    assert list(result.frame["response"]) == ["one", "two"]
    # Prefect's server applies the events of task runs some time after their end.
    deadline = time.monotonic() + EVENTS_LIMIT_S
    while not (names := task_runs(desk, result))[0].startswith("2 rows"):
        assert time.monotonic() < deadline, names
        time.sleep(0.5)
    (name,) = names
    assert name.startswith("2 rows, 0 to 1 (batch ")


def sort(frame: pd.DataFrame) -> None:
    frame.sort_values("prompt", ascending=False, inplace=True)  # noqa: PD002  what is tested


def drop_rows(frame: pd.DataFrame) -> None:
    frame.drop(index=[10], inplace=True)  # noqa: PD002  see above


def drop_column(frame: pd.DataFrame) -> None:
    frame.drop(columns=["number"], inplace=True)  # noqa: PD002  see above


def reset_index(frame: pd.DataFrame) -> None:
    frame.reset_index(drop=True, inplace=True)  # noqa: PD002  see above


def assign_column(frame: pd.DataFrame) -> None:
    frame["number"] = 0


def assign_cells(frame: pd.DataFrame) -> None:
    frame.iloc[0, 0] = "changed"
    frame.iloc[0, 1] = -1
    frame.loc[:, "share"] = 0.0


def rename(frame: pd.DataFrame) -> None:
    frame.columns = ["a", "b", "c"]
    frame.index.name = "changed"


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of pandas 3.1
@pytest.mark.parametrize(
    "change", [sort, drop_rows, drop_column, reset_index, assign_column, assign_cells, rename]
)
def test_a_result_does_not_change_with_the_input_frame(
    change: Callable[[pd.DataFrame], None], tmp_path: Path, opencode_binary: Path
) -> None:
    frame = pd.DataFrame(
        {"prompt": ["a", "b", "c"], "number": [1, 2, 3], "share": [0.1, 0.2, 0.3]},
        index=pd.Index([10, 20, 30]),
    )
    before = frame.copy()
    result = annotate(
        frame, backend="null", opencode_bin=str(opencode_binary), ledger=str(tmp_path / "ledger.db")
    )
    pd.testing.assert_frame_equal(frame, before)
    change(frame)
    pd.testing.assert_frame_equal(result.frame.loc[:, ["prompt", "number", "share"]], before)
    assert list(result.frame["response"]) == ["a", "b", "c"]


class Stream:
    """An object with Arrow's PyCapsule interface and nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


ROWS = pa.table(
    {
        "prompt": ["a", "b"],
        "id": pa.array([2**53 + 1, 2**53 + 2], pa.int64()),
        "part": pa.array([[1], None], pa.list_(pa.int8())),
    }
)


@pytest.mark.parametrize("kind", [pl.DataFrame, pa.Table, Stream])
def test_the_frame_of_a_result_is_of_the_kind_of_the_input(
    kind: type[Any], tmp_path: Path, opencode_binary: Path
) -> None:
    frame = ROWS if kind is pa.Table else kind(ROWS)
    result = annotate(
        frame,
        backend="null",
        opencode_bin=str(opencode_binary),
        ledger=str(tmp_path / "ledger.db"),
        id_column="id",
    )
    assert type(result.frame) is kind
    found = pa.table(result.frame)
    assert found.column("response").to_pylist() == ["a", "b"]
    assert found.select(ROWS.column_names).to_pylist() == ROWS.to_pylist()
    assert found.schema.field("id").type == pa.int64()
    assert sorted(result.attempts["row_id"]) == [str(2**53 + 1), str(2**53 + 2)]
    assert type(pickle.loads(pickle.dumps(result)).frame) is kind


def test_the_frame_of_a_result_is_typed(tmp_path: Path, opencode_binary: Path) -> None:
    options: AnnotateOptions = {
        "backend": "null",
        "opencode_bin": str(opencode_binary),
        "ledger": str(tmp_path / "ledger.db"),
    }
    of_polars: AnnotationResult[pl.DataFrame] = annotate(pl.DataFrame({"prompt": ["a"]}), **options)
    assert of_polars.frame.get_column("response").to_list() == ["a"]
    of_pandas: AnnotationResult = annotate(pd.DataFrame({"prompt": ["a"]}), **options)
    assert of_pandas.frame["response"].tolist() == ["a"]


def test_an_input_that_is_no_frame_is_refused() -> None:
    not_a_frame: Any = [{"prompt": "a"}]
    with pytest.raises(InputError, match="or another object with __arrow_c_stream__ is required, not list"):
        annotate(not_a_frame)


def test_a_prepared_flow_stays_in_its_process() -> None:
    frame = pd.DataFrame({"prompt": ["text of the input"]})
    plan: Any = None
    prepared = PreparedRun(frame=frame, output=Output(name="out.csv"), plan=plan, context=RunContext())
    # Prefect pickles the flow for each task on Ray.
    assert b"text of the input" in cloudpickle.dumps(prepared)
    assert b"text of the input" not in cloudpickle.dumps(prepared_flow(prepared))
