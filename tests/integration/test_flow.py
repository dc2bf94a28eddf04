"""``annotate``, ``opencode_task`` and the deployable flow, on a real Prefect and a real Ray."""

from __future__ import annotations

import importlib.util
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
import ray
from cluster import Desk
from error_examples import EXAMPLES
from flow_parts import kill_worker_once, mapping_flow, users_flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_ray import RayTaskRunner

from opencode_tasks import (
    AnnotationResult,
    InputError,
    InvalidRequestError,
    OpenCodeTasksError,
)
from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

ROOT = Path(__file__).parents[2]


def options(desk: Desk) -> dict[str, Any]:
    return {
        "model": "fake/echo",
        "opencode_config": desk.provider.opencode_config(),
        "opencode_bin": str(desk.binary),
        "ledger": str(desk.folder / "ledger.db"),
    }


def annotated(desk: Desk, frame: pd.DataFrame, **more: Any) -> AnnotationResult:
    """``annotate`` in a flow of a user: on the Ray of the desk, else on threads."""
    runner: Any = RayTaskRunner() if desk.ray_address else ThreadPoolTaskRunner()
    return users_flow.with_options(task_runner=runner)(frame, options(desk) | more)[0]


@pytest.mark.slow
def test_annotate_returns_frames_in_input_order(desk: Desk) -> None:
    desk.provider.on("first", Reply(delay_s=0.5))
    frame = pd.DataFrame({"text": ["first", "second", "third"]}, index=pd.Index([7, 8, 9]))
    result = annotated(desk, frame, template="say {text}", label=["text"])
    assert list(result.frame["response"]) == ["say first", "say second", "say third"]
    assert list(result.frame.index) == [7, 8, 9]
    assert dict(result.counts) == {"open": 0, "completed": 3, "failed": 0, "skipped": 0}
    assert len(result.usage) == len(result.attempts) == 3
    assert result.cost["model_ref"].tolist() == ["fake/echo"]
    assert sum(result.cost["cost_usd"]) == pytest.approx(sum(result.frame["cost_usd"]))
    sent = pickle.dumps(annotated(desk, frame, template="say {text}"))
    # The URL can hold a password.
    assert b"ledger.db" not in sent
    assert list(pickle.loads(sent).frame["reused"]) == [True, True, True]


@pytest.mark.slow
def test_a_run_with_reused_answers_only_has_empty_frames_with_columns(desk: Desk) -> None:
    frame = pd.DataFrame({"prompt": ["once"]})
    sent, reused_rows = annotated(desk, frame), annotated(desk, frame)
    assert list(reused_rows.frame["reused"]) == [True]
    for name in ("usage", "attempts", "cost"):
        assert list(getattr(reused_rows, name).columns) == list(getattr(sent, name).columns)
        assert (len(getattr(sent, name)), len(getattr(reused_rows, name))) == (1, 0)


@pytest.mark.usefixtures("prefect_server")
def test_annotate_refuses_an_invalid_frame_before_any_row_is_sent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'prompt'"):
        users_flow(pd.DataFrame({"text": ["a"]}), {"backend": "null", "ledger": str(tmp_path / "ledger.db")})
    with Ledger.open(str(tmp_path / "ledger.db")) as ledger:
        assert ledger.runs.newest() == []


def test_every_error_crosses_a_ray_task_with_all_its_fields(ray_address: str) -> None:
    del ray_address

    @ray.remote
    def raised(error: OpenCodeTasksError) -> None:
        raise error

    for error in EXAMPLES:
        with pytest.raises(OpenCodeTasksError) as caught:
            ray.get(raised.remote(error))
        got: Any = getattr(caught.value, "cause", caught.value)
        assert type(got) is type(error)
        assert vars(got) == vars(error)
        assert str(got) == str(error)
        assert vars(pickle.loads(pickle.dumps(got))) == vars(error)


@pytest.mark.slow
def test_opencode_task_can_be_mapped_on_ray(ray_desk: Desk) -> None:
    wanted = {name: value for name, value in options(ray_desk).items() if name != "ledger"}
    runner: Any = RayTaskRunner()
    answers = mapping_flow.with_options(task_runner=runner)(["one", "two", "three"], wanted)
    assert answers == ["one", "two", "three"]
    assert sorted(ray_desk.provider.prompts()) == ["one", "three", "two"]


@pytest.mark.nightly
def test_opencode_task_waits_until_the_reset_time(desk: Desk) -> None:
    refused = Reply(status=429, headers={"Retry-After": "1"})
    desk.provider.on("late", refused, refused, refused, Reply(status=503), Reply(text="now"))
    desk.provider.on("never", Reply(status=400, body={"error": {"message": "no such thing"}}))
    wanted = {name: value for name, value in options(desk).items() if name != "ledger"}
    runner: Any = ThreadPoolTaskRunner()
    assert mapping_flow.with_options(task_runner=runner)(["late"], wanted) == ["now"]
    times = [call.at for call in desk.provider.calls]
    assert [later - at >= 0.9 for at, later in pairwise(times)] == [True] * 4
    with pytest.raises(InvalidRequestError, match="no such thing"):
        mapping_flow.with_options(task_runner=runner)(["never"], wanted)
    assert len(desk.provider.calls) == 6


@pytest.mark.nightly
def test_rows_of_a_worker_that_dies_are_sent_by_another_batch(ray_desk: Desk) -> None:
    ray_desk.provider.on("slow", Reply(delay_s=1.0))
    frame = pd.DataFrame({"prompt": [f"slow {i}" for i in range(6)]})
    with kill_worker_once("ray::opencode-batch", when=lambda: len(ray_desk.provider.calls) >= 3):
        result = annotated(ray_desk, frame, concurrency=2)
    assert list(result.frame["response"]) == list(frame["prompt"])
    # At most the rows in flight in the dead worker were sent again.
    assert 6 < len(ray_desk.provider.calls) <= 8
    with Ledger.open(str(ray_desk.folder / "ledger.db")) as ledger:
        ids = [UUID(name) for name in ledger.runs.newest()[0]["flow_run_ids"]]
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids))
    with get_client(sync_client=True) as client:
        names = {run.state_name for run in client.read_task_runs(flow_run_filter=wanted)}
    assert names == {"Crashed", "Completed"}


@pytest.mark.slow
def test_the_deployable_flow_and_its_batches_are_runs_in_prefect(ray_desk: Desk) -> None:
    spec = importlib.util.spec_from_file_location("annotate", ROOT / "flows" / "annotate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ray_desk.write_csv("in.csv", [{"prompt": "a"}, {"prompt": "b"}])
    summary = module.annotate_dataset(
        str(ray_desk.folder / "in.csv"),
        str(ray_desk.folder / "out.parquet"),
        ray_address=ray_desk.ray_address,
        **options(ray_desk),
    )
    assert summary["rows"]["completed"] == 2
    assert list(pd.read_parquet(ray_desk.folder / "out.parquet")["response"]) == ["a", "b"]
    with get_client(sync_client=True) as client:
        (run,) = [
            r
            for r in client.read_flow_runs()
            if r.parameters.get("input", "").startswith(str(ray_desk.folder))
        ]
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        batches = client.read_task_runs(flow_run_filter=wanted)
    assert run.state is not None
    assert run.state.is_completed()
    (batch_name,) = [batch.name for batch in batches]
    assert batch_name.startswith("2 rows, 0 to 1 (batch ")
    assert all(batch.state is not None and batch.state.is_completed() for batch in batches)
