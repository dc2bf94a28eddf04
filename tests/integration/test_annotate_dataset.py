"""The deployable flow on threads, compared with the calls that the provider recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from cluster import Desk
from forked_commands import replace_opencode

from opencode_tasks import InputError
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.orchestration.flows import annotate_dataset
from opencode_tasks.testing import Reply

pytestmark = pytest.mark.prefect


@pytest.fixture(autouse=True)
def _without_opencode(desk: Desk) -> Iterator[None]:
    """In this process too, the provider's backend answers in place of opencode if the test has the mark."""
    table: Any = BACKENDS
    opencode = table["server"]
    if desk.is_scripted:
        replace_opencode(desk.provider)
    yield
    table["server"] = opencode


def rows(prompts: list[str]) -> list[dict[str, str]]:
    return [{"id": f"r{i:03}", "prompt": prompt} for i, prompt in enumerate(prompts)]


def table(desk: Desk, source: str = "in.csv", output: str = "out.csv", **more: Any) -> dict[str, int]:
    """Annotate a table of the desk; returns the rows of the run by status."""
    options: dict[str, Any] = {
        "model": "fake/echo",
        "opencode_config": desk.provider.opencode_config(),
        "opencode_bin": str(desk.binary),
    }
    if desk.is_scripted:
        del options["model"]
    options |= {"ledger": str(desk.folder / "ledger.db"), "runner": "threads"}
    summary: Any = annotate_dataset(str(desk.folder / source), str(desk.folder / output), **(options | more))
    return summary["rows"]


@pytest.mark.slow
@pytest.mark.smoke
def test_equal_rows_are_sent_once_and_a_second_run_sends_none(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["same", "same", "other"]))
    first = table(desk)
    assert sorted(desk.provider.prompts()) == ["other", "same"]
    again = table(desk)
    assert len(desk.provider.calls) == 2
    assert first["reused"] == 1
    assert again["reused"] == 3
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["same", "same", "other"]
    table(desk, refresh=True)
    assert len(desk.provider.calls) == 4


@pytest.mark.nightly
def test_a_changed_prompt_system_text_or_model_is_sent_again(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["one"]))
    for more in ({}, {"system": "Be brief."}, {"model": "fake/free"}, {"template": "{prompt}!"}):
        assert table(desk, **more)["completed"] == 1
    default = "You are a helpful assistant."
    assert [call.system for call in desk.provider.calls] == [default, "Be brief.", default, default]
    assert desk.provider.prompts() == ["one", "one", "one", "one!"]


@pytest.mark.slow
@pytest.mark.scripted
def test_failures_are_recorded_in_their_columns(desk: Desk) -> None:
    desk.provider.on("down", Reply(status=503, body={"error": {"message": "overloaded"}}))
    desk.provider.on("wrong", Reply(status=400, body={"error": {"message": "no such thing"}}))
    desk.provider.on("long", Reply(text="part of it", finish_reason="length"))
    desk.provider.on("silent", Reply(text=""))
    prompts = ["down", "wrong", "long", "silent", "fine"]
    desk.write_csv("in.csv", rows(prompts))
    assert table(desk, max_attempts=1)["failed"] == 4
    out = {row["prompt"]: row for row in desk.read_csv("out.csv")}
    assert {prompt: row["error_type"] for prompt, row in out.items()} == {
        "down": "server_error",
        "wrong": "invalid_request",
        "long": "max_output_tokens",
        "silent": "unknown",
        "fine": "",
    }
    assert "no such thing" in out["wrong"]["error_message"]
    assert out["long"]["response"] == "part of it"
    assert out["long"]["attempts"] == "2"
    assert out["fine"]["status"] == "completed"
    assert float(out["long"]["cost_usd"]) > 0
    sent = desk.provider.prompts()
    assert {prompt: sent.count(prompt) for prompt in prompts} == dict.fromkeys(prompts, 1) | {
        "long": 2,
        # It can be an outage, so the row is sent once more.
        "down": 2,
    }


@pytest.mark.nightly
@pytest.mark.scripted
def test_a_row_completes_after_a_short_rate_limit(desk: Desk) -> None:
    desk.provider.on("later", Reply(status=429, headers={"Retry-After": "1"}), Reply(text="now"))
    desk.write_csv("in.csv", rows(["later", "first"]))
    assert table(desk, max_attempts=1)["completed"] == 2
    out = desk.read_csv("out.csv")
    assert [row["response"] for row in out] == ["now", "first"]
    assert [row["attempts"] for row in out] == ["2", "1"]
    limited, again = (call.at for call in desk.provider.calls if call.prompt == "later")
    assert again - limited >= 1.0


