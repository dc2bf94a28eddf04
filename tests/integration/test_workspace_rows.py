"""Rows that work in workspaces: the real opencode, with its own tools, one process for each row."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from agent_rows import FILES, Work, cost_usd, shell
from cluster import COMMAND, Desk
from engine_runs import setting
from repositories import applied, git, repository, state

from opencode_tasks.engine.export import export_run
from opencode_tasks.engine.kept_files import RemovedFiles, remove_kept_files
from opencode_tasks.errors import InputError
from opencode_tasks.frames.write_file import write_bytes
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.testing import Reply, ScriptedProvider
from opencode_tasks.workspace.file_store import open_stored


@pytest.fixture
def work(tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path) -> Iterator[Work]:
    """A folder for sources, and runs over them; no workspace is left at the end."""
    yield Work(tmp_path, provider, opencode_binary)
    assert not [*instance_dirs_root().glob("*/*/workspace")]


@pytest.fixture(scope="module")
def refused_work(tmp_path_factory: pytest.TempPathFactory, opencode_binary: Path) -> Iterator[Work]:
    """Runs that are refused, and so can share a provider and thereby a server of opencode."""
    with ScriptedProvider() as provider:
        yield Work(tmp_path_factory.mktemp("refused"), provider, opencode_binary)
        assert provider.calls == []


def check(row: Mapping[str, Any], **values: Any) -> None:
    """Compare some columns of a row."""
    found = {name: None if row[name] is pd.NA else row[name] for name in values}
    assert found == values, row


@pytest.mark.nightly
def test_ten_repositories_at_once_have_ten_diffs_that_apply(work: Work) -> None:
    sources = [repository(work.folder / f"r{number}", FILES) for number in range(10)]
    before = [state(source) for source in sources]
    for number in range(10):
        write = ("write", {"filePath": "new.txt", "content": f"of {number}\n"})
        work.does(
            number,
            Reply(tool_calls=[("read", {"filePath": "a.txt"})]),
            Reply(
                tool_calls=[("edit", {"filePath": "a.txt", "oldString": "two", "newString": f"t{number}"})]
            ),
            Reply(tool_calls=[write]),
            shell("rm sub/b.txt"),
        )
    work.rows(repo=[f"{source}@main" for source in sources])
    output = work.run_rows(concurrency=4, check_command="grep -q of new.txt")
    assert [*output["status"]] == ["completed"] * 10
    for number, row in enumerate(output.to_dict("records")):
        fresh = work.folder / f"fresh{number}"
        git(work.folder, "clone", "-q", str(sources[number]), str(fresh))
        applied(row["diff"].encode(), fresh)
        assert (fresh / "a.txt").read_text() == f"one\nt{number}\n"
        assert (fresh / "new.txt").read_text() == f"of {number}\n"
        assert not (fresh / "sub" / "b.txt").exists()
        check(row, files_changed=3, lines_added=2, lines_removed=2, workspace_url=None)
        assert json.loads(row["tools_called"]) == ["read", "edit", "write", "bash"]
        assert json.loads(row["tools_denied"]) == []
        assert row["check_passed"] is True
    assert [state(source) for source in sources] == before
    assert sum(output["cost_usd"].tolist()) == pytest.approx(cost_usd(work.provider), abs=1e-12)


@pytest.mark.slow
def test_the_work_of_a_row_is_in_output_export_and_reuse(work: Work) -> None:
    source = repository(work.folder / "source", FILES)
    git(source, "branch", "other")
    work.does(0, shell("echo three >> a.txt"))
    work.rows(repo=[str(source)], ref=["main"])
    row = work.run_rows(workspace_ref="ref", keep_workspaces="all").to_dict("records")[0]
    check(row, status="completed", response="done", files_changed=1, lines_added=1, lines_removed=0)
    assert row["diff"].endswith("+three\n")
    kept = Path(row["workspace_url"].removeprefix("file://"))
    assert (kept / "a.txt").read_text() == "one\ntwo\nthree\n"
    calls = len(work.provider.calls)
    # Another name of the same commit is the same work.
    work.rows(repo=[f"git+file://{source}@other"])
    again = work.run_rows().to_dict("records")[0]
    check(again, reused=True, diff=row["diff"], tools_called='["bash"]', workspace_url=None)
    assert len(work.provider.calls) == calls
    with Ledger.open(work.ledger_url) as ledger:
        export_run(ledger, work.run()["run_id"], str(work.folder / "out.jsonl"), database=None)
    exported = json.loads((work.folder / "out.jsonl").read_text())
    check(exported, diff=row["diff"], files_changed=1)
    (source / "a.txt").write_text("else\n")
    git(source, "commit", "-qam", "second")
    work.rows(repo=[f"{source}@main"])
    assert work.run_rows()["reused"].tolist() == [False]


@pytest.mark.nightly
def test_a_purge_removes_kept_workspaces_and_files_that_no_other_run_names(work: Work) -> None:
    source = repository(work.folder / "source", FILES)
    work.does(0, shell("echo three >> a.txt"))
    work.rows(repo=[f"{source}@main"])
    [row] = work.run_rows(keep_workspaces="all", artifact=["*.txt"]).to_dict("records")
    first = work.run()["run_id"]
    kept, file = (
        Path(row["workspace_url"].removeprefix("file://")),
        Path(json.loads(row["artifacts"])[0]["url"]),
    )
    assert (kept / "a.txt").read_text() == file.read_text() == "one\ntwo\nthree\n"
    assert work.run_rows(artifact=["*.txt"])["artifacts"].tolist() == [row["artifacts"]]
    size = sum(path.lstat().st_size for path in kept.rglob("*") if path.is_file())
    with Ledger.open(work.ledger_url) as ledger:
        removed = remove_kept_files(ledger, [first, "..", f"../artifacts/{first}"])
    assert removed == RemovedFiles(workspaces=1, size_bytes=size)
    assert not kept.exists()
    assert file.exists()
    command = [str(COMMAND), "purge", "--before", "2100-01-01", "--ledger", work.ledger_url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "2 runs with 2 rows purged\n1 stored file removed, 14 bytes\n"
    assert not file.exists()
    assert (source / "a.txt").read_text() == "one\ntwo\n"


@pytest.mark.slow
def test_a_long_diff_is_a_file(work: Work) -> None:
    source = repository(work.folder / "source", FILES)
    work.does(0, shell("seq 200 > a.txt"))
    work.does(1, shell("printf 'gr\\374n\\n' > a.txt"))
    work.rows(repo=[str(source), f"{source}@main"])
    with setting("MAX_DIFF_BYTES", "500"):
        output = work.run_rows(artifacts=str(work.folder / "files")).to_dict("records")
    check(output[0], diff=None, files_changed=1, lines_added=200)
    assert output[1]["diff"].endswith("+gr\N{REPLACEMENT CHARACTER}n\n")
    for row, last in zip(output, (b"200\n", b"gr\xfcn\n"), strict=True):
        fresh = work.folder / row["diff_url"].rpartition("/")[0].rpartition("/")[2]
        git(work.folder, "clone", "-q", str(source), str(fresh))
        applied(Path(row["diff_url"]).read_bytes(), fresh)
        assert (fresh / "a.txt").read_bytes().endswith(last)
    assert {Path(row["diff_url"]).parents[2] for row in output} == {work.folder / "files"}


@pytest.mark.slow
def test_a_denied_tool_is_named_and_a_failed_row_keeps_its_changes(work: Work) -> None:
    source = repository(work.folder / "source", FILES)
    work.does(0, shell("cat /etc/hostname > stolen.txt"), shell("echo more >> a.txt"))
    refused = Reply(status=400, body={"error": {"message": "no more"}})
    work.provider.on(lambda call: "do task 1." in json.dumps(call.body), shell("echo half >> a.txt"), refused)
    work.rows(repo=[str(source), str(source)])
    output = work.run_rows(keep_workspaces="failed").to_dict("records")
    check(output[0], status="completed", files_changed=1, workspace_url=None)
    assert json.loads(output[0]["tools_denied"]) == ["bash"]
    check(output[1], status="failed", error_type="invalid_request", files_changed=1)
    assert output[1]["diff"].endswith("+half\n")
    assert Path(output[1]["workspace_url"].removeprefix("file://"), "a.txt").read_text().endswith("half\n")


def test_a_source_with_a_fault_fails_its_row_alone_or_stops_the_run(work: Work) -> None:
    source = repository(work.folder / "source", FILES)
    repos = [str(source), "", str(work.folder / "none"), f"{source}@nowhere"]
    work.rows(repo=repos)
    with pytest.raises(InputError) as caught:
        work.plan(workspace="repo")
    assert [fault.partition(" cannot be used: ")[2] for fault in caught.value.faults] == [
        "",
        f"there is no file or folder '{work.folder}/none': data row 3 (id '2')",
        f"the repository {source} has no commit 'nowhere': data row 4 (id '3')",
    ]
    assert caught.value.faults[0] == "INPUT: the workspace is null: data row 2 (id '1')"
    plan = work.plan(workspace="repo", bad_rows="fail")
    assert sorted(plan.checked.row_faults) == [1, 2, 3]
    assert [row.workspace is not None for row in plan.rows] == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"workspace": "none"}, "INPUT has no column 'none' (--workspace)"),
        ({"workspace": "repo", "allow_tool": ()}, "--workspace: the agent has no tool"),
        ({"workspace": "repo", "backend": "null"}, "--workspace: the backend null makes no workspaces"),
        ({"workspace": "repo", "work_dir": "/"}, "--work-dir: the agent works in the workspace"),
        ({"workspace_template": "/none"}, "--workspace-template: there is no file or folder '/none'"),
        ({"keep_workspaces": "all"}, "--keep-workspaces: there are no workspaces without --workspace"),
        ({"workspace": "repo", "artifact": ["../x"]}, "--artifact: '../x' is not a pattern of files"),
        ({"workspace": "repo", "require_check": True}, "--require-check: nothing is checked without"),
        ({"check_command": "true"}, "--check-command: there are no workspaces without --workspace"),
        ({"workspace_ref": "repo"}, "--workspace-ref: there are no workspaces without --workspace"),
    ],
)
def test_options_of_workspaces_that_do_not_fit_are_refused(
    refused_work: Work, options: dict[str, Any], fault: str
) -> None:
    refused_work.rows(repo=["x"])
    with pytest.raises(InputError) as caught:
        refused_work.plan(**options)
    assert fault in str(caught.value)


@pytest.mark.slow
def test_a_template_is_copied_for_each_row_and_a_source_that_is_gone_fails_its_row(work: Work) -> None:
    source = work.folder / "template"
    source.mkdir()
    (source / "a.txt").write_text("one\n")
    work.does(0, shell("echo two >> a.txt"))
    work.rows(repo=[""])
    plan = work.plan(workspace_template=str(source))
    row = work.execute(plan).frame.to_dict("records")[0]
    check(row, status="completed", error_message=None)
    assert row["diff"].endswith(" one\n+two\n")
    (source / "a.txt").write_text("else\n")
    work.rows(repo=["again"])
    plan = work.plan(workspace_template=str(source), max_attempts=1)
    (source / "a.txt").unlink()
    row = work.execute(plan).frame.to_dict("records")[0]
    check(row, status="failed", error_type="workspace")
    assert "has changed since the run began" in row["error_message"]


@pytest.mark.slow
def test_a_failed_check_is_given_to_the_agent_and_its_changes_are_not_in_the_diff(work: Work) -> None:
    source = repository(work.folder / "source", {**FILES, ".gitignore": "deps/\n"})
    work.does(0, shell("echo wrong > result.txt"), Reply(text="first"), shell("echo right > result.txt"))
    work.rows(repo=[f"{source}@main"])
    [row] = work.run_rows(
        setup_command="mkdir deps && echo right > deps/expected && echo set > setup.txt",
        check_command="touch checked.txt; echo changed >> a.txt; diff deps/expected result.txt",
        check_retries=2,
        artifact=["*.txt", "deps/*"],
        artifacts=str(work.folder / "files"),
    ).to_dict("records")
    check(row, status="completed", response="done", check_passed=True, check_output="", files_changed=1)
    assert row["diff"].startswith("diff --git a/result.txt b/result.txt\nnew file mode 100644\n")
    assert row["diff"].endswith("+right\n")
    prompts = [call.prompt for call in work.provider.calls]
    [feedback] = {prompt for prompt in prompts if "do task" not in prompt}
    assert feedback.startswith("The check of your work failed (exit code 1).")
    assert "< right\n---\n> wrong" in feedback
    # Four calls of the provider, in one attempt and one session.
    assert (row["attempts"], row["turns"], row["output_tokens"]) == (
        1,
        4,
        sum(c.output_tokens for c in work.provider.calls),
    )
    artifacts = json.loads(row["artifacts"])
    assert [one["path"] for one in artifacts] == ["a.txt", "deps/expected", "result.txt", "setup.txt"]
    for one in artifacts:
        data = Path(one["url"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one["size_bytes"], one["sha256"])
    assert Path(artifacts[2]["url"]).read_text() == "right\n"


@pytest.mark.nightly
def test_workspaces_attached_files_and_artifacts_may_be_in_s3(work: Work, s3: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "one\n")
    write_bytes(packed.getvalue(), f"{s3}/in/repo.zip")
    write_bytes(b"two", f"{s3}/in/note.txt")
    work.does(0, shell("echo made > b.txt"))
    work.rows(repo=[f"{s3}/in/repo.zip"], note=[f"{s3}/in/note.txt"])
    options = {"artifact": ["*.txt"], "artifacts": f"{s3}/files", "file": "note"}
    [row] = work.run_rows(**options).to_dict("records")
    check(row, status="completed", files_changed=1, diff=row["diff"])
    assert "two" in json.dumps(work.provider.calls[0].body)
    stored = {one["path"]: one["url"] for one in json.loads(row["artifacts"])}
    assert [*stored] == ["a.txt", "b.txt"]
    run_id = work.run()["run_id"]
    assert stored["b.txt"].startswith(f"{s3}/files/{run_id}/")
    with open_stored(stored["b.txt"]) as file:
        assert file.read() == b"made\n"
    # The same row is not sent again.
    calls = len(work.provider.calls)
    assert work.run_rows(**options)["reused"].tolist() == [True]
    assert len(work.provider.calls) == calls


@pytest.mark.slow
def test_a_required_check_that_fails_fails_its_row_and_a_setup_that_fails_sends_nothing(work: Work) -> None:
    source = repository(work.folder / "source", FILES)
    work.does(0, shell("echo more >> a.txt"))
    work.rows(repo=[f"{source}@main"])
    [row] = work.run_rows(check_command="echo 1 failed; exit 3", require_check=True).to_dict("records")
    check(row, status="failed", error_type="check_failed", check_passed=False, check_output="1 failed\n")
    check(
        row, error_message="the check command failed: 1 failed", response="done", files_changed=1, attempts=1
    )
    [row] = work.run_rows(check_command="echo 2 tests; kill -9 $$").to_dict("records")
    check(row, status="completed", check_passed=False)
    assert re.fullmatch(r"2 tests\nexit code -?\d+: a signal ended it \(SIGKILL\)\n", row["check_output"])
    calls = len(work.provider.calls)
    [row] = work.run_rows(setup_command="echo no network; exit 4", max_attempts=1).to_dict("records")
    check(row, status="failed", error_type="workspace", files_changed=None)
    check(row, error_message="the setup command failed (exit code 4): no network")
    assert len(work.provider.calls) == calls


@pytest.mark.nightly
def test_the_work_of_a_killed_process_is_recovered_and_unfinished_work_is_continued(desk: Desk) -> None:
    source = repository(desk.folder / "source", FILES)
    provider, go = desk.provider, desk.folder / "go"
    for number in range(2):
        calls = [shell(f"echo of {number} >> a.txt"), Reply(text="done")]
        provider.on(
            lambda call, number=number: f"do task {number}." in json.dumps(call.body),
            *(calls if number == 0 else [calls[0], Reply(hang=True), Reply(text="done")]),
        )
    desk.write_csv(
        "in.csv", [{"prompt": f"do task {n}.", "repo": str(source), "ref": "main"} for n in range(2)]
    )
    options = ["--workspace", "repo", "--workspace-ref", "ref", "--allow-tool", "bash", "--concurrency", "2"]
    options += ["--sandbox-read", str(desk.folder)]
    check_command = f"test -e {go} || {{ touch /tmp/started; sleep 100; }}"
    command = desk.arguments("in.csv", "-o", "out.csv", *options, "--check-command", check_command)
    with desk.start(*command) as process:
        assert eventually(lambda: bool([*instance_dirs_root().glob("*/*/run/tmp/started")]))
        assert eventually(lambda: len(provider.calls) >= 4)
        process.kill()
    go.touch()
    (source / "a.txt").write_text("moved\n")
    git(source, "commit", "-qam", "second")
    before = state(source)
    sent = len(provider.calls)
    ran = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 0, ran.stderr
    rows = desk.read_csv("out.csv")
    assert [row["response"] for row in rows] == ["done", "done"]
    assert [row["check_passed"].lower() for row in rows] == ["true", "true"]
    for number, row in enumerate(rows):
        assert row["diff"].endswith(f" two\n+of {number}\n")
        assert row["diff"].count(f"+of {number}") == 1
    # The finished work is not paid for twice, and the unfinished one from its last step on.
    assert len(provider.calls) == sent + 1
    assert all("do task 0." not in json.dumps(call.body) for call in provider.calls[sent:])
    assert state(source) == before
    assert not [*instance_dirs_root().glob("*/*/workspace")]


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.nightly)])
def test_a_check_that_was_cut_short_runs_again_without_a_request_and_leaves_no_change(
    desk: Desk, end: signal.Signals, retries: int
) -> None:
    source = repository(desk.folder / "source", FILES)
    provider, go = desk.provider, desk.folder / "go"
    provider.on("do it", shell("echo three >> a.txt"), Reply(text="done"), Reply(text="done again"))
    desk.write_csv("in.csv", [{"prompt": "do it", "repo": str(source), "ref": "main"}])
    options = ["--workspace", "repo", "--workspace-ref", "ref", "--allow-tool", "bash"]
    options += ["--sandbox-read", str(desk.folder), "--check-retries", str(retries)]
    waits = f"test -e {go} || {{ echo changed >> a.txt; echo new > b.txt; touch /tmp/started; sleep 100; }}"
    # The first check that ends fails.
    fails = f"test -e deps/checked || {{ mkdir -p deps; touch deps/checked; exit {retries}; }}"
    (source / ".gitignore").write_text("deps\n")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "ignored")
    command = desk.arguments("in.csv", "-o", "out.csv", *options, "--check-command", f"{waits}; {fails}")
    with desk.start(*command) as process:
        assert eventually(lambda: bool([*instance_dirs_root().glob("*/*/run/tmp/started")]))
        os.killpg(process.pid, end) if end == signal.SIGINT else process.kill()
        process.communicate(timeout=60)
    go.touch()
    sent = len(provider.calls)
    ran = desk.run("resume", "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == 0, ran.stderr
    [row] = desk.read_csv("out.csv")
    assert (row["status"], row["check_passed"].lower()) == ("completed", "true")
    assert (row["files_changed"], row["lines_added"]) == ("1", "1")
    assert row["diff"].endswith(" two\n+three\n")
    assert len(provider.calls) == sent + retries
    assert float(row["cost_usd"]) == pytest.approx(cost_usd(provider))
    assert not [*instance_dirs_root().glob("*/*/workspace")]


def eventually(holds: Callable[[], bool], limit_s: float = 150.0) -> bool:
    """Whether something holds within a time."""
    deadline = time.monotonic() + limit_s
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
