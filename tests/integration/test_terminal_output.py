"""The lines of the command line: holds, failures, pauses, stops and hints."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cluster import COMMAND, OWN_SERVICES, Desk, read_all
from prefect_server import PrefectServer, running
from typer.main import get_command

from opencode_tasks.cli.app import with_commands
from opencode_tasks.cli.help_text import print_help
from opencode_tasks.testing import Reply

HTML = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head>" + "<p>edge</p>" * 400 + "</html>"
LONG = "Your credit balance is too low. " + "Please go to the billing page to upgrade. " * 20


def refusal(status: int, message: str, **headers: str) -> Reply:
    return Reply(status=status, headers=headers, body={"error": {"message": message}})


LIMITED = refusal(429, "Rate limit reached: please recharge", **{"Retry-After": "7"})


def arguments(desk: Desk, rows: int, *more: str) -> list[str]:
    """The arguments that annotate ``rows`` rows, four in flight."""
    desk.write_csv("in.csv", [{"id": f"r{i}", "prompt": f"row {i}"} for i in range(rows)])
    return desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id", "--concurrency", "4", *more)


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
def test_a_short_hold_has_its_reason_its_end_and_the_providers_message(desk: Desk) -> None:
    desk.provider.on("row", LIMITED, Reply(text="late"))
    # One row in flight, so that the hold begins with the refusal.
    ran = desk.run(*arguments(desk, 2, "--concurrency", "1"))
    assert ran.code == 0, ran.stderr
    holds = [line for line in ran.stderr.splitlines() if "please recharge" in line]
    assert len(holds) == 1, ran.stderr
    form = r"2 rows wait; next attempt at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(rate_limit\): .+"
    assert re.fullmatch(form, holds[0])
    # No line is repeated while nothing happens, and the last line of progress comes once.
    progress = [line for line in ran.stderr.splitlines() if "/2 rows" in line]
    assert len(set(progress)) == len(progress)
    assert sum(line.startswith("2/2 rows") for line in progress) == 1
    assert "first row after" not in ran.stderr


@pytest.mark.nightly
@pytest.mark.scripted
@pytest.mark.prefect
def test_a_terminal_shows_a_hold_and_counts_it_down(desk: Desk) -> None:
    desk.provider.on("row", LIMITED, Reply(text="late"))
    shown, code = on_a_terminal(desk, arguments(desk, 2, "--concurrency", "1"))
    assert code == 0, shown
    assert shown.count("please recharge") == 1
    assert re.search(r"2 rows on hold for \d s: rate limit", shown)
    assert shown.count("2 completed -> out.csv") == 1


def on_a_terminal(desk: Desk, command: list[str], columns: int = 200) -> tuple[str, int]:
    """The output of the command on a terminal, and its exit code."""
    screen, terminal = os.openpty()
    shown = {"TERM": "xterm", "COLUMNS": str(columns)}
    with desk.start(*command, env=shown, terminal=terminal) as process:
        os.close(terminal)
        return read_all(screen), process.wait(240)


@pytest.mark.slow
@pytest.mark.scripted
def test_texts_of_rows_do_not_control_the_terminal(desk: Desk) -> None:
    text = "a\x1b[31mred\x1b[0m\x07 \x9b8m\rb\x7f"
    signs = "a␛[31mred␛[0m␇ �8m␍b␡"
    desk.write_csv("in.csv", [{"id": text, "prompt": f"{text}\n\tc"}])
    ledger = ["--ledger", str(desk.folder / "ledger.db")]
    options = ["--id-column", "id", "--label", "id", "--backend", "null", "--runner", "threads", *ledger]
    annotate = ["annotate", "in.csv", "-o", "out.csv", *options]
    prompt, _ = on_a_terminal(desk, [*annotate, "--dry-run"])
    assert f"--- prompt of row {signs}\r\n{signs}\r\n\tc\r\n---\r\n" in prompt
    run_id = json.loads(desk.run(*annotate, "--json").stdout)["run_id"]
    row, _ = on_a_terminal(desk, ["show", run_id, text, *ledger])
    assert f"response           {signs}\r\n\tc\r\n" in row
    costs, _ = on_a_terminal(desk, ["report", "--by", "label", *ledger])
    assert f" {signs} " in costs
    assert "\x1b" not in prompt + row
    assert "\x1b[31m" not in costs
    # Files and JSON keep the text.
    with (desk.folder / "out.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["response"] == f"{text}\n\tc"
    shown = desk.run("show", run_id, text, "--json", *ledger).stdout
    assert json.loads(shown)["row"]["prompt"] == f"{text}\n\tc"


@pytest.mark.slow
def test_a_command_ends_as_always_if_nobody_reads_what_it_prints(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "one"}, {"prompt": ""}])
    options = ("in.csv", "-o", "out.csv", "--backend", "null", "--bad-rows", "fail")
    arguments = [word for word in desk.arguments(*options) if word not in ("--model", "fake/echo")]
    command = [str(COMMAND), *arguments]
    env = {name: value for name, value in os.environ.items() if name not in OWN_SERVICES}

    def run(stdout: int) -> tuple[int, str]:
        ran = subprocess.run(
            command,
            check=False,
            cwd=desk.folder,
            env=env,
            text=True,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=120,
        )
        os.close(stdout)
        assert (desk.folder / "out.csv").exists(), ran.stderr
        return ran.returncode, ran.stderr

    read, write = os.pipe()
    os.close(read)
    code, told = run(write)
    assert (code, told.splitlines()[-1]) == (1, "fix for invalid_input: correct these rows of INPUT")
    code, told = run(os.open("/dev/full", os.O_WRONLY))
    last = "opencode-tasks: No space left on device: standard output"
    assert (code, told.splitlines()[-1].startswith(last)) == (70, True), told


@pytest.mark.scripted
def test_a_narrow_terminal_shows_whole_ids(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "one"}])
    annotated = desk.annotate("in.csv", "-o", "out.csv", "--json")
    listed, _ = on_a_terminal(desk, ["runs", "--ledger", str(desk.folder / "ledger.db")], columns=80)
    [line] = [line for line in listed.splitlines() if annotated.summary["run_id"] in line]
    words = line.split()
    assert words[1:5] == ["completed", "1", "0", "0"]
    assert words[-1].startswith("in")
    assert len(line.rstrip()) <= 80


@pytest.mark.nightly
def test_the_most_frequent_failures_are_named_with_their_count_and_fix(desk: Desk) -> None:
    desk.provider.on(re.compile("row [0-3]"), refusal(400, "unsupported parameter: temperature"))
    desk.provider.on("row 4", Reply(status=502, headers={"content-type": "text/html"}, body=HTML))
    ran = desk.run(*arguments(desk, 6, "--max-attempts", "1", "--verbose"))
    assert ran.code == 1, ran.stderr
    assert ran.stdout.startswith("1 completed, 5 failed -> out.csv\n")
    lines = ran.stderr.splitlines()
    assert "4 rows failed with invalid_request: HTTP 400: unsupported parameter: temperature" in lines
    assert (
        "fix for invalid_request: correct what the message names: the prompt, the model or its options"
        in lines
    )
    (page,) = [line for line in lines if line.startswith("1 row failed with server_error")]
    assert "502 Bad Gateway" in page
    assert "edge" not in page
    (timings,) = [line for line in lines if line.startswith("first row after")]
    assert re.search(r"loading \d.*opencode \d.*first prompt \d", timings)


@pytest.mark.scripted
@pytest.mark.prefect
def test_a_paused_run_says_what_to_fix_where_its_rows_are_and_how_to_resume(desk: Desk) -> None:
    desk.provider.on(re.compile("row [0-2]"), Reply(text="yes"))
    desk.provider.on("row", refusal(402, LONG))
    ran = desk.run(*arguments(desk, 8))
    assert ran.code == 75, ran.stderr
    said = ran.stderr.splitlines()
    (reason,) = [line for line in said if "is paused with" in line]
    run_id = reason.split()[1]
    assert re.search(
        r"with \d rows open \(billing_error\): HTTP 402: Your credit balance is too low\.", reason
    )
    assert reason.endswith("…")
    assert "fix: add credit to the account of provider fake, or use another model or key" in said
    ledger = f"--ledger {desk.folder / 'ledger.db'}"
    assert f"then resume: opencode-tasks resume {run_id} {ledger}" in said
    assert f"finished rows are in out.csv (or: opencode-tasks export {run_id} -o FILE {ledger})" in said


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["threads", pytest.param("ray", marks=pytest.mark.nightly)])
def test_without_an_api_a_command_uses_no_prefect(desk: Desk, runner: str) -> None:
    ran = desk.run(*arguments(desk, 1, "--verbose", "--runner", runner), env=OWN_SERVICES)
    assert ran.code == 0, ran.stderr
    # It would be among the parts of the start.
    assert "opencode" in ran.stderr
    assert "Prefect" not in ran.stderr
    shown = desk.run("runs", "--ledger", str(desk.folder / "ledger.db"), "--json")
    (run,) = json.loads(shown.stdout)
    assert run["status"] == "completed"


@pytest.mark.nightly
def test_ctrl_c_says_what_it_waits_for_and_needs_no_prefect_server(desk: Desk) -> None:
    desk.provider.on("row", Reply(delay_s=1.0))
    with running(PrefectServer(desk.folder / "prefect")) as server:
        process = desk.start(*arguments(desk, 60), env={"PREFECT_API_URL": server.url})
        deadline = time.monotonic() + 120
        while len(desk.provider.calls) < 8:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    # Its requests to the server that is gone are repeated for over a minute otherwise.
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 130, stderr
    assert re.search(r"stopping: waiting for up to 8 s until \d rows? in flight are recorded\n", stderr)
    assert "interrupted: finished rows are in the ledger" in stderr
    assert "Traceback" not in stderr
    assert "Error" not in stderr


@pytest.mark.slow
@pytest.mark.scripted
def test_closing_the_terminal_stops_the_run_and_its_rows_are_recorded(desk: Desk) -> None:
    desk.provider.on("row", Reply(delay_s=1.0))
    screen, terminal = os.openpty()
    process = desk.start(*arguments(desk, 12), env={"TERM": "xterm"}, terminal=terminal)
    os.close(terminal)
    deadline = time.monotonic() + 60
    while len(desk.provider.calls) < 6:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The kernel sends SIGHUP to the command, and each of its writes fails from now on.
    os.close(screen)
    assert process.wait(60) == 130
    statuses = Counter(row["status"] for row in desk.read_csv("out.csv"))
    assert statuses.keys() == {"completed", "open"}
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    [run] = json.loads(desk.run("runs", "--json", *ledger).stdout)
    assert run["status"] == "interrupted"
    assert desk.run("resume", *ledger).code == 0
    assert Counter(desk.provider.prompts()) == {f"row {i}": 1 for i in range(12)}


@pytest.mark.slow
@pytest.mark.scripted
def test_lines_that_nobody_can_read_do_not_change_how_a_run_ends(desk: Desk) -> None:
    command = [str(COMMAND), *arguments(desk, 3, "--backend", "null")]
    # Each write to it fails.
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, cwd=desk.folder, stderr=full, check=False, timeout=60)
    assert ran.returncode == 0
    assert [row["status"] for row in desk.read_csv("out.csv")] == ["completed"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (["--runner", "rays"], "--runner: 'rays' is none of ray, threads; did you mean 'ray'?"),
        (
            ["--runner", "Threads "],
            "--runner: 'Threads ' is none of ray, threads; did you mean 'threads'? Only case",
        ),
        (["--concurrency=many"], "--concurrency: 'many' is not a whole number"),
        (["--max-cost", "much"], "--max-cost: 'much' is not a number"),
        (["--modle", "a/b"], "No such option: --modle; did you mean --model? (see: "),
        (["--choises", "a,b"], "No such option: --choises; did you mean --choices? (see: "),
        (["--limit", "-1"], "--limit: -1 is below 0"),
    ],
)
def test_a_wrong_value_is_one_line(desk: Desk, wrong: list[str], line: str) -> None:
    desk.write_csv("in.csv", [{"prompt": "one"}])
    ran = desk.run("annotate", "in.csv", "-o", "out.csv", "--backend", "null", *wrong)
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"opencode-tasks: {line}")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["runs", "--limit", "0"], "--limit: 0 is not at least 1 (see: opencode-tasks runs --help)"),
        (["runs", "--limit", "1.5"], "--limit: '1.5' is not a whole number (see: "),
        (["view", "--port", "99999"], "--port: 99999 is not at most 65535 (see: "),
        (["local-model", "--port", "-1"], "--port: -1 is not at least 0 (see: "),
        (["choose", "in.csv", "--rows", "nan"], "--rows: 'nan' is not a whole number (see: "),
        (["choose", "in.csv", "--target", "half"], "--target: 'half' is not a number (see: "),
        (
            ["report", "--by", "modell"],
            "--by: 'modell' is none of day, model, deployment, run, label; did you mean 'model'? (see: ",
        ),
        (
            ["review", "export", "newest", "-o", "a", "--format", "word"],
            "--format: 'word' is none of labelst",
        ),
        (["gates", "close"], "list|open: 'close' is none of list, open (see: "),
        (["label", "in.csv"], "No such command 'label'; the commands are setup, doctor, annotate, choose, "),
        (["annotat", "in.csv"], "No such command 'annotat'; did you mean annotate? (see: "),
        (["review", "exprt"], "No such command 'exprt'; did you mean export? (see: opencode-tasks review"),
    ],
)
def test_a_wrong_value_of_any_command_is_one_line(desk: Desk, command: list[str], line: str) -> None:
    ran = desk.run(*command)
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"opencode-tasks: {line}")
    assert len(ran.stderr.splitlines()) == 1


def test_a_limit_beyond_all_rows_is_no_limit(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "one"}])
    limit, ledger = ["--limit", "9" * 20], ["--ledger", str(desk.folder / "ledger.db")]
    ran = desk.run(
        "annotate", "in.csv", "-o", "out.csv", "--backend", "null", "--runner", "threads", *limit, *ledger
    )
    assert ran.code == 0, ran.stderr
    assert desk.run("runs", *limit, *ledger).code == 0


@pytest.mark.scripted
def test_common_mistakes_have_a_hint(desk: Desk) -> None:
    (desk.folder / "semicolons.csv").write_text("id;prompt\na;hello\n")
    ran = desk.annotate("semicolons.csv", "-o", "out.csv", "--template", '{"say": "{prompt}"}')
    assert ran.code == 2
    assert "double the braces of JSON and other text: {{ and }}" in ran.stderr
    ran = desk.annotate("semicolons.csv", "-o", "out.csv", "--template", 'Answer {"label": 1}')
    assert ran.code == 2
    assert "double the braces of JSON and other text: {{ and }}" in ran.stderr
    ran = desk.annotate("semicolons.csv", "-o", "out.csv", "--delimiter", ",")
    assert ran.code == 2
    assert "separated by semicolons: name the separator with --delimiter" in ran.stderr
    desk.write_csv("in.csv", [{"prompt": "hello"}])
    assert desk.annotate("in.csv", "-o", "answers.csv").code == 0
    ran = desk.annotate("answers.csv", "-o", "again.csv")
    assert ran.code == 2
    (line,) = ran.stderr.splitlines()
    assert "It is probably the OUTPUT of a run: use the INPUT of that run, remove these columns" in line
    assert len(desk.provider.calls) == 1


@pytest.mark.slow
def test_a_shell_completes_commands_options_and_choices(tmp_path: Path) -> None:
    script = f"""
    source <({COMMAND} --show-completion)
    complete_line() {{
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _opencode_tasks_completion {COMMAND}; echo "${{COMPREPLY[*]}}"
    }}
    complete_line opencode-tasks annot
    complete_line opencode-tasks annotate in.csv --on-b
    complete_line opencode-tasks annotate in.csv --on-budget ""
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.splitlines() == ["annotate", "--on-budget", "pause skip"]


