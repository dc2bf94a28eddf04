"""``opencode-tasks export --format``: predictions, trajectories and conversations of real sessions."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from atif import faults_of
from cluster import Desk
from repositories import applied, git, repository

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

FILES = {"price.py": "def total(prices):\n    return sum(prices)\n"}
EDIT = {"filePath": "price.py", "oldString": "    return", "newString": "    # a sum\n    return"}
WORK = ("--workspace", "repo", "--allow-tool", "read", "--allow-tool", "edit", "--allow-tool", "bash")


def shell(command: str) -> tuple[str, Mapping[str, Any]]:
    return ("bash", {"command": command, "description": "work"})


def work(desk: Desk, replies: Mapping[str, Sequence[Reply]], *more: str, code: int = 0) -> str:
    """Run rows over one repository; returns the id of the run."""
    source = desk.folder / "source"
    if not source.exists():
        repository(source, FILES)
    for task, script in replies.items():
        desk.provider.on(lambda call, task=task: f"{task}." in json.dumps(call.body), *script)
    rows = [{"id": task, "prompt": f"{task}.", "repo": f"{source}@main"} for task in replies]
    desk.write_csv("in.csv", rows)
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *WORK, "--json", *more)
    assert ran.code == code, ran.stderr
    return ran.summary["run_id"]


def export(desk: Desk, run_id: str, name: str, target: str, **env: str) -> tuple[list[Any], str]:
    """The records of an export, and its lines on stderr."""
    ledger = ["--ledger", str(desk.folder / "ledger.db")]
    ran = desk.run("export", run_id, "--format", name, "-o", target, *ledger, env=env)
    assert ran.code == 0, ran.stderr
    text = (desk.folder / target).read_text(encoding="utf-8")
    records = json.loads(text) if target.endswith(".json") else [json.loads(one) for one in text.splitlines()]
    assert ran.stdout.startswith(f"{len(records)} ")
    return records, ran.stderr


def refused(desk: Desk, run_id: str, *arguments: str) -> str:
    """The line with which an export is refused."""
    ran = desk.run("export", run_id, *arguments, "--ledger", str(desk.folder / "ledger.db"))
    assert (ran.code, ran.stdout) == (2, ""), ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
    return ran.stderr


@pytest.mark.slow
def test_the_work_of_agents_is_exported_in_each_format(desk: Desk) -> None:
    two = Reply(
        text="I look first.", reasoning_text="Two calls.", tool_calls=[shell("cat price.py"), shell("exit 3")]
    )
    denied = Reply(tool_calls=[shell("cat /etc/hostname")])
    run_id = work(
        desk,
        {
            "change": [two, Reply(tool_calls=[("edit", EDIT)]), Reply(text="Done.")],
            "nothing": [denied, Reply(text="I may not.")],
            "refused": [Reply(tool_calls=[shell("echo half > x")]), Reply(status=400, body={"error": {}})],
        },
        "--system",
        "You are a careful programmer.",
        code=1,
    )

    predictions, said = export(desk, run_id, "swebench", "predictions.jsonl")
    assert [one["instance_id"] for one in predictions] == ["change", "nothing", "refused"]
    assert {one["model_name_or_path"] for one in predictions} == {"fake/echo"}
    assert predictions[1]["model_patch"] == ""
    assert said == "1 row with an empty patch, which the harness does not run: nothing\n"
    git(desk.folder, "clone", "-q", str(desk.folder / "source"), "fresh")
    applied(predictions[0]["model_patch"].encode(), desk.folder / "fresh")
    assert "# a sum\n" in (desk.folder / "fresh" / "price.py").read_text()
    assert export(desk, run_id, "swebench", "predictions.json")[0] == predictions

    trajectories, said = export(desk, run_id, "atif", "trajectories.jsonl")
    assert said == ""
    assert [faults_of(one) for one in trajectories] == [[], [], []]
    first = trajectories[0]
    assert first["extra"] == {"run_id": run_id, "row_id": "change", "status": "completed"}
    assert [step["source"] for step in first["steps"]] == ["system", "user", "agent", "agent", "agent"]
    assert first["steps"][0]["message"] == "You are a careful programmer."
    assert first["steps"][1]["message"] == "change."
    looked = first["steps"][2]
    assert (looked["message"], looked["reasoning_content"]) == ("I look first.", "Two calls.")
    assert [call["arguments"]["command"] for call in looked["tool_calls"]] == ["cat price.py", "exit 3"]
    results = looked["observation"]["results"]
    assert results[0]["content"] == FILES["price.py"]
    ids = [call["tool_call_id"] for step in first["steps"] for call in step.get("tool_calls", [])]
    assert len(set(ids)) == 3
    assert [result["source_call_id"] for result in results] == ids[:2]
    calls = desk.provider.calls
    mine = [call for call in calls if "change." in json.dumps(call.body)]
    totals = first["final_metrics"]
    assert totals["total_prompt_tokens"] == sum(call.input_tokens for call in mine)
    assert totals["total_completion_tokens"] == sum(call.output_tokens for call in mine)
    spent = sum(call.input_tokens * 1e-6 + call.output_tokens * 2e-6 for call in mine)
    assert totals["total_cost_usd"] == pytest.approx(spent)
    assert sum(step["metrics"]["cost_usd"] for step in first["steps"][2:]) == pytest.approx(spent)
    assert totals["total_steps"] == len(first["steps"])
    denial = trajectories[1]["steps"][2]["observation"]["results"][0]
    assert denial["extra"] == {"is_error": True}
    assert trajectories[2]["extra"]["error_type"] == "invalid_request"
    assert "error" in trajectories[2]["steps"][-1]["extra"]

    conversations, said = export(desk, run_id, "sharegpt", "conversations.jsonl")
    assert said == "1 row left out, not completed: refused\n"
    assert [one["id"] for one in conversations] == ["change", "nothing"]
    turns = conversations[0]["conversations"]
    roles = ["system", "human", "function_call", "observation", "function_call", "observation", "gpt"]
    assert [turn["from"] for turn in turns] == roles
    thought, _, called = turns[2]["value"].partition("</think>\n\n")
    assert thought == "<think>\nTwo calls.\n\nI look first.\n"
    assert [call["name"] for call in json.loads(called)] == ["bash", "bash"]
    assert json.loads(turns[3]["value"])[0] == FILES["price.py"]
    assert json.loads(turns[4]["value"])["name"] == "edit"
    assert turns[-1] == {"from": "gpt", "value": "Done."}
    tools = {tool["name"]: tool["parameters"] for tool in json.loads(conversations[0]["tools"])}
    assert set(tools) == {"bash", "edit"}
    assert tools["bash"]["properties"]["command"] == {"type": "string"}
    assert tools["bash"]["required"] == ["command", "description"]


@pytest.mark.slow
def test_a_diff_in_a_file_is_read_back_whole_or_the_export_is_refused(desk: Desk) -> None:
    run_id = work(
        desk,
        {
            "long": [Reply(tool_calls=[shell("seq 20000 > long.txt")]), Reply(text="done")],
            "latin": [Reply(tool_calls=[shell("printf 'gr\\374n\\n' > a.txt")]), Reply(text="done")],
        },
        "--artifacts",
        str(desk.folder / "files"),
        "--concurrency",
        "1",
    )
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        urls = {one["row_id"]: one["diff_url"] for one in ledger.results.outcomes(run_id)}
    assert urls["latin"] is not None
    predictions, said = export(desk, run_id, "swebench", "p.jsonl")
    assert said == "1 row with a diff that is not UTF-8, of which other characters are replaced: latin\n"
    assert predictions[0]["model_patch"].endswith("+20000\n")
    assert predictions[1]["model_patch"].endswith("+gr\N{REPLACEMENT CHARACTER}n\n")
    before = (desk.folder / "p.jsonl").read_bytes()
    Path(urls["latin"]).write_text("something else")
    assert "row latin: the file of its diff is not a diff: /" in refused(
        desk, run_id, "--format", "swebench", "-o", "p.jsonl"
    )
    Path(urls["latin"]).unlink()
    assert "row latin: the file of its diff: cannot read /" in refused(
        desk, run_id, "--format", "swebench", "-o", "p.jsonl"
    )
    assert (desk.folder / "p.jsonl").read_bytes() == before
    assert sorted(path.name for path in desk.folder.glob(".p.jsonl*")) == []