@pytest.mark.slow
@pytest.mark.scripted
def test_schema_answers_become_columns_after_one_repair(desk: Desk) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["good", "bad"]}, "stars": {"type": "integer"}},
        "required": ["label", "stars"],
    }
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    desk.provider.on("neat", Reply(text='{"label": "good", "stars": 5}'))
    desk.provider.on(
        lambda call: "sloppy" in json.dumps(call.body),
        Reply(text="well, good"),
        Reply(text='```json\n{"label": "bad", "stars": 1}\n```'),
    )
    desk.provider.on(lambda call: "never" in json.dumps(call.body), Reply(text="no"))
    desk.write_csv("in.csv", rows(["neat", "sloppy", "never"]))
    counts = table(desk, output="out.jsonl", schema=str(desk.folder / "schema.json"), concurrency=1)
    assert (counts["completed"], counts["failed"]) == (2, 1)
    out = [json.loads(line) for line in (desk.folder / "out.jsonl").read_text().splitlines()]
    assert [(row["label"], row["stars"], row["error_type"]) for row in out] == [
        ("good", 5, None), ("bad", 1, None), (None, None, "structured_output"),
    ]  # fmt: skip
    assert [row["turns"] for row in out[:2]] == [1, 2]
    assert out[1]["input_tokens"] == sum(c.input_tokens for c in desk.provider.calls[1:3])


@pytest.mark.slow
@pytest.mark.scripted
def test_parquet_in_and_out_keeps_types(desk: Desk) -> None:
    frame = pd.DataFrame(
        {"prompt": ["a", "b"], "n": [1, 2], "when": pd.to_datetime(["2026-01-01", "2026-01-02"])}
    )
    frame.to_parquet(desk.folder / "in.parquet")
    assert table(desk, "in.parquet", "out.parquet", label=["n"])["completed"] == 2
    out = pd.read_parquet(desk.folder / "out.parquet")
    assert list(out["response"]) == ["a", "b"]
    assert out["n"].dtype == frame["n"].dtype
    assert str(out["when"].dtype).startswith("datetime64")
    assert out["input_tokens"].dtype.kind == "i" or str(out["input_tokens"].dtype) == "Int64"


@pytest.mark.nightly
def test_an_unpriced_model_has_no_cost_and_a_free_one_costs_nothing(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["x"]))
    table(desk, output="u.csv", model="fake/unpriced")
    table(desk, output="f.csv", model="fake/free")
    unpriced, free = desk.read_csv("u.csv")[0], desk.read_csv("f.csv")[0]
    assert (unpriced["cost_usd"], unpriced["cost_source"]) == ("", "unpriced")
    assert (float(free["cost_usd"]), free["cost_source"]) == (0.0, "reported")


@pytest.mark.nightly
@pytest.mark.scripted
def test_bad_rows_can_fail_while_the_rest_runs(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["good", "", "  "]))
    with pytest.raises(InputError, match="prompt is empty"):
        table(desk)
    counts = table(desk, bad_rows="fail")
    assert (counts["completed"], counts["failed"]) == (1, 2)
    assert [row["error_type"] for row in desk.read_csv("out.csv")] == ["", "invalid_input", "invalid_input"]
    assert desk.provider.prompts() == ["good"]


@pytest.mark.slow
@pytest.mark.scripted
def test_a_postgresql_ledger_serves_two_runs(desk: Desk, empty_postgresql: str) -> None:
    desk.write_csv("in.csv", rows(["pg one", "pg two"]))
    assert table(desk, ledger=empty_postgresql)["completed"] == 2
    assert table(desk, ledger=empty_postgresql)["reused"] == 2
    assert sorted(desk.provider.prompts()) == ["pg one", "pg two"]


@pytest.mark.slow
def test_a_config_cannot_give_our_own_agent_tools(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["x"]))
    config = desk.provider.opencode_config()
    config["agent"] = {"opencode-tasks": {"tools": {"*": False, "bash": True}}}
    with pytest.raises(InputError, match="bash"):
        table(desk, opencode_config=config)
    assert desk.provider.calls == []


@pytest.mark.nightly
@pytest.mark.scripted
def test_a_rate_limit_without_duration_is_not_retried_without_end(desk: Desk) -> None:
    desk.provider.on("now", Reply(status=429, headers={"Retry-After": "0"}), Reply(text="yes"))
    desk.write_csv("in.csv", rows(["now"]))
    assert table(desk)["completed"] == 1
    limited, again = (call.at for call in desk.provider.calls)
    assert again - limited >= 1.0
