"""Canaries: rows that each run sends anew, and the drift that they show."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import pandas as pd
import psycopg
import pytest
from cluster import Desk, Ran

from opencode_tasks import annotate
from opencode_tasks.testing import Reply

CANARIES = 20
USUAL_RUNS = 5


class Model:
    """The model behind a name: it answers the first ``wrong`` canaries wrongly, and one prompt slowly."""

    def __init__(self) -> None:
        self.wrong = 0
        self.slow = ""
        self.is_expensive = False

    def is_wrong(self, prompt: str) -> bool:
        return prompt.startswith("canary ") and int(prompt.split()[1]) < self.wrong


@pytest.fixture
def model(desk: Desk) -> Model:
    found = Model()
    desk.provider.on(lambda call: call.prompt == found.slow, Reply(text="negative", delay_s=60))
    expensive = Reply(text="positive", output_tokens=5000)
    desk.provider.on(lambda call: found.is_expensive and call.prompt.startswith("canary"), expensive)
    desk.provider.on(lambda call: found.is_wrong(call.prompt), Reply(text="negative"))
    desk.provider.on(lambda call: "positive" in call.prompt, Reply(text="positive"))
    desk.provider.on(lambda call: "negative" in call.prompt, Reply(text="negative"))
    write_tables(desk)
    return found


def write_tables(desk: Desk) -> None:
    canaries = [{"text": f"canary {n} positive", "human": "positive"} for n in range(CANARIES)]
    desk.write_csv("canary.csv", canaries)
    desk.write_csv("in.csv", [{"text": f"row {n} negative"} for n in range(3)])


OPTIONS = ("in.csv", "-o", "out.csv", "--template", "{text}", "--choices", "positive,negative")
WITH_CANARIES = (*OPTIONS, "--gold", "human", "--canary", "canary.csv")


def run(desk: Desk, *more: str) -> Ran:
    return desk.annotate(*WITH_CANARIES, "--json", *more)


def measure(ran: Ran, name: str) -> dict[str, Any]:
    return next(one for one in ran.summary["canary"]["measures"] if one["name"] == name)


def sent(desk: Desk) -> int:
    return sum(prompt.startswith("canary") for prompt in desk.provider.prompts())


def query(desk: Desk, sql: str) -> list[Any]:
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
        return ledger.execute(sql).fetchall()


@pytest.mark.slow
@pytest.mark.scripted
def test_a_fall_of_the_accuracy_is_a_drift_and_ends_with_the_next_good_run(desk: Desk, model: Model) -> None:
    runs: list[Ran] = []
    for number in range(USUAL_RUNS):
        runs.append(run(desk))
        assert runs[-1].code == 0, runs[-1].stderr
        assert f"not enough earlier runs yet ({number} of 5)" in runs[-1].stderr
        assert not runs[-1].summary["canary"]["has_drift"]
    assert len(desk.read_csv("out.csv")) == 3
    # Canaries are sent in each run, rows with an answer are not.
    assert (sent(desk), len(desk.provider.calls)) == (CANARIES * USUAL_RUNS, CANARIES * USUAL_RUNS + 3)
    model.wrong = 10
    worse = run(desk)
    assert worse.code == 0, worse.stderr
    found = worse.summary["canary"]
    assert (found["has_drift"], found["since"], found["earlier_runs"]) == (
        True,
        worse.summary["run_id"],
        USUAL_RUNS,
    )
    accuracy = measure(worse, "accuracy")
    assert (accuracy["value"], accuracy["high"], accuracy["is_drift"]) == (0.5, 1.0, True)
    assert 0.5 < accuracy["low"] < 1
    assert (measure(worse, "changed")["value"], measure(worse, "failed")["is_drift"]) == (0.5, False)
    drift = f"drift since run {worse.summary['run_id']}: accuracy 50.0%, usual"
    assert drift in worse.stderr
    again = desk.annotate(*WITH_CANARIES)
    assert again.code == 0
    # A drift does not change what is usual, and names the run in which it began.
    assert drift in again.stderr
    assert drift in again.stdout
    model.wrong = 0
    better = run(desk)
    assert "no drift from 5 earlier runs" in better.stderr
    rows = query(
        desk,
        "select rows, failed_rows, changed_rows, accuracy, has_drift from canary_by_run order by measured_at",
    )
    assert rows[0] == (20, 0, 0, 1.0, 0)
    assert rows[USUAL_RUNS:] == [(20, 0, 10, 0.5, 1), (20, 0, 10, 0.5, 1), (20, 0, 0, 1.0, 0)]
    assert query(desk, "select * from quality_by_run") == []


@pytest.mark.nightly
@pytest.mark.scripted
def test_a_drift_on_postgresql(desk: Desk, model: Model, empty_postgresql: str) -> None:
    ledger = ("--ledger", empty_postgresql)
    for _ in range(USUAL_RUNS):
        assert run(desk, *ledger).code == 0
    model.wrong = 10
    worse = run(desk, *ledger)
    assert worse.summary["canary"]["has_drift"], worse.stderr
    assert desk.run("show", worse.summary["run_id"], *ledger).code == 0
    with psycopg.connect(empty_postgresql.replace("+psycopg", "")) as connection:
        lines = connection.execute(
            "select rows, changed_rows, accuracy, has_drift from canary_by_run order by measured_at"
        ).fetchall()
    assert lines == [(CANARIES, 0, 1.0, False)] * USUAL_RUNS + [(CANARIES, 10, 0.5, True)]


@pytest.mark.nightly
@pytest.mark.alone
def test_canaries_on_ray(ray_desk: Desk) -> None:
    write_tables(ray_desk)
    ray_desk.provider.on("positive", Reply(text="positive")).on("negative", Reply(text="negative"))
    ran = run(ray_desk)
    assert ran.code == 0, ran.stderr
    assert (sent(ray_desk), len(ray_desk.provider.calls)) == (CANARIES, CANARIES + 3)
    assert measure(ran, "accuracy")["value"] == 1
    assert [row["response"] for row in ray_desk.read_csv("out.csv")] == ["negative"] * 3


@pytest.mark.slow
@pytest.mark.scripted
def test_a_run_that_is_killed_and_resumed_sends_its_canaries_once(desk: Desk, model: Model) -> None:
    model.slow = "row 1 negative"
    with desk.start(*desk.arguments(*WITH_CANARIES)) as process:
        deadline = time.monotonic() + 60
        while "row 1 negative" not in desk.provider.prompts() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert sent(desk) == CANARIES
    model.slow = ""
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    resumed = desk.run("resume", "--json", *ledger)
    assert resumed.code == 0, resumed.stderr
    assert sent(desk) == CANARIES
    assert resumed.summary["canary"]["rows"] == CANARIES
    assert resumed.summary["rows"]["total"] == 3
    # A part is continued with its run.
    assert desk.run("resume", resumed.summary["canary"]["run_id"], *ledger).code == 2


@pytest.mark.nightly
@pytest.mark.scripted
def test_canaries_that_were_interrupted_are_continued(desk: Desk, model: Model) -> None:
    model.slow = "canary 7 positive"
    with desk.start(*desk.arguments(*WITH_CANARIES, "--concurrency", "1")) as process:
        deadline = time.monotonic() + 60
        while "canary 7 positive" not in desk.provider.prompts() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    model.slow = ""
    assert sent(desk) == 8
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    table = (desk.folder / "canary.csv").read_text()
    (desk.folder / "canary.csv").write_text(table.replace("canary 3", "canary 33"))
    refused = desk.run("resume", *ledger)
    assert refused.code == 2
    assert "--canary" in refused.stderr
    assert "have changed since run" in refused.stderr
    assert sent(desk) == 8
    (desk.folder / "canary.csv").write_text(table)
    resumed = desk.run("resume", "--json", *ledger)
    assert resumed.code == 0, resumed.stderr
    # Row 7 was in flight, and is sent again.
    assert sent(desk) == CANARIES + 1
    assert len(desk.read_csv("out.csv")) == 3


@pytest.mark.slow
@pytest.mark.scripted
def test_canaries_share_the_budget_of_the_run(desk: Desk, model: Model) -> None:
    model.is_expensive = True
    # A canary costs $0.01. The budget covers all of them, but then no row, for which $0.023 is set aside.
    ran = run(desk, "--max-cost", "0.22", "--on-budget", "skip")
    assert ran.code == 1, ran.stderr
    assert (sent(desk), len(desk.provider.calls)) == (CANARIES, CANARIES)
    assert ran.summary["rows"]["skipped"] == 3
    assert 0.2 < ran.summary["cost_usd"] < 0.22
    assert ran.summary["budget"]["spent_usd"] == pytest.approx(ran.summary["cost_usd"])
    # A smaller budget holds the run in its canaries; a larger one sends the others.
    paused = run(desk, "--max-cost", "0.1")
    assert paused.code == 75, paused.stderr
    assert "is paused with 3 rows open (budget_exceeded)" in paused.stderr
    sent_before = sent(desk)
    assert CANARIES < sent_before < 2 * CANARIES
    resumed = desk.run("resume", "--max-cost", "1", "--json", "--ledger", str(desk.folder / "ledger.db"))
    assert resumed.code == 0, resumed.stderr
    assert sent(desk) == 2 * CANARIES
    assert resumed.summary["rows"]["completed"] == 3
    canaries = query(desk, "select sum(cost_pico) from cost_items where canary")[0][0]
    assert canaries == pytest.approx(2 * CANARIES * 0.01e12, rel=0.01)
    by_run = query(desk, "select rows, cost_pico from cost_by_run order by created_at")
    assert [rows for rows, _ in by_run] == [3, 3]
    assert by_run[1][1] == pytest.approx(resumed.summary["cost_usd"] * 1e12)


@pytest.mark.nightly
@pytest.mark.scripted
@pytest.mark.prefect
def test_readers_show_a_run_with_canaries_as_one(desk: Desk, model: Model) -> None:
    del model
    ran = run(desk)
    run_id, part_id = ran.summary["run_id"], ran.summary["canary"]["run_id"]
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    [listed] = json.loads(desk.run("runs", "--json", *ledger).stdout)
    assert (listed["run_id"], listed["total"]) == (run_id, 3)
    assert listed["cost_pico"] == pytest.approx(ran.summary["cost_usd"] * 1e12)
    shown = desk.run("show", run_id, *ledger)
    assert f"canaries           {part_id} completed" in shown.stdout
    assert "canary 4 positive" in desk.run("show", part_id, "4", *ledger).stdout
    # A row of the run has the same id as a canary.
    row = json.loads(desk.run("show", run_id, "1", "--json", *ledger).stdout)
    assert (row["row"]["response"], row["votes"], len(row["attempts"])) == ("negative", [], 1)
    audited = desk.run("audit", run_id, "--json", *ledger)
    assert (audited.code, audited.summary["faults"]) == (0, []), audited.stderr
    assert [part["run_id"] for part in audited.summary["parts"]] == [run_id, part_id]
    assert audited.summary["cost_usd"] == pytest.approx(ran.summary["cost_usd"])
    exported = desk.folder / "again.csv"
    assert desk.run("export", run_id, "-o", str(exported), *ledger).code == 0
    assert exported.read_text() == (desk.folder / "out.csv").read_text()
    report = json.loads(desk.run("report", "--by", "run", "--format", "json", *ledger).stdout)
    assert [(line["run"], line["rows"]) for line in report] == [(run_id, 3)]
    other = desk.annotate(*OPTIONS, "--refresh", "--json").summary["run_id"]
    compared = desk.run("compare", run_id, other, "--json", *ledger)
    assert compared.code == 0, compared.stderr
    assert desk.run("view", run_id, "--export", str(desk.folder / "page"), *ledger).code == 0
    assert desk.run("purge", "--before", "2100-01-01", *ledger).code == 0
    assert query(desk, "select count(*) from rows where prompt is not null") == [(0,)]
    # The measures stay; purged answers are not compared.
    again = run(desk)
    assert again.summary["canary"]["earlier_runs"] == 1
    assert "changed" not in {one["name"] for one in again.summary["canary"]["measures"]}


@pytest.mark.scripted
@pytest.mark.parametrize("more", [("--votes", "3"), ("--pilot", "1", "--yes"), ("--limit", "1")])
def test_other_options_are_about_the_rows_alone(desk: Desk, model: Model, more: tuple[str, ...]) -> None:
    del model
    dry = run(desk, *more, "--dry-run").summary
    assert dry["canaries"] == CANARIES
    ran = run(desk, *more)
    assert ran.code == 0, ran.stderr
    assert sent(desk) == CANARIES
    assert ran.summary["rows"]["completed"] == (1 if "--limit" in more else 3)
    assert measure(ran, "accuracy")["value"] == 1.0
    if "--votes" in more:
        assert ran.summary["votes"]["asked"] == 6
        assert json.loads(desk.read_csv("out.csv")[0]["votes"]) == ["negative"] * 2


@pytest.mark.slow
@pytest.mark.scripted
def test_canaries_are_sent_if_an_incremental_input_has_no_new_rows(desk: Desk, model: Model) -> None:
    del model
    desk.write_csv("in.csv", [{"id": f"r{n}", "text": f"row {n} negative"} for n in range(3)])
    options = ("--incremental", "id")
    assert run(desk, *options).summary["rows"]["completed"] == 3
    second = run(desk, *options)
    assert second.code == 0, second.stderr
    assert second.summary["rows"]["total"] == 0
    assert sent(desk) == 2 * CANARIES
    assert second.summary["canary"]["earlier_runs"] == 1


@pytest.mark.slow
@pytest.mark.scripted
def test_a_row_with_the_prompt_of_a_canary_does_not_take_its_answer(desk: Desk, model: Model) -> None:
    del model
    desk.write_csv("in.csv", [{"text": "canary 0 positive"}])
    assert run(desk).summary["rows"]["reused"] == 0
    assert sent(desk) == CANARIES + 1
    assert run(desk).summary["rows"]["reused"] == 1
    assert sent(desk) == 2 * CANARIES + 1


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("table", "more", "fault"),
    [
        (None, (), "--canary none.csv: "),
        ([{"other": "x"}], (), "no column 'text' (--template)"),
        ([{"text": "a"}, {"text": "a"}], (), "two rows have the same prompt"),
        ([{"text": f"{n}"} for n in range(501)], (), "it has 501 rows"),
        ([{"text": "a", "human": "maybe"}], (), "column 'human' has values that no answer can have"),
        ([{"text": "a"}], (), "has no column 'human' (--gold)"),
        ([{"text": ""}], (), "--canary canary.csv: "),
        ([{"text": "a", "human": "positive"}], ("--examples", "reviewed"), "not with --examples reviewed"),
        (
            [{"text": "a", "human": "positive"}],
            ("--min-accuracy", "0.5"),
            "--min-accuracy: INPUT has none of the columns of --gold",
        ),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_sent(
    desk: Desk, model: Model, table: list[dict[str, str]] | None, more: tuple[str, ...], fault: str
) -> None:
    del model
    if table is not None:
        desk.write_csv("canary.csv", table)
    name = "none.csv" if table is None else "canary.csv"
    ran = desk.annotate(*OPTIONS, "--gold", "human", "--canary", name, *more)
    assert ran.code == 2, ran.stderr
    assert fault in ran.stderr
    assert desk.provider.calls == []


def test_canaries_from_python(tmp_path: Any, opencode_binary: Any) -> None:
    pd.DataFrame({"prompt": ["one", "two"]}).to_parquet(tmp_path / "canary.parquet")
    result = annotate(
        pd.DataFrame({"prompt": ["three"]}),
        backend="null",
        canary=str(tmp_path / "canary.parquet"),
        ledger=str(tmp_path / "ledger.db"),
        opencode_bin=str(opencode_binary),
    )
    assert result.canary is not None
    assert (result.canary.rows, result.canary.earlier_runs, result.canary.has_drift) == (2, 0, False)
    assert result.frame["response"].tolist() == ["three"]
    assert len(result.attempts) == 3
