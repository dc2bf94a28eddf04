"""``--votes``: several answers to each row, of which the row takes the most frequent one."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import Any

import pandas as pd
import pytest
from cluster import Desk

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

# The answers of the model to each row in turn, the answer of the row, its agreement, and its votes.
CASES = {
    "same": (["yes", "yes", "no"], "yes", 1.0, 2),
    "third decides": (["yes", "no", "no"], "no", 2 / 3, 3),
    "first wins": (["yes", "no", "yes"], "yes", 2 / 3, 3),
    "all differ": (["yes", "no", "maybe"], "yes", 1 / 3, 3),
}
CHOICES = ("--choices", "yes,no,maybe")


def prepare(desk: Desk) -> None:
    for name, (answers, _, _, _) in CASES.items():
        desk.provider.on(name, *(Reply(text=text) for text in answers))
    rows = [{"id": f"r{n}", "prompt": name} for n, name in enumerate(CASES)]
    desk.write_csv("in.csv", rows)


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
def test_a_row_takes_the_answer_of_the_majority_and_asks_for_no_vote_in_vain(desk: Desk) -> None:
    prepare(desk)
    arguments = ("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--votes", "3")
    dry = desk.annotate(*arguments, "--dry-run")
    assert "8 votes (2 on each of 4 rows) would be sent to fake/echo" in dry.stdout
    assert "votes: up to 4 more, where the first ones differ" in dry.stdout
    forecast = desk.annotate(*arguments, "--dry-run", "--json").summary
    assert (forecast["send"], forecast["further_votes"], len(forecast["prompts"])) == (8, 4, 3)
    ran = desk.annotate(*arguments, "--json")
    assert ran.code == 0, ran.stderr
    output = {row["prompt"]: row for row in desk.read_csv("out.csv")}
    for name, (answers, answer, agreement, votes) in CASES.items():
        row = output[name]
        assert (row["response"], row["status"]) == (answer, "completed"), name
        assert float(row["agreement"]) == pytest.approx(agreement), name
        assert json.loads(row["votes"]) == answers[:votes], name
        assert row["needs_review"] == str(name == "all differ"), name
        assert desk.provider.prompts().count(name) == votes, name
        assert int(row["attempts"]) == votes, name
    assert ran.summary["rows"] == {
        "total": 4,
        "open": 0,
        "completed": 4,
        "failed": 0,
        "skipped": 0,
        "reused": 0,
    }
    votes = ran.summary["votes"]
    assert (votes["asked"], votes["saved"], votes["ties"]) == (11, 1, 1)
    assert votes["agreement"] == pytest.approx((1 + 2 / 3 + 2 / 3 + 1 / 3) / 4)
    charged = sum(call.input_tokens * 1e-6 + call.output_tokens * 2e-6 for call in desk.provider.calls)
    assert ran.summary["cost_usd"] == pytest.approx(charged)
    assert sum(float(row["cost_usd"]) for row in output.values()) == pytest.approx(charged)
    assert "vote 3 of 3: 3 rows" in ran.stderr
    before_last_votes = sum(
        call.input_tokens * 1e-6 + call.output_tokens * 2e-6 for call in desk.provider.calls[:8]
    )
    assert f"whole run so far: 1/4 rows decided, 0 failed, ${before_last_votes:.2g}" in ran.stderr

    # The known answers say which votes can follow.
    again = desk.annotate(*arguments, "--dry-run", "--json").summary
    assert (again["send"], again["reused"], again["further_votes"], again["estimate"]) == (0, 8, 0, None)
    five = (*arguments[:-1], "5", "--dry-run", "--json")
    forecast = desk.annotate(*five).summary
    # One row has no third vote. No row has a majority of five yet.
    assert (forecast["send"], forecast["reused"], forecast["further_votes"]) == (1, 11, 4 * 2)
    refreshed = desk.annotate(*arguments, "--refresh", "--dry-run", "--json").summary
    assert (refreshed["send"], refreshed["further_votes"]) == (8, 4)
    # The same votes are not paid for twice.
    again = desk.annotate(*arguments, "--json")
    assert (again.code, len(desk.provider.calls)) == (0, 11)
    assert again.summary["votes"]["reused"] == 11
    assert again.summary["rows"]["reused"] == 4
    dry = desk.annotate(*arguments, "--dry-run", "--json").summary
    assert (dry["send"], dry["reused"]) == (0, 8)
    # One answer to each row is the first vote.
    assert desk.annotate("in.csv", "-o", "one.csv", "--id-column", "id", *CHOICES).code == 0
    assert len(desk.provider.calls) == 11


@pytest.mark.slow
@pytest.mark.scripted
def test_readers_show_a_run_with_votes_as_one(desk: Desk) -> None:
    prepare(desk)
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--votes", "3", "--json")
    run_id = ran.summary["run_id"]
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    [listed] = json.loads(desk.run("runs", "--json", *ledger).stdout)
    assert (listed["run_id"], listed["total"], listed["completed"]) == (run_id, 4, 4)
    assert listed["cost_pico"] == pytest.approx(ran.summary["cost_usd"] * 1e12)
    shown = desk.run("show", run_id, "r1", *ledger).stdout
    assert "vote 1" in shown
    assert "vote 3" in shown
    audited = desk.run("audit", run_id, "--json", *ledger)
    assert (audited.code, audited.summary["faults"]) == (0, []), audited.stderr
    exported = desk.folder / "again.csv"
    assert desk.run("export", run_id, "-o", str(exported), *ledger).code == 0
    assert exported.read_text() == (desk.folder / "out.csv").read_text()
    assert desk.run("view", run_id, "--export", str(desk.folder / "page"), *ledger).code == 0
    page = "".join(path.read_text() for path in (desk.folder / "page").rglob("*") if path.is_file())
    assert '"Votes"' in page
    assert "67%" in page
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as database:
        by_run = database.execute("SELECT run, rows, cost_usd FROM cost_by_run").fetchall()
    assert [(run, rows) for run, rows, _ in by_run] == [(run_id, 4)]
    assert by_run[0][2] == pytest.approx(ran.summary["cost_usd"])
    spent = f"{ran.summary['cost_usd']:.6f}".rstrip("0")
    assert f"${spent} spent" in desk.run("show", run_id, *ledger).stdout

    before = views_of(desk)
    purged = desk.run("purge", "--before", "2100-01-01", *ledger)
    assert purged.stdout == "1 run with 4 rows purged\n"
    assert views_of(desk) == before
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as database:
        texts = "\n".join(database.iterdump())
    assert not [name for name in ("'r0'", "'r1'", *CASES) if name in texts]


def views_of(desk: Desk) -> list[tuple[Any, ...]]:
    """The lines of the views in which rows are counted."""
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as database:
        return [
            line
            for view in (
                "cost_by_run",
                "cost_by_model",
                "cost_by_label",
                "failures_by_type",
                "quality_by_run",
            )
            for line in database.execute(f"SELECT * FROM {view} ORDER BY 1, 2")
        ]


@pytest.mark.scripted
def test_gold_values_are_compared_with_the_majority(desk: Desk) -> None:
    prepare(desk)
    rows = [{"id": f"r{n}", "prompt": name, "human": case[1]} for n, (name, case) in enumerate(CASES.items())]
    desk.write_csv("in.csv", rows)
    ran = desk.annotate(
        "in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--votes", "3", "--gold", "human", "--json"
    )
    assert ran.summary["quality"]["response"]["accuracy"] == 1.0


@pytest.mark.scripted
def test_each_field_is_voted_on_and_the_row_takes_one_whole_answer(desk: Desk) -> None:
    answers = [
        {"topic": "a", "urgent": True, "reason": "one"},
        {"topic": "b", "urgent": True, "reason": "two"},
        {"topic": "b", "urgent": False, "reason": "three"},
    ]
    desk.provider.on("row", *(Reply(text=json.dumps(answer)) for answer in answers))
    schema = {
        "type": "object",
        "properties": {
            "topic": {"enum": ["a", "b"]},
            "urgent": {"type": "boolean"},
            "reason": {"type": "string"},
        },
        "required": ["topic", "urgent", "reason"],
    }
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    desk.write_csv("in.csv", [{"prompt": "row"}])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--schema", "schema.json", "--votes", "3", "--json")
    [row] = desk.read_csv("out.csv")
    assert (row["topic"], row["urgent"], row["reason"]) == ("b", "True", "two")
    assert float(row["agreement"]) == pytest.approx(2 / 3)
    assert json.loads(row["votes"]) == [{n: a[n] for n in ("topic", "urgent")} for a in answers]
    assert set(ran.summary["votes"]["alpha"]) == {"topic", "urgent"}


@pytest.mark.scripted
def test_a_failed_vote_is_missing_and_a_row_without_any_fails(desk: Desk) -> None:
    refused = Reply(status=400, body={"error": {"message": "no such option"}})
    desk.provider.on("one fails", refused, Reply(text="yes"))
    desk.provider.on("never", refused)
    desk.write_csv("in.csv", [{"prompt": "one fails"}, {"prompt": "never"}, {"prompt": ""}])
    ran = desk.annotate("in.csv", "-o", "out.csv", *CHOICES, "--votes", "3", "--bad-rows", "fail", "--json")
    assert ran.code == 1
    first, second, third = desk.read_csv("out.csv")
    assert (first["status"], first["response"], first["agreement"]) == ("completed", "yes", "1")
    assert json.loads(first["votes"]) == [None, "yes", "yes"]
    assert (second["status"], second["error_type"], second["response"]) == ("failed", "invalid_request", "")
    assert desk.provider.prompts().count("never") == 2
    assert (third["status"], third["error_type"], third["votes"]) == ("failed", "invalid_input", "")
    assert ran.summary["rows"]["failed"] == 2
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as database:
        failures = database.execute("SELECT error_type, rows, failed_rows FROM failures_by_type").fetchall()
    assert failures == [("invalid_request", 2, 1)]
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        run_id = ran.summary["run_id"]
        # A row counts once, whatever its votes cost.
        assert [(one["run"], one["row_id"]) for one in ledger.reports.costliest(9)] == [(run_id, "0")]
        assert ledger.reports.rows_by_status()["failed"] == 1


@pytest.mark.slow
@pytest.mark.scripted
def test_the_budget_is_that_of_all_votes_and_a_resume_continues_them(desk: Desk) -> None:
    # Each answer costs $0.003.
    desk.provider.on("row", Reply(text="yes", input_tokens=1000, output_tokens=1000))
    desk.write_csv("in.csv", [{"id": f"r{n}", "prompt": f"row {n}"} for n in range(4)])
    most = desk.provider.models["echo"]["limit"]["output"]
    # What a row may cost is reserved before it is sent: its output limit, and its short texts.
    limit = 6 * 0.003 + most * 2e-6
    arguments = ("in.csv", "-o", "out.csv", "--id-column", "id", "--votes", "3", "--json")
    ran = desk.annotate(*arguments, "--max-cost", f"{limit:.6f}", "--concurrency", "1")
    assert ran.code == 75, ran.stderr
    assert 4 < len(desk.provider.calls) < 8
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    # The amounts are those of the whole run, not of one vote.
    assert "of $0.02" in ran.stderr, ran.stderr
    ended = desk.run("resume", *ledger, "--max-cost", "5", "--json")
    assert ended.code == 0, ended.stderr
    assert len(desk.provider.calls) == 8
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["yes"] * 4
    assert ended.summary["budget"]["spent_usd"] == pytest.approx(8 * 0.003)
    assert ended.summary["run_id"] == ran.summary["run_id"]


@pytest.mark.slow
@pytest.mark.scripted
def test_a_killed_run_continues_with_the_votes_that_are_missing(desk: Desk) -> None:
    prepare(desk)
    slow = Reply(text="yes", delay_s=30.0)
    desk.provider.on("slow", Reply(text="yes"), slow, Reply(text="yes"))
    rows = [{"id": f"r{n}", "prompt": name} for n, name in enumerate([*CASES, "slow"])]
    desk.write_csv("in.csv", rows)
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--votes", "3")
    with desk.start(*arguments) as process:
        deadline = time.monotonic() + 120
        # The second vote on the last row is in flight, and the other ones have ended.
        while desk.provider.prompts().count("slow") < 2 or len(desk.provider.calls) < 10:
            assert time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        time.sleep(1.0)
        process.kill()
        process.communicate(timeout=30)
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    [listed] = json.loads(desk.run("runs", "--json", *ledger).stdout)
    parts = json.loads(desk.run("show", listed["run_id"], "--json", *ledger).stdout)["parts"]
    assert [one["part"] for one in parts] == [1, 2]
    # A part is continued with its run.
    ended = desk.run("resume", parts[1]["run_id"], *ledger, "--json")
    assert ended.code == 0, ended.stderr
    assert ended.summary["run_id"] == listed["run_id"]
    output = {row["prompt"]: row["response"] for row in desk.read_csv("out.csv")}
    assert output == {name: answer for name, (_, answer, _, _) in CASES.items()} | {"slow": "yes"}
    sent = Counter(desk.provider.prompts())
    assert sent == {name: votes for name, (_, _, _, votes) in CASES.items()} | {"slow": 3}


@pytest.mark.slow
@pytest.mark.scripted
def test_what_a_person_has_answered_is_not_voted_on(desk: Desk) -> None:
    prepare(desk)
    arguments = ("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--votes", "3", "--json")
    run_id = desk.annotate(*arguments).summary["run_id"]
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    assert desk.run("review", "export", run_id, "-o", "review.csv", "--random", "0", *ledger).code == 0
    review = desk.read_csv("review.csv")
    assert review[0]["prompt"] == "all differ"
    desk.write_csv("review.csv", [{**review[0], "answer": "no"}])
    assert desk.run("review", "import", "review.csv", "--by", "ann", *ledger).code == 0
    before = len(desk.provider.calls)
    again = desk.annotate(*arguments, "--refresh")
    assert again.code == 0, again.stderr
    assert "all differ" not in desk.provider.prompts()[before:]
    row = {row["prompt"]: row for row in desk.read_csv("out.csv")}["all differ"]
    assert (row["response"], row["answered_by"], row["votes"]) == ("no", "ann", "")


@pytest.mark.scripted
def test_a_number_of_votes_that_cannot_be_is_refused(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "row"}])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--votes", "1")
    assert (ran.code, desk.provider.calls) == (2, [])
    assert "--votes: 1 is not a number from 2 to 99" in ran.stderr


@pytest.mark.scripted
def test_a_column_of_the_input_may_not_have_the_name_of_one_of_votes(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "row", "votes": "3"}])
    assert desk.annotate("in.csv", "-o", "out.csv").code == 0
    ran = desk.annotate("in.csv", "-o", "out.csv", "--votes", "3")
    assert (ran.code, "votes" in ran.stderr) == (2, True)
    assert pd.read_csv(desk.folder / "out.csv")["votes"].tolist() == [3]


@pytest.mark.nightly
@pytest.mark.scripted
def test_votes_are_kept_in_postgresql(desk: Desk, empty_postgresql: str) -> None:
    prepare(desk)
    ledger = ("--ledger", empty_postgresql)
    ran = desk.annotate("in.csv", "-o", "out.csv", *CHOICES, "--votes", "3", "--gold", "prompt", *ledger)
    assert (ran.code, "--gold" in ran.stderr) == (2, True)
    ran = desk.annotate("in.csv", "-o", "out.csv", *CHOICES, "--votes", "3", "--json", *ledger)
    assert ran.code == 0, ran.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == [one[1] for one in CASES.values()]
    assert (ran.summary["votes"]["asked"], ran.summary["votes"]["saved"]) == (11, 1)
    run_id = ran.summary["run_id"]
    assert "vote 3" in desk.run("show", run_id, "1", *ledger).stdout
    assert desk.run("audit", run_id, *ledger).code == 0
    assert desk.run("report", "--by", "run", *ledger).code == 0
