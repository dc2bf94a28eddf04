"""``opencode-tasks export --format``: predictions, trajectories and conversations of real sessions."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from atif import faults_of
from cluster import Desk
from repositories import applied, git, repository
from view_runs import add_run, answer, work_run

from opencode_tasks.domain.work import WorkResult
from opencode_tasks.engine.record_export import RecordFormat, export_records
from opencode_tasks.engine.review import PersonAnswer, record_reviews
from opencode_tasks.errors import InputError
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
    check_predictions(desk, run_id)
    check_trajectories(desk, run_id)
    check_conversations(desk, run_id)


def check_predictions(desk: Desk, run_id: str) -> None:
    predictions, said = export(desk, run_id, "swebench", "predictions.jsonl")
    assert [one["instance_id"] for one in predictions] == ["change", "nothing", "refused"]
    assert {one["model_name_or_path"] for one in predictions} == {"fake/echo"}
    assert predictions[1]["model_patch"] == ""
    assert said == "1 row with an empty patch, which the harness does not run: nothing\n"
    git(desk.folder, "clone", "-q", str(desk.folder / "source"), "fresh")
    applied(predictions[0]["model_patch"].encode(), desk.folder / "fresh")
    assert "# a sum\n" in (desk.folder / "fresh" / "price.py").read_text()
    assert export(desk, run_id, "swebench", "predictions.json")[0] == predictions


def check_trajectories(desk: Desk, run_id: str) -> None:
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


def check_conversations(desk: Desk, run_id: str) -> None:
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


@pytest.mark.nightly
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


CHOICES = ("--choices", "yes,no,maybe")


def answers(desk: Desk, *more: str) -> str:
    """Run two rows, whose votes and models answer yes, no, no in turn; returns the id of the run."""
    for prompt in ("first", "second"):
        desk.provider.on(prompt, *(Reply(text=text) for text in ("yes", "no", "no")))
    desk.write_csv("in.csv", [{"id": f"r{n}", "prompt": f"{n}"} for n in ("first", "second")])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--json", *more)
    assert ran.code == 0, ran.stderr
    return ran.summary["run_id"]


MODELS = ("alpha", "beta", "gamma")


@pytest.mark.nightly
def test_the_model_whose_answer_was_chosen_is_named(desk: Desk) -> None:
    for name, text in zip(MODELS, ("yes", "no", "no"), strict=True):
        desk.provider.models[name] = {"name": name, "limit": {"context": 9000, "output": 900}}
        desk.provider.on(lambda call, name=name: call.model == name, Reply(text=text))
    desk.write_csv("in.csv", [{"id": "r", "prompt": "first"}])
    models = [word for name in MODELS for word in ("--model", f"fake/{name}")]
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--json", *models)
    assert ran.code == 0, ran.stderr
    [one], said = export(desk, ran.summary["run_id"], "atif", "t.jsonl")
    assert (faults_of(one), said) == ([], "")
    assert one["steps"][-1]["message"] == "no"
    assert one["agent"]["model_name"] == one["steps"][-1]["model_name"] == "fake/beta"


@pytest.mark.slow
@pytest.mark.scripted
def test_the_answer_that_a_run_chose_is_exported_without_its_canaries(desk: Desk) -> None:
    desk.write_csv("canary.csv", [{"id": f"c{n}", "prompt": f"canary {n}"} for n in range(5)])
    desk.provider.on("canary", Reply(text="maybe"))
    more = ["--votes", "3", "--concurrency", "1", "--canary", "canary.csv"]
    run_id = answers(desk, *more)
    trajectories, said = export(desk, run_id, "atif", "t.jsonl")
    assert said == ""
    assert [faults_of(one) for one in trajectories] == [[], []]
    assert [one["extra"]["row_id"] for one in trajectories] == ["rfirst", "rsecond"]
    assert [one["steps"][-1]["message"] for one in trajectories] == ["no", "no"]
    assert [one["steps"][1]["message"] for one in trajectories] == ["first", "second"]
    # The system text is the one that was sent, with the instruction for the answer.
    system = desk.provider.calls[-1].body["messages"][0]["content"]
    assert {one["steps"][0]["message"] for one in trajectories} == {system}
    for one, row in zip(trajectories, desk.read_csv("out.csv"), strict=True):
        assert one["agent"]["model_name"] == one["steps"][-1]["model_name"] == row["model_ref"]
        # The row cost all votes, the trajectory is one of them.
        assert one["final_metrics"]["extra"]["attempts"] == 3
    conversations, _ = export(desk, run_id, "sharegpt", "c.jsonl")
    assert [turn["value"] for turn in conversations[0]["conversations"][1:]] == ["first", "no"]
    assert "tools" not in conversations[0]
    # A reused answer has the trajectory of the row that was sent.
    again = answers(desk, *more)
    reused, _ = export(desk, again, "atif", "again.jsonl")
    assert [one["session_id"] for one in reused] == [one["session_id"] for one in trajectories]
    assert "its rows have no workspace, so there are no diffs" in refused(
        desk, run_id, "--format", "swebench", "-o", "p.jsonl"
    )


@pytest.mark.slow
@pytest.mark.scripted
def test_the_answer_of_a_person_ends_a_conversation_and_leaves_a_trajectory_as_it_was(desk: Desk) -> None:
    run_id = answers(desk)
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        found = PersonAnswer(row_id="rfirst", answer="maybe", answered_by="ann")
        assert record_reviews(ledger, run_id, [found]) == []
    conversations, _ = export(desk, run_id, "sharegpt", "c.json")
    assert [one["conversations"][-1]["value"] for one in conversations] == ["maybe", "yes"]
    trajectories, _ = export(desk, run_id, "atif", "t.json")
    assert trajectories[0]["steps"][-1]["message"] == "yes"
    assert trajectories[0]["extra"]["answer_of_person"] == "maybe"


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize("name", ["STORE_PROMPTS", "STORE_ANSWERS", "STORE_TRACES", "purge"])
def test_removed_messages_are_named_instead_of_half_a_trajectory(desk: Desk, name: str) -> None:
    ledger = ["--ledger", str(desk.folder / "ledger.db")]
    with pytest.MonkeyPatch.context() as patch:
        if name != "purge":
            patch.setenv(f"OPENCODE_TASKS_{name}", "false")
        run_id = answers(desk)
    if name == "purge":
        assert desk.run("purge", "--before", "2100-01-01", *ledger).code == 0
    for record_format in ("atif", "sharegpt"):
        line = refused(desk, run_id, "--format", record_format, "-o", "t.jsonl")
        assert "the messages of its sessions are not in the ledger, so there is no trajectory" in line
    # The system text may contain examples.
    has_system = "Answer with" in desk.run("show", run_id, *ledger).stdout
    assert has_system == (name in ("STORE_ANSWERS", "STORE_TRACES"))
    assert not (desk.folder / "t.jsonl").exists()
    assert refused(desk, run_id, "--format", "swebench", "-o", "p.jsonl")


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "swe", "-o", "p.jsonl"], "--format: 'swe' is none of table, swebench, atif, sharegpt"),
        (["--format", "atif", "-o", "p.csv"], "--format atif writes files that end with .jsonl or .json"),
        (["--format", "swebench", "-o", "p.jsonl.gz"], "the harness of SWE-bench reads no compressed file"),
        (["--format", "atif", "-o", "none/p.jsonl"], "/none does not exist"),
        (["--format", "atif", "-o", "p.jsonl", "--input", "in.csv"], "--input: --format atif reads no table"),
        (["--format", "atif", "-o", "p.jsonl", "--protect-cells"], "--protect-cells: --format atif reads no"),
    ],
)
def test_a_faulty_command_is_refused_in_one_line(desk: Desk, arguments: list[str], line: str) -> None:
    assert line in refused(desk, answers(desk), *arguments)
    assert "there is no run none in this ledger" in refused(desk, "none", "--format", "atif", "-o", "x.jsonl")


def test_odd_texts_are_records_in_each_database(ledger: Ledger, tmp_path: Path) -> None:
    odd = "</script> \x00 \u2028 \U0001f600 half \ud800"
    run: dict[str, Any] = {"has_workspace": True, "id_column": "id", "system_text": odd}
    add_run(ledger, "odd", [(f"r{n}", odd) for n in range(45)], **run)
    for n in range(44):
        answer(ledger, "odd", f"r{n}", odd, work=WorkResult(diff=f"diff --git {odd}\n", files_changed=1))
    shown = odd.replace("\ud800", "\ufffd")
    written: dict[str, list[Any]] = {}
    formats: tuple[RecordFormat, ...] = ("swebench", "atif")
    for name in formats:
        file = tmp_path / f"{name}.jsonl"
        done = export_records(ledger, "odd", str(file), name)
        assert (done.records, len(done.notes)) == (44, 1)
        written[name] = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
    assert [one["instance_id"] for one in written["swebench"]] == [f"r{n}" for n in range(44)]
    assert written["swebench"][0]["model_patch"] == f"diff --git {shown.replace(chr(0), chr(0xFFFD))}\n"
    assert [faults_of(one) for one in written["atif"]] == [[]] * 44
    assert written["atif"][0]["steps"][0]["message"] == shown
    assert written["atif"][0]["steps"][-1]["message"] == shown
    assert written["atif"][0]["final_metrics"]["total_cost_usd"] == 0.003
    with pytest.raises(InputError, match="there is no run none"):
        export_records(ledger, "none", str(tmp_path / "x.jsonl"), "atif")


class SlowFiles(BaseHTTPRequestHandler):
    """Files whose content does not come."""

    asked = threading.Event()
    gone = threading.Event()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()

    def do_GET(self) -> None:
        self.asked.set()
        self.gone.wait(60)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


def test_ctrl_c_keeps_the_earlier_file(desk: Desk) -> None:
    url = str(desk.folder / "ledger.db")
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowFiles)
    threading.Thread(target=server.serve_forever).start()
    slow = f"http://127.0.0.1:{server.server_port}/r1.patch"
    with Ledger.open(url) as ledger:
        done = WorkResult(diff="diff --git a/x b/x\n", files_changed=1)
        work_run(ledger, {"r0": done, "r1": WorkResult(diff_url=slow, files_changed=1)})
    (desk.folder / "p.jsonl").write_text("earlier\n")
    arguments = ("export", "work", "--format", "swebench", "-o", "p.jsonl", "--ledger", url)
    with desk.start(*arguments) as process:
        assert SlowFiles.asked.wait(60)
        assert len([one for one in desk.folder.iterdir() if one.name.startswith(".p.jsonl.")]) == 1
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    SlowFiles.gone.set()
    server.shutdown()
    server.server_close()
    assert (process.returncode, stdout, stderr) == (130, "", "opencode-tasks: interrupted\n")
    assert (desk.folder / "p.jsonl").read_text() == "earlier\n"
    assert [one.name for one in desk.folder.iterdir() if one.name.startswith(".")] == []