def test_all_helps_have_one_layout(capsys: pytest.CaptureFixture[str]) -> None:
    application = with_commands()
    group: Any = get_command(application)
    for name in group.commands:
        assert print_help(application, [name, "--help"])
        usage, _, *text = capsys.readouterr().out.splitlines()
        assert not set(usage) & set("{}<>"), usage
        assert "[[" not in usage
        end = next(at for at, line in enumerate(text) if line in ("Arguments:", "Options:"))
        head = [line for line in text[:end] if line]
        examples = next(at for at, line in enumerate(head) if line.strip() in ("Example:", "Examples:"))
        assert all(re.match(r"  \S", line) and "  " not in line.strip() for line in head[: examples + 1]), (
            head
        )
        assert all(re.match(r" {4}( {4})?\S", line) for line in head[examples + 1 :]), head


HEAVY = ("pandas", "prefect", "pydantic", "ray", "rich", "sqlalchemy")


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"], ["report", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import atexit, sys; sys.argv = ['opencode-tasks', *sys.argv[1:]]\n"
        f"atexit.register(lambda: print(sorted({HEAVY} & sys.modules.keys()), file=sys.stderr))\n"
        "from opencode_tasks.cli.app import main; main()"
    ).replace(f"{HEAVY} &", f"set({HEAVY}) &")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("Usage: opencode-tasks")
    assert done.stderr == "[]\n"
