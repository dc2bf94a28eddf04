"""``opencode-tasks annotate`` as a user runs it, compared with the records of the provider."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cluster import COMMAND, LIMIT_S, OWN_SERVICES, Desk, read_all

from opencode_tasks.testing import Call, Reply

PROMPTS = [f'Row {i}: "quoted", it\'s\n a new line, --flag, 😀, ünï' for i in range(200)]


def rows(prompts: list[str]) -> list[dict[str, str]]:
    return [{"id": f"r{i:03}", "prompt": prompt} for i, prompt in enumerate(prompts)]


@pytest.mark.nightly
@pytest.mark.smoke
def test_two_hundred_rows_on_ray(ray_desk: Desk) -> None:
    ray_desk.write_csv("in.csv", rows(PROMPTS))
    ran = ray_desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", "--json")
    assert ran.code == 0, ran.stderr
    assert sorted(ray_desk.provider.prompts()) == sorted(PROMPTS)  # each once, no title calls
    out = ray_desk.read_csv("out.csv")
    assert [row["id"] for row in out] == [f"r{i:03}" for i in range(200)]
    assert [row["response"] for row in out] == PROMPTS
    assert {row["status"] for row in out} == {"completed"}
    reported = {call.prompt: call for call in ray_desk.provider.calls}
    for row in out:
        call = reported[row["prompt"]]
        assert int(row["input_tokens"]) == call.input_tokens
        assert int(row["output_tokens"]) == call.output_tokens
        assert float(row["cost_usd"]) == pytest.approx(call.input_tokens * 1e-6 + call.output_tokens * 2e-6)
    assert ran.summary["rows"] == {
        "total": 200, "open": 0, "completed": 200, "failed": 0, "skipped": 0, "reused": 0,
    }  # fmt: skip
    assert ran.summary["tokens"]["input_tokens"] == sum(c.input_tokens for c in ray_desk.provider.calls)


@pytest.mark.slow
@pytest.mark.scripted
def test_two_commands_at_once_send_each_row_once(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(PROMPTS))
    both = [
        desk.start(*desk.arguments("in.csv", "-o", name, "--id-column", "id", "--json"))
        for name in ("a.csv", "b.csv")
    ]
    ends = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert sorted(desk.provider.prompts()) == sorted(PROMPTS)
    for name in ("a.csv", "b.csv"):
        assert [row["response"] for row in desk.read_csv(name)] == PROMPTS
    assert sum(json.loads(stdout)["rows"]["reused"] for stdout, _ in ends) == 200


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("reply", "code", "status"),
    [(Reply(text="2"), 70, "completed"), (Reply(status=401), 75, "open")],
)
def test_answers_are_kept_if_output_cannot_be_written(
    desk: Desk, reply: Reply, code: int, status: str
) -> None:
    folder = desk.folder / "results"
    folder.mkdir()

    def remove_folder(call: Call) -> bool:
        folder.rmdir()
        return call.prompt == "two"

    desk.provider.on(remove_folder, reply)
    desk.write_csv("in.csv", [{"id": "a", "prompt": "two"}])
    ran = desk.annotate("in.csv", "-o", "results/out.csv", "--id-column", "id", "--no-wait")
    assert ran.code == code, ran.stderr
    assert f"OUTPUT {folder / 'out.csv'} cannot be written: No such file or directory" in ran.stderr
    # Each command that a message names has the ledger of the run.
    [export] = re.findall(r"opencode-tasks (export .*?)(?: writes them)?$", ran.stderr, re.MULTILINE)
    assert desk.run(*shlex.split(export.replace("FILE", "later.csv"))).code == 0
    assert "finished rows are in results" not in ran.stderr
    assert [row["status"] for row in desk.read_csv("later.csv")] == [status]
    assert len(desk.provider.calls) == 1


@pytest.mark.scripted
def test_an_empty_input_is_a_run_of_no_rows(desk: Desk) -> None:
    (desk.folder / "in.csv").write_text("id,prompt\n")
    ran = desk.annotate("in.csv", "-o", "out.csv", "--json", "--gold", "id", "--min-accuracy", "0.9")
    assert (ran.code, ran.summary["rows"]["total"]) == (0, 0), ran.stderr
    assert (desk.folder / "out.csv").read_text().startswith("id,prompt,response,status")
    assert desk.provider.calls == []


@pytest.mark.slow
def test_every_fault_is_reported_before_a_prompt_is_sent(desk: Desk) -> None:
    (desk.folder / "schema.json").write_text('{"type": "objec')
    desk.write_csv("in.csv", [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": ""}])
    ran = desk.annotate(
        *("in.csv", "-o", "no/such/folder/out.csv", "--id-column", "id", "--schema", "schema.json"),
        *("--model", "fake/nope", "--agent", "nobody", "--batch-size", "0"),
        *("--requests-per-minute", "0", "--tokens-per-minute", "-5"),
    )
    assert ran.code == 2
    for text in (
        "no/such/folder",
        "--schema",
        "'a'",
        "prompt is empty",
        "fake/echo",
        "'nobody'",
        "--batch-size",
        "--requests-per-minute: 0 is not at least 1",
        "--tokens-per-minute: -5 is not at least 1",
    ):
        assert text in ran.stderr, text
    assert desk.provider.calls == []


@pytest.mark.nightly
@pytest.mark.alone
def test_verbose_reports_the_parts_of_the_start_on_a_local_ray(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["one", "two"]))
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--runner", "ray", "--verbose")
    own = {**OWN_SERVICES, "OPENCODE_TASKS_TRACEBACK": "1"}
    ran = desk.run(*arguments, env=own)
    assert ran.code == 0, ran.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["one", "two"]
    line = next(line for line in ran.stderr.splitlines() if line.startswith("first row after"))
    for part in ("loading", "Ray", "opencode", "worker", "first prompt"):
        assert f"{part} " in line, line


@pytest.mark.nightly
def test_the_cli_backend_gives_the_same_columns(desk: Desk) -> None:
    desk.provider.on("down", Reply(status=503))
    desk.write_csv("in.csv", rows(["plain", '"quoted" -- 😀\n', "down"]))
    ran = desk.annotate("in.csv", "-o", "out.csv", "--backend", "cli", "--max-attempts", "1")
    assert ran.code == 1, ran.stderr
    out = desk.read_csv("out.csv")
    assert [row["response"] for row in out] == ["plain", '"quoted" -- 😀\n', ""]
    assert [row["error_type"] for row in out] == ["", "", "server_error"]
    # A single failure of an unavailable provider can be an outage, so the row is sent once more.
    assert len(desk.provider.calls) == 4


@pytest.mark.nightly
def test_a_backend_that_does_not_run_opencode_needs_none(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["one", "two"]))
    none = {"PATH": "/usr/bin:/bin", "HOME": str(desk.folder / "none"), "XDG_CACHE_HOME": None}
    none |= {"OPENCODE_TASKS_OPENCODE_BIN": None}
    arguments = ("annotate", "in.csv", "-o", "out.csv", "--runner", "threads")
    refused = desk.run(*arguments, "--model", "fake/echo", env=none)
    assert (refused.code, "opencode-tasks setup" in refused.stderr) == (70, True), refused.stderr
    ran = desk.run(*arguments, "--backend", "null", env=none)
    assert ran.code == 0, ran.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["one", "two"]


@pytest.mark.slow
def test_doctor_reports_the_environment(desk: Desk) -> None:
    ran = desk.run("doctor", "--json", env={"OPENCODE_TASKS_OPENCODE_BIN": str(desk.binary)})
    findings = ran.summary
    assert ran.code == 0
    assert Path(findings["opencode"]["path"]).samefile(desk.binary)
    away = desk.run("doctor", env={"OPENCODE_TASKS_OPENCODE_BIN": "/no/such/opencode"})
    assert (away.code, "opencode-tasks setup" in away.stdout) == (70, True), away.stdout
    assert "FAIL  opencode" in away.stdout


@pytest.mark.scripted
def test_each_wrong_setting_is_a_line_before_anything_is_done(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["a"]))
    values = {"LEASE": "3", "GRACE": "inf", "DRAIN": "0", "MAX_STEPS": "x", "STALL_TIMEOUT": ""}
    wrong = {f"OPENCODE_TASKS_{name}": value for name, value in values.items()}
    for arguments in (["doctor"], desk.arguments("in.csv", "-o", "out.csv")):
        ran = desk.run(*arguments, env=wrong)
        assert (ran.code, ran.stdout) == (2, "")
        assert ran.stderr.splitlines() == [
            "opencode-tasks: OPENCODE_TASKS_MAX_STEPS: 'x' is not a whole number",
            "opencode-tasks: OPENCODE_TASKS_DRAIN: 0 is not above 0",
            "opencode-tasks: OPENCODE_TASKS_LEASE: 3 is not at least 5",
            "opencode-tasks: OPENCODE_TASKS_GRACE: inf is not a finite number",
        ]
    assert not (desk.folder / "out.csv").exists()


@pytest.mark.slow
def test_a_dry_run_warns_of_a_provider_without_credentials(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["a"]))
    dry = desk.arguments("in.csv", "-o", "out.csv", "--dry-run", "--model", "anthropic/claude-haiku-4-5")
    bare = desk.run(*dry, env={"ANTHROPIC_API_KEY": None})
    assert bare.code == 0, bare.stderr
    line = "warning: no credentials found for anthropic (set ANTHROPIC_API_KEY, or run: opencode auth login)"
    assert bare.stderr.count(line) == 1
    keyed = desk.run(*dry, env={"ANTHROPIC_API_KEY": "sk-of-nobody"})
    assert (keyed.code, "warning" in keyed.stderr) == (0, False), keyed.stderr
    own = desk.annotate("in.csv", "-o", "out.csv", "--dry-run")
    assert (own.code, "warning" in own.stderr) == (0, False), own.stderr


@pytest.mark.scripted
def test_a_dry_run_sends_nothing(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["a", "b", "b"]))
    dry = desk.annotate("in.csv", "-o", "out.csv", "--dry-run", "--json")
    assert (dry.code, dry.summary["rows"], dry.summary["different_rows"]) == (0, 3, 2)
    assert desk.provider.calls == []
    assert not (desk.folder / "out.csv").exists()


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["in.csv"], ["--output"]),
        (
            [
                "missing.csv",
                "-o",
                "o.xls",
                "--opencode-config",
                "broken.json",
                "--opencode-bin",
                "/no/opencode",
            ],
            ["missing.csv", "o.xls", "broken.json", "/no/opencode"],
        ),
        (
            ["in.csv", "-o", "in.csv", "--template", "{nope}", "--label", "colour", "--work-dir", "nowhere"],
            ["in.csv", "'nope'", "'colour'", "nowhere"],
        ),
    ],
)
def test_usage_errors_are_lines_with_exit_code_2(desk: Desk, arguments: list[str], texts: list[str]) -> None:
    (desk.folder / "broken.json").write_text("{")
    desk.write_csv("in.csv", rows(["x"]))
    ran = desk.annotate(*arguments)
    assert ran.code == 2
    assert [text for text in texts if text not in ran.stderr] == []
    assert "Traceback" not in ran.stderr
    assert desk.provider.calls == []


@pytest.mark.slow
def test_a_run_is_reported_listed_shown_and_logged(desk: Desk) -> None:
    logs: Path = desk.folder / "logs"
    logs.mkdir()
    desk.write_csv("in.csv", rows(["one", "two", "three"]))
    ran = desk.annotate("in.csv", "-o", "out.csv", "--limit", "2", "--log-dir", "logs", "--verbose")
    assert ran.stdout.startswith("2 completed -> out.csv")
    assert ": 2 rows, " in ran.stderr
    assert "2/2 rows, 0 failed" in ran.stderr
    assert re.search(r"first row after \d+\.\d s: loading \d.*opencode \d.*first prompt \d", ran.stderr)
    assert sorted(desk.provider.prompts()) == ["one", "two"]
    ledger = str(desk.folder / "ledger.db")
    (listed,) = json.loads(desk.run("runs", "--ledger", ledger, "--json").stdout)
    assert (listed["status"], listed["completed"]) == ("completed", 2)
    assert listed["run_id"] in ran.stdout
    shown = desk.run("show", listed["run_id"], "1", "--ledger", ledger)
    assert "--- answer of the model, session ses_" in shown.stdout
    assert "[Response]\ntwo" in shown.stdout
    words = {line.split()[0] for line in shown.stdout.splitlines() if line.strip()}
    assert {"response", "status", "cost", "spent"} <= words
    assert not words & {"fence", "owner", "gate_id", "max_call", "row_key", "error_type", "labels"}
    missing = desk.run("show", listed["run_id"], "9", "--ledger", ledger)
    assert missing.code == 2
    assert f"ROW_ID: run {listed['run_id']} has no row '9' (opencode-tasks view " in missing.stderr
    assert "RUN_ID: there is no run none in" in desk.run("show", "none", "9", "--ledger", ledger).stderr
    (log,) = (path.read_text() for path in logs.iterdir())
    assert "Prompt: one" in log
    assert "[Response]\ntwo" in log


@pytest.mark.nightly
def test_a_model_that_was_not_named_is(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["one"]))
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--dry-run")
    note = "no model is named: opencode chose fake/"
    assert note not in desk.run(*arguments).stderr
    position = arguments.index("--model")
    del arguments[position : position + 2]
    assert note in desk.run(*arguments).stderr
    config = json.loads((desk.folder / "opencode.json").read_text()) | {"model": "fake/echo"}
    (desk.folder / "opencode.json").write_text(json.dumps(config))
    assert note not in desk.run(*arguments).stderr


@pytest.mark.nightly
def test_the_null_backend_calls_no_provider_and_its_answers_are_not_reused(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(PROMPTS[:20]))
    usual = ["in.csv", "-o", "out.csv", "--id-column", "id"]
    refused = desk.annotate(*usual, "--backend", "null")
    assert (refused.code, "--model: the null backend" in refused.stderr) == (2, True)
    arguments = desk.arguments(*usual, "--backend", "null", "--json")
    del arguments[arguments.index("--model") : arguments.index("--model") + 2]
    ran = desk.run(*arguments)
    assert ran.code == 0, ran.stderr
    out = desk.read_csv("out.csv")
    assert [row["response"] for row in out] == PROMPTS[:20]
    assert {(row["model_ref"], row["cost_usd"]) for row in out} == {("null/echo", "0")}
    assert desk.provider.calls == []
    real = desk.annotate(*usual, "--json")
    assert real.summary["rows"]["reused"] == 0
    assert len(desk.provider.calls) == 20


@pytest.mark.nightly
def test_a_terminal_shows_activity_from_the_start(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(PROMPTS[:3]))
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id")
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *arguments],
        cwd=desk.folder,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = read_all(screen)
        assert process.wait(LIMIT_S) == 0, shown
    claimed = shown.index("run 2")
    assert "starting" in shown[:claimed]
    assert "3/3 rows" in shown[claimed:]
