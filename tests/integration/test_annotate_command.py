"""``opencode-tasks annotate`` as a user runs it, against the provider's own record."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd
import pytest
from cluster import Desk

from opencode_tasks.testing import Reply

PROMPTS = [f'Row {i}: "quoted", it\'s\n a new line, --flag, 😀, ünï' for i in range(200)]


def rows(prompts: list[str]) -> list[dict[str, str]]:
    return [{"id": f"r{i:03}", "prompt": prompt} for i, prompt in enumerate(prompts)]


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


def test_two_commands_at_once_buy_each_row_once(desk: Desk) -> None:
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


def test_equal_rows_are_bought_once_and_a_rerun_buys_nothing(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["same", "same", "other"]))
    first = desk.annotate("in.csv", "-o", "out.csv", "--json")
    assert sorted(desk.provider.prompts()) == ["other", "same"]
    again = desk.annotate("in.csv", "-o", "out.csv", "--json")
    assert len(desk.provider.calls) == 2
    assert first.summary["rows"]["reused"] == 1
    assert again.summary["rows"]["reused"] == 3
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["same", "same", "other"]
    desk.annotate("in.csv", "-o", "out.csv", "--refresh")
    assert len(desk.provider.calls) == 4


def test_another_prompt_system_or_model_is_asked_anew(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["one"]))
    for more in ([], ["--system", "Be brief."], ["--model", "fake/free"], ["--template", "{prompt}!"]):
        assert desk.annotate("in.csv", "-o", "out.csv", *more).code == 0
    default = "You are a helpful assistant."
    assert [call.system for call in desk.provider.calls] == [default, "Be brief.", default, default]
    assert desk.provider.prompts() == ["one", "one", "one", "one!"]


def test_failures_stand_in_their_columns(desk: Desk) -> None:
    desk.provider.on(
        "limited",
        Reply(status=429, headers={"Retry-After": "7200"}, body={"error": {"message": "slow down"}}),
    )
    desk.provider.on("refused", Reply(status=401, body={"error": {"message": "bad key"}}))
    desk.provider.on("broke", Reply(status=402, body={"error": {"message": "no credit"}}))
    desk.provider.on("down", Reply(status=503, body={"error": {"message": "overloaded"}}))
    desk.provider.on("wrong", Reply(status=400, body={"error": {"message": "no such thing"}}))
    desk.provider.on("long", Reply(text="part of it", finish_reason="length"))
    desk.provider.on("silent", Reply(text=""))
    prompts = ["limited", "refused", "broke", "down", "wrong", "long", "silent", "fine"]
    desk.write_csv("in.csv", rows(prompts))
    ran = desk.annotate("in.csv", "-o", "out.csv", "--max-attempts", "1", "--json")
    assert ran.code == 1, ran.stderr
    out = {row["prompt"]: row for row in desk.read_csv("out.csv")}
    assert {prompt: row["error_type"] for prompt, row in out.items()} == {
        "limited": "rate_limit",
        "refused": "authentication_failed",
        "broke": "billing_error",
        "down": "server_error",
        "wrong": "invalid_request",
        "long": "max_output_tokens",
        "silent": "unknown",
        "fine": "",
    }
    assert "slow down" in out["limited"]["error_message"]
    assert out["long"]["response"] == "part of it"
    assert out["long"]["attempts"] == "2"
    assert out["fine"]["status"] == "completed"
    assert float(out["long"]["cost_usd"]) > 0
    asked = desk.provider.prompts()
    assert {prompt: asked.count(prompt) for prompt in prompts} == dict.fromkeys(prompts, 1) | {"long": 2}


def test_a_short_limit_is_waited_for_and_the_row_completes(desk: Desk) -> None:
    desk.provider.on("later", Reply(status=429, headers={"Retry-After": "1"}), Reply(text="now"))
    desk.write_csv("in.csv", rows(["later", "first"]))
    assert desk.annotate("in.csv", "-o", "out.csv", "--max-attempts", "1").code == 0
    out = desk.read_csv("out.csv")
    assert [row["response"] for row in out] == ["now", "first"]
    assert [row["attempts"] for row in out] == ["2", "1"]
    limited, again = (call.at for call in desk.provider.calls if call.prompt == "later")
    assert again - limited >= 1.0


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
    ran = desk.annotate("in.csv", "-o", "out.jsonl", "--schema", "schema.json", "--concurrency", "1")
    assert ran.code == 1, ran.stderr
    out = [json.loads(line) for line in (desk.folder / "out.jsonl").read_text().splitlines()]
    assert [(row["label"], row["stars"], row["error_type"]) for row in out] == [
        ("good", 5, None), ("bad", 1, None), (None, None, "structured_output"),
    ]  # fmt: skip
    assert [row["turns"] for row in out[:2]] == [1, 2]
    assert out[1]["input_tokens"] == sum(c.input_tokens for c in desk.provider.calls[1:3])


def test_parquet_in_and_out_keeps_types(desk: Desk) -> None:
    frame = pd.DataFrame(
        {"prompt": ["a", "b"], "n": [1, 2], "when": pd.to_datetime(["2026-01-01", "2026-01-02"])}
    )
    frame.to_parquet(desk.folder / "in.parquet")
    assert desk.annotate("in.parquet", "-o", "out.parquet", "--label", "n").code == 0
    out = pd.read_parquet(desk.folder / "out.parquet")
    assert list(out["response"]) == ["a", "b"]
    assert out["n"].dtype == frame["n"].dtype
    assert str(out["when"].dtype).startswith("datetime64")
    assert out["input_tokens"].dtype.kind == "i" or str(out["input_tokens"].dtype) == "Int64"


def test_an_unpriced_model_has_no_cost_and_a_free_one_costs_nothing(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["x"]))
    assert desk.annotate("in.csv", "-o", "u.csv", "--model", "fake/unpriced").code == 0
    assert desk.annotate("in.csv", "-o", "f.csv", "--model", "fake/free").code == 0
    unpriced, free = desk.read_csv("u.csv")[0], desk.read_csv("f.csv")[0]
    assert (unpriced["cost_usd"], unpriced["cost_source"]) == ("", "unpriced")
    assert (float(free["cost_usd"]), free["cost_source"]) == (0.0, "reported")


def test_bad_rows_can_fail_while_the_rest_runs(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["good", "", "  "]))
    assert desk.annotate("in.csv", "-o", "out.csv").code == 2
    ran = desk.annotate("in.csv", "-o", "out.csv", "--bad-rows", "fail")
    assert ran.code == 1, ran.stderr
    assert [row["error_type"] for row in desk.read_csv("out.csv")] == ["", "invalid_input", "invalid_input"]
    assert desk.provider.prompts() == ["good"]


def test_an_empty_input_is_a_run_of_no_rows(desk: Desk) -> None:
    (desk.folder / "in.csv").write_text("id,prompt\n")
    ran = desk.annotate("in.csv", "-o", "out.csv", "--json")
    assert (ran.code, ran.summary["rows"]["total"]) == (0, 0), ran.stderr
    assert (desk.folder / "out.csv").read_text().startswith("id,prompt,response,status")
    assert desk.provider.calls == []


def test_limit_and_dry_run(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["a", "b", "c"]))
    dry = desk.annotate("in.csv", "-o", "out.csv", "--dry-run", "--json")
    assert (dry.code, dry.summary["rows"], desk.provider.calls) == (0, 3, [])
    assert not (desk.folder / "out.csv").exists()
    assert desk.annotate("in.csv", "-o", "out.csv", "--limit", "2").code == 0
    assert sorted(desk.provider.prompts()) == ["a", "b"]


def test_every_fault_is_told_before_anything_is_spent(desk: Desk) -> None:
    (desk.folder / "schema.json").write_text('{"type": "objec')
    desk.write_csv("in.csv", [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": ""}])
    ran = desk.annotate(
        *("in.csv", "-o", "no/such/folder/out.csv", "--id-column", "id", "--schema", "schema.json"),
        *("--model", "fake/nope", "--agent", "nobody", "--batch-size", "0"),
    )
    assert ran.code == 2
    for word in (
        "no/such/folder",
        "--schema",
        "'a'",
        "prompt is empty",
        "fake/echo",
        "'nobody'",
        "--batch-size",
    ):
        assert word in ran.stderr, word
    assert desk.provider.calls == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.csv", "-o", "o.csv"], "missing.csv"),
        (["in.csv", "-o", "o.xls"], "o.xls"),
        (["in.csv", "-o", "o.csv", "--prompt-column", "promt"], "'promt'"),
        (["in.csv", "-o", "o.csv", "--template", "{nope}"], "'nope'"),
        (["in.csv", "-o", "o.csv", "--opencode-config", "broken.json"], "broken.json"),
        (["in.csv", "-o", "o.csv", "--opencode-bin", "/no/such/opencode"], "/no/such/opencode"),
        (["in.csv", "-o", "in.csv"], "in.csv"),
        (["in.csv"], "--output"),
    ],
)
def test_wrong_use_is_told_in_a_line_with_exit_2(desk: Desk, arguments: list[str], words: str) -> None:
    (desk.folder / "broken.json").write_text("{")
    desk.write_csv("in.csv", rows(["x"]))
    ran = desk.annotate(*arguments)
    assert (ran.code, words in ran.stderr) == (2, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert desk.provider.calls == []


@pytest.mark.slow
def test_the_cli_backend_gives_the_same_columns(desk: Desk) -> None:
    desk.provider.on("down", Reply(status=503))
    desk.write_csv("in.csv", rows(["plain", '"quoted" -- 😀\n', "down"]))
    ran = desk.annotate("in.csv", "-o", "out.csv", "--backend", "cli", "--max-attempts", "1")
    assert ran.code == 1, ran.stderr
    out = desk.read_csv("out.csv")
    assert [row["response"] for row in out] == ["plain", '"quoted" -- 😀\n', ""]
    assert [row["error_type"] for row in out] == ["", "", "server_error"]
    assert len(desk.provider.calls) == 3


def test_runs_and_show_tell_what_happened(desk: Desk) -> None:
    desk.write_csv("in.csv", rows(["one", "two"]))
    run_id = desk.annotate("in.csv", "-o", "out.csv", "--json").summary["run_id"]
    ledger = str(desk.folder / "ledger.db")
    listed = json.loads(desk.run("runs", "--ledger", ledger, "--json").stdout)
    assert [(run["run_id"], run["status"], run["completed"]) for run in listed] == [(run_id, "completed", 2)]
    story = desk.run("show", run_id, "1", "--ledger", ledger)
    assert "[Response]\ntwo" in story.stdout
    assert desk.run("show", run_id, "9", "--ledger", ledger).code == 2


def test_doctor_tells_what_is_there(desk: Desk) -> None:
    ran = desk.run("doctor", "--json", env={"OPENCODE_TASKS_OPENCODE_BIN": str(desk.binary)})
    findings = ran.summary
    assert ran.code == 0
    assert Path(findings["opencode"]["path"]).samefile(desk.binary)
    away = desk.run("doctor", env={"OPENCODE_TASKS_OPENCODE_BIN": "/no/such/opencode"})
    assert (away.code, "opencode-tasks setup" in away.stdout) == (70, True)


def test_a_trace_of_each_attempt_is_logged(desk: Desk) -> None:
    logs: Path = desk.folder / "logs"
    logs.mkdir()
    desk.write_csv("in.csv", rows(["tell me"]))
    assert desk.annotate("in.csv", "-o", "out.csv", "--log-dir", "logs").code == 0
    texts = [path.read_text() for path in logs.iterdir()]
    assert len(texts) == 1
    assert "Prompt: tell me" in texts[0]
    assert "[Response]\ntell me" in texts[0]


def test_progress_is_told_in_plain_lines_on_stderr(desk: Desk) -> None:
    desk.provider.on("", Reply(delay_s=0.2))
    desk.write_csv("in.csv", rows(["a", "b", "c"]))
    ran = desk.annotate("in.csv", "-o", "out.csv")
    assert "3 rows in batches of" in ran.stderr
    assert "3/3 rows, 0 failed" in ran.stderr
    assert ran.stdout.startswith("3 completed -> out.csv")
    assert time.strftime("%Y") in ran.stdout  # the run id
