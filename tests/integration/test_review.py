"""Reviews on the command line: export a run, edit the file, import it, run again."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from cluster import Desk, Ran

from opencode_tasks.engine.quality import measure_quality
from opencode_tasks.engine.review import PersonAnswer, record_reviews
from opencode_tasks.ledger import Ledger
from opencode_tasks.plan.gold import GoldField
from opencode_tasks.testing import Call, Reply

CHOICES = ("--choices", "yes,no")
# By row: what the model answers, and what a person does.
ANSWERS = {"r0": "yes", "r1": "yes", "r2": "no", "r3": "no"}
CORRECTED = {"r1": "no"}

Edit = Callable[[Path, Mapping[str, str]], None]


@pytest.fixture
def desk(desk: Desk) -> Desk:
    def says(word: str) -> Callable[[Call], bool]:
        return lambda call: f"answer {word}" in call.prompt

    desk.provider.on(says("yes"), Reply(text="yes"))
    desk.provider.on(says("no"), Reply(text="no"))
    desk.provider.on("refused", Reply(status=400, body={"error": {"message": "no"}}))
    rows = [{"id": name, "prompt": f"{name} answer {word}"} for name, word in ANSWERS.items()]
    desk.write_csv(
        "in.csv", [*rows, {"id": "r4", "prompt": "refused"}, {"id": "r5", "prompt": rows[0]["prompt"]}]
    )
    return desk


def annotate(desk: Desk, *more: str, code: int = 0) -> dict[str, Any]:
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, *more, "--json")
    assert ran.code == code, ran.stderr
    return ran.summary


def review(desk: Desk, action: str, *arguments: str, code: int = 0) -> Ran:
    ran = desk.run("review", action, *arguments, "--ledger", str(desk.folder / "ledger.db"))
    assert ran.code == code, ran.stderr + ran.stdout
    return ran


def edit_csv(path: Path, answers: Mapping[str, str]) -> None:
    lines = path.read_text().splitlines(keepends=True)
    names = lines[0].strip().split(",")
    row_id, answer = names.index("row_id"), names.index("answer")
    for at, line in enumerate(lines[1:], start=1):
        cells = line.rstrip("\n").split(",")
        cells[answer] = answers.get(cells[row_id], cells[answer])
        lines[at] = ",".join(cells) + "\n"
    path.write_text("".join(lines))


def edit_xlsx(path: Path, answers: Mapping[str, str]) -> None:
    book = openpyxl.load_workbook(path)
    sheet: Any = book.worksheets[0]
    names = [cell.value for cell in sheet[1]]
    for row in sheet.iter_rows(min_row=2):
        row_id, answer = row[names.index("row_id")], row[names.index("answer")]
        answer.value = answers.get(row_id.value, answer.value)
    book.save(path)


def edit_label_studio(path: Path, answers: Mapping[str, str]) -> None:
    """What Label Studio exports as JSON, with one annotation that was skipped."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        predicted = task["predictions"][0]["result"] if "predictions" in task else []
        label = answers.get(task["data"]["row_id"])
        region = {
            "from_name": "response",
            "to_name": "prompt",
            "type": "choices",
            "value": {"choices": [label]},
        }
        result = predicted if label is None else [region]
        skipped = {"was_cancelled": True, "result": [], "completed_by": {"id": 2, "email": "b@example.com"}}
        done = {"was_cancelled": False, "result": result, "completed_by": {"id": 1, "email": "a@example.com"}}
        task["annotations"] = [skipped, done] if result else [skipped]
    path.write_text(json.dumps(tasks))


def edit_argilla(path: Path, answers: Mapping[str, str]) -> None:
    """What ``dataset.records.to_json`` of Argilla writes."""
    records = json.loads(path.read_text())
    for record in records:
        suggested = record["suggestions"].get("response", {}).get("value")
        if label := answers.get(record["metadata"]["row_id"], suggested):
            record["responses"] = {"response": [{"value": label, "user_id": "a@example.com"}]}
            record["status"] = "completed"
    path.write_text(json.dumps(records))


FORMATS = {
    "csv": (["-o", "review.csv"], edit_csv, []),
    "xlsx": (["-o", "review.xlsx"], edit_xlsx, []),
    "labelstudio": (["-o", "review.json"], edit_label_studio, ["a@example.com"]),
    "argilla": (["-o", "review.json", "--format", "argilla"], edit_argilla, ["a@example.com"]),
}


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize(
    "name", ["csv", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMATS if name != "csv")]
)
def test_corrected_rows_are_final(desk: Desk, name: str) -> None:
    target, edit, annotator = FORMATS[name]
    run_id = annotate(desk, code=1)["run_id"]
    exported = review(desk, "export", run_id, *target, "--random", "0.5")
    assert "5 rows, 2 of them drawn at random" in exported.stdout
    assert "1 row without an answer" in exported.stdout
    assert "1 row left out, since a row with the same prompt stands for them" in exported.stdout
    edit(desk.folder / target[1], CORRECTED | {"r4": "yes"})
    by = [] if annotator else ["--by", "ann"]
    imported = review(desk, "import", target[1], *by, "--json").summary
    assert imported["rows"] == {"confirmed": 3, "corrected": 2, "left": 0}
    assert imported["random_rows"] == 2
    assert imported["quality"]["response"]["n"] == 2
    # Another import of the same file changes nothing.
    again = review(desk, "import", target[1], *by, "--json").summary
    assert again["rows"] == {"confirmed": 0, "corrected": 0, "left": 0}
    assert (again["unchanged_rows"], again["newer_rows"]) == (5, 0)
    assert again["quality"] == imported["quality"]
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
        assert ledger.execute("select count(*) from answer_reviews").fetchone() == (6,)
        # Two rows share a prompt, one is wrong, one has no answer of the model.
        found = ledger.execute("select answered_rows, unanswered_rows, correct_rows from quality_by_run")
        assert found.fetchall() == [(5, 1, 4)]

    calls = len(desk.provider.calls)
    again = annotate(desk, "--refresh")
    assert len(desk.provider.calls) == calls
    assert (again["rows"]["completed"], again["rows"]["reused"], again["cost_usd"]) == (6, 6, 0)
    rows = {row["id"]: row for row in desk.read_csv("out.csv")}
    assert {name: row["response"] for name, row in rows.items()} == ANSWERS | {
        "r1": "no",
        "r4": "yes",
        "r5": "yes",
    }
    assert {row["answered_by"] for row in rows.values()} == {*(annotator or ["ann"])}
    assert all(row["reviewed_at"] for row in rows.values())
    assert {(row["error_type"], row["reused"]) for row in rows.values()} == {("", "True")}
    for one in (run_id, again["run_id"]):
        audited = desk.run("audit", one, "--ledger", str(desk.folder / "ledger.db"))
        assert audited.code == 0, audited.stdout


@pytest.mark.slow
@pytest.mark.scripted
def test_random_rows_that_nobody_judged_are_named(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    exported = review(desk, "export", run_id, "-o", "review.csv", "--random", "1").stdout
    assert "all the random ones, for an accuracy that holds" in exported
    edit_csv(desk.folder / "review.csv", {"r1": "no", "r2": "", "r3": ""})
    shown = review(desk, "import", "review.csv", "--by", "ann").stdout
    assert "right only if all of the drawn rows were reviewed" in shown
    assert "2 rows more in this file, drawn too, without a judgement" in shown
    assert review(desk, "import", "review.csv", "--json").summary["random_left"] == 2


@pytest.mark.slow
@pytest.mark.scripted
def test_a_row_that_is_in_a_file_several_times_counts_once(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv", "--random", "1")
    file = desk.folder / "review.csv"
    edit_csv(file, CORRECTED | {"r4": "yes"})
    lines = file.read_text().splitlines(keepends=True)
    corrected = next(line for line in lines if ",r1," in line)
    file.write_text("".join([*lines, corrected, corrected]))
    imported = review(desk, "import", "review.csv", "--by", "ann", "--json").summary
    assert imported["rows"] == {"confirmed": 3, "corrected": 2, "left": 0}
    found = imported["quality"]["response"]
    assert (imported["random_rows"], found["n"], found["accuracy"]) == (4, 4, 0.75)
    file.write_text("".join([*lines, corrected.replace(",no,", ",yes,")]))
    refused = review(desk, "import", "review.csv", "--by", "ann", code=2)
    assert "row 'r1': it is there with another answer too" in refused.stderr


@pytest.mark.scripted
def test_texts_that_a_spreadsheet_changed_are_no_corrections(desk: Desk) -> None:
    answer = {"code": "0134", "when": "2026-02-01"}
    desk.provider.on("row", Reply(text=json.dumps(answer)))
    properties = {name: {"type": "string"} for name in answer}
    schema = {"type": "object", "properties": properties, "required": [*answer]}
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    desk.write_csv("rows.csv", [{"id": name, "prompt": f"row {name}"} for name in "ab"])
    options = ("--id-column", "id", "--schema", "schema.json", "--json")
    run_id = desk.annotate("rows.csv", "-o", "out.csv", *options).summary["run_id"]
    review(desk, "export", run_id, "-o", "review.csv", "--random", "0")
    file = desk.folder / "review.csv"
    text = file.read_text()
    file.write_text(text.replace("0134", "134", 1).replace("2026-02-01", "01/02/2026", 1))
    refused = review(desk, "import", "review.csv", "--by", "ann", code=2).stderr
    assert "code: '134' is '0134' as a spreadsheet program changes it" in refused
    assert "when: '01/02/2026' is '2026-02-01' as a spreadsheet" in refused
    file.write_text(text.replace("0134", "0135", 1))
    imported = review(desk, "import", "review.csv", "--by", "ann", "--json").summary
    assert imported["rows"] == {"confirmed": 1, "corrected": 1, "left": 0}


@pytest.mark.slow
@pytest.mark.scripted
def test_rows_that_differ_from_gold_come_early_with_their_reason(desk: Desk) -> None:
    human = {"r0": "no", "r1": "yes", "r2": "no", "r3": "yes"}
    desk.write_csv("in.csv", [row | {"human": human.get(row["id"], "")} for row in desk.read_csv("in.csv")])
    run_id = annotate(desk, "--gold", "human", code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv", "--random", "0")
    rows = desk.read_csv("review.csv")
    names = ("\ufeffrun_id", "row_id", "row_key", "prompt", "answer", "note", "random", "gold", "reason")
    assert tuple(rows[0]) == names
    assert [(row["row_id"], row["gold"], row["reason"]) for row in rows] == [
        ("r4", "", "no answer"),
        ("r0", "no", "differs from gold"),
        ("r3", "yes", "differs from gold"),
        ("r1", "yes", "no doubt known"),
        ("r2", "no", "no doubt known"),
    ]
    review(desk, "export", run_id, "-o", "some.csv", "--random", "0.4")
    drawn = [row for row in desk.read_csv("some.csv") if row["random"] == "true"]
    assert len(drawn) == 2
    review(desk, "export", run_id, "-o", "all.csv", "--random", "1")
    assert [(row["row_id"], row["reason"]) for row in desk.read_csv("all.csv")] == [
        ("r4", "no answer"),
        ("r0", "random, differs from gold"),
        ("r1", "random"),
        ("r2", "random"),
        ("r3", "random, differs from gold"),
    ]
    review(desk, "export", run_id, "-o", "t.json", "--random", "0")
    tasks = json.loads((desk.folder / "t.json").read_text())
    assert [task["data"].get("gold") for task in tasks] == [None, "no", "yes", "yes", "no"]
    assert tasks[1]["data"]["reason"] == "differs from gold"
    # What a person writes into these columns is no judgement, and a file without them can be imported.
    edit_csv(desk.folder / "review.csv", {"r0": "no"})
    text = (desk.folder / "review.csv").read_text().replace("differs from gold", "seen")
    (desk.folder / "review.csv").write_text(text)
    counts = {"confirmed": 3, "corrected": 1, "left": 1}
    assert review(desk, "import", "review.csv", "--by", "ann", "--json").summary["rows"] == counts
    older = [line.rsplit(",", 2)[0] for line in text.splitlines()]
    (desk.folder / "older.csv").write_text("\n".join(older) + "\n")
    assert review(desk, "import", "older.csv", "--by", "bob", "--json").summary["rows"] == counts


@pytest.mark.slow
@pytest.mark.scripted
def test_confirmed_answers_that_differ_from_gold_are_named(desk: Desk) -> None:
    human = {"r0": "no", "r1": "no", "r2": "no", "r3": "yes", "r5": "no"}
    desk.write_csv("in.csv", [row | {"human": human.get(row["id"], "")} for row in desk.read_csv("in.csv")])
    run_id = annotate(desk, "--gold", "human", code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv", "--random", "0.5")
    edit_csv(desk.folder / "review.csv", {"r1": "no"})
    shown = review(desk, "import", "review.csv", "--by", "ann").stdout
    assert "3 confirmed, 1 corrected, 1 left" in shown
    # In the order of the file, which depends on the rows that were drawn.
    named = re.search(
        r"WARNING: 2 rows confirmed whose answer differs from the gold value: (r\d), (r\d)\n", shown
    )
    assert named is not None
    assert sorted(named.groups()) == ["r0", "r3"]
    assert f"opencode-tasks review undo {run_id} ROW_ID" in shown
    assert sorted(review(desk, "import", "review.csv", "--json").summary["against_gold"]) == ["r0", "r3"]
    # Rows that nobody looked at are undone and deleted from the file.
    for row_id in ("r0", "r3"):
        review(desk, "undo", run_id, row_id)
    edit_csv(desk.folder / "review.csv", {"r0": "", "r3": ""})
    again = review(desk, "import", "review.csv", "--by", "ann")
    assert "WARNING" not in again.stdout


@pytest.mark.scripted
def test_the_labelling_config_and_the_tasks_of_label_studio(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "t.json", "--random", "0")
    config = (desk.folder / "t.config.xml").read_text()
    assert '<Choices name="response" toName="prompt" choice="single" showInline="true">' in config
    assert '<Choice value="yes"/>' in config
    first, *others = json.loads((desk.folder / "t.json").read_text())
    assert (first["data"]["row_id"], "predictions" in first) == ("r4", False)
    assert others[0]["data"] | {"row_key": ""} == {
        "run_id": run_id,
        "row_id": "r0",
        "row_key": "",
        "prompt": "r0 answer yes",
        "random": False,
        "reason": "no doubt known",
    }
    assert others[0]["predictions"] == [
        {
            "model_version": "fake/echo",
            "result": [
                {
                    "id": "answer-response",
                    "from_name": "response",
                    "to_name": "prompt",
                    "type": "choices",
                    "value": {"choices": ["yes"]},
                }
            ],
        }
    ]


@pytest.mark.scripted
def test_rows_that_do_not_fit_are_listed_and_nothing_is_imported(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv")
    edit_csv(desk.folder / "review.csv", {"r1": " Yes"})
    with (desk.folder / "review.csv").open("a") as file:
        file.write(f"{run_id},nobody,,,yes,,false,\n")
    refused = review(desk, "import", "review.csv", code=2)
    assert (
        "row 'r1': 'Yes' is none of yes, no; did you mean 'yes'? Only case or spaces differ" in refused.stderr
    )
    assert f"row 'nobody': run {run_id} has no such row" in refused.stderr
    assert "nothing was imported" in refused.stderr
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
        assert ledger.execute("select count(*) from answer_reviews").fetchone() == (0,)
    partly = review(desk, "import", "review.csv", "--skip-bad", "--by", "ann", code=1)
    assert "3 confirmed, 0 corrected, 1 left" in partly.stdout
    assert "not imported: row 'r1': 'Yes' is none of yes, no; did you mean 'yes'?" in partly.stdout


FAULTS = [
    ("export nothing -o a.csv", "there is no run nothing"),
    ("export RUN -o a.txt", "unknown suffix; use .json, .csv, .xlsx"),
    ("export RUN -o a.csv --format xlsx", "--format xlsx: the name of the file must end with .xlsx"),
    ("export RUN -o a.csv --random 20", "--random: 20 is not a share from 0 to 1"),
    ("export RUN -o a.csv --limit 0", "--limit: 0 is not at least 1"),
    ("import in.csv", "no column 'row_id'"),
    ("import ids.csv", "its rows name no run; give RUN_ID"),
    ("import ids.csv RUN", "no column 'answer' with answers"),
    ("import other.json", "neither tasks of Label Studio nor records of Argilla"),
    ("import broken.json", "not JSON"),
    ("import missing.csv", "missing.csv"),
]


@pytest.mark.slow
@pytest.mark.scripted
def test_faults_are_one_line(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    desk.write_csv("ids.csv", [{"row_id": "r0"}])
    (desk.folder / "other.json").write_text('[{"text": "a"}]')
    (desk.folder / "broken.json").write_text("[{")
    for command, fault in FAULTS:
        action, *arguments = command.replace("RUN", run_id).split()
        assert fault in review(desk, action, *arguments, code=2).stderr, command


# The kinds that a model can answer; tests/unit/test_review_files.py has more.
HOSTILE = [
    *("=1+1", "'=1+1", "a \"b\" 'c', d;e\tf", "one\ntwo\r\nthree\rfour", "  a  ", "007", "-5", "[1, 2]"),
    '<Choice value="x"/> & ${prompt} _x0041_',
]


@pytest.mark.slow
@pytest.mark.scripted
def test_hostile_texts_stay_as_they_are(desk: Desk) -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "note": {"type": ["integer", "null"]}},
        "required": ["text"],
    }
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    for number, text in enumerate(HOSTILE):
        desk.provider.on(f"h{number}:", Reply(text=json.dumps({"text": text, "note": number or None})))
    desk.write_csv("in.csv", [{"id": f"={at}", "prompt": f"h{at}: =1+1"} for at in range(len(HOSTILE))])
    command = ("in.csv", "-o", "out.jsonl", "--id-column", "id", "--schema", "schema.json", "--json")
    ran = desk.annotate(*command)
    assert ran.code == 0, ran.stderr
    before = outcomes(desk)
    assert [answer["text"] for _, answer in before] == HOSTILE
    for name, (target, _, _) in FORMATS.items():
        review(desk, "export", ran.summary["run_id"], "-o", f"{name}-{target[1]}", *target[2:])
        if target[1].endswith("json"):
            confirm(desk.folder / f"{name}-{target[1]}")
    for name, (target, _, _) in FORMATS.items():
        imported = review(desk, "import", f"{name}-{target[1]}", "--by", name, "--json").summary
        assert imported["rows"] == {"confirmed": len(HOSTILE), "corrected": 0, "left": 0}, name
        assert outcomes(desk) == before


def outcomes(desk: Desk) -> list[Any]:
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
        found = ledger.execute("select row_id, structured from rows order by run_id, position").fetchall()
    return [(row_id, json.loads(structured)) for row_id, structured in found]


def confirm(path: Path) -> None:
    """Submit each prediction and each suggestion as it is."""
    records = json.loads(path.read_text())
    for record in records:
        if "data" in record:
            record["annotations"] = [{"result": record["predictions"][0]["result"], "completed_by": 1}]
        else:
            record["responses"] = {
                name: [{"value": one["value"], "user_id": "u"}] for name, one in record["suggestions"].items()
            }
            record["status"] = "completed"
    path.write_text(json.dumps(records))


@pytest.mark.slow
@pytest.mark.scripted
def test_examples_from_reviews(desk: Desk) -> None:
    none = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, "--examples", "reviewed")
    assert (none.code, "no person has answered rows" in none.stderr) == (2, True)
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv")
    edit_csv(desk.folder / "review.csv", CORRECTED)
    review(desk, "import", "review.csv")
    rows = [{"id": f"n{at}", "prompt": f"new {at} answer yes"} for at in range(2)]
    desk.write_csv(
        "in.csv", [*rows, {"id": "r1", "prompt": "r1 answer yes"}, {"id": "r4", "prompt": "refused"}]
    )
    sent = len(desk.provider.calls)
    found = annotate(desk, "--examples", "reviewed", code=1)
    # A row that a person answered takes that answer, and its prompt is no example for itself.
    assert found["rows"]["reused"] == 1
    calls = desk.provider.calls[sent:]
    assert sorted(call.prompt for call in calls) == ["new 0 answer yes", "new 1 answer yes", "refused"]
    assert all("Prompt:\nr1 answer yes\n\nAnswer:\nno" in call.system for call in calls)
    assert calls[0].system.index("answer yes") < calls[0].system.index("answer no")
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
        saved = ledger.execute("select parameters from runs where run_id = ?", [found["run_id"]]).fetchone()
    assert json.loads(saved[0])["command"]["examples"].startswith("reviewed@")
    # The same examples give the same keys.
    again = annotate(desk, "--examples", json.loads(saved[0])["command"]["examples"], code=1)
    assert again["rows"]["reused"] == 3


@pytest.mark.slow
@pytest.mark.scripted
def test_answers_without_examples_are_not_measured_with_those_that_have_examples(desk: Desk) -> None:
    human = {"r0": "yes", "r1": "no", "r2": "no", "r3": "yes", "r5": "yes"}
    desk.write_csv("in.csv", [row | {"human": human.get(row["id"], "")} for row in desk.read_csv("in.csv")])
    run_id = annotate(desk, "--gold", "human", code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv", "--random", "0")
    edit_csv(desk.folder / "review.csv", CORRECTED | {"r0": "", "r2": "", "r3": "yes", "r4": ""})
    review(desk, "import", "review.csv", "--by", "ann")
    # The settings are the same: the model gave these answers.
    same = annotate(desk, "--gold", "human", code=1)["quality"]["response"]
    assert (same["n"], same["left_out"], same["accuracy"]) == (5, 0, 0.6)

    with_examples = annotate(desk, "--gold", "human", "--examples", "reviewed", code=1)
    found = with_examples["quality"]["response"]
    assert (found["n"], found["left_out"], found["unanswered"], found["accuracy"]) == (3, 2, 0, 1)
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    shown = desk.run("show", with_examples["run_id"], *ledger).stdout
    assert "over 3 rows, 2 left out, which a person answered and this run did not send" in shown
    compared = desk.run("compare", run_id, with_examples["run_id"], "--json", *ledger).summary
    assert compared["fields"]["response"]["n"] == 3
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as opened:
        by_run = opened.execute(
            "select answered_rows, unanswered_rows, correct_rows from quality_by_run where run = ?",
            [with_examples["run_id"]],
        )
        assert by_run.fetchall() == [(3, 0, 3)]


@pytest.mark.slow
@pytest.mark.scripted
def test_a_review_is_undone_by_its_row(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv", "--random", "0")
    edit_csv(desk.folder / "review.csv", CORRECTED)
    review(desk, "import", "review.csv", "--by", "ann")
    undone = review(desk, "undo", run_id, "r1")
    assert undone.stdout == f"row r1 of run {run_id} is completed again: yes\n"
    # The row with the same prompt is restored too.
    found = review(desk, "undo", run_id, "r0", "--json").summary
    assert found == {
        "run_id": run_id,
        "row_id": "r0",
        "status": "completed",
        "response": "yes",
        "structured": "yes",
        "answered_by": None,
    }
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    desk.run("export", run_id, "-o", "again.csv", "--input", "in.csv", *ledger)
    rows = {row["id"]: row for row in desk.read_csv("again.csv")}
    assert [rows[name]["answered_by"] for name in ("r0", "r1", "r2", "r5")] == ["", "", "ann", ""]
    for arguments, message in (
        ((run_id, "r1"), f"no person has answered row 'r1' of run {run_id}"),
        ((run_id, "none"), f"run {run_id} has no row 'none'"),
        (("nothing", "r1"), "there is no run nothing in this ledger"),
    ):
        refused = review(desk, "undo", *arguments, code=2)
        assert (message in refused.stderr, refused.stdout) == (True, ""), refused.stderr
    # A row that took the answer names the row where a person gave it.
    other = annotate(desk, code=1)["run_id"]
    refused = review(desk, "undo", other, "r2", code=2)
    assert f"opencode-tasks review undo {run_id} r2" in refused.stderr


@pytest.mark.scripted
def test_a_file_that_was_imported_before_changes_no_newer_review(desk: Desk) -> None:
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv")
    edit_csv(desk.folder / "review.csv", CORRECTED)
    review(desk, "import", "review.csv", "--by", "ann")
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        record_reviews(ledger, run_id, [PersonAnswer(row_id="r1", answer="yes", answered_by="bob")])
    # The file has grown since.
    edit_csv(desk.folder / "review.csv", CORRECTED | {"r4": "no"})
    ran = review(desk, "import", "review.csv", "--by", "ann")
    assert "1 row reviewed again since an earlier import: not changed" in ran.stdout
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        found = {one.row_id: (one.answer, one.answered_by) for one in ledger.reviews.of_run(run_id)}
    assert (found["r1"], found["r4"]) == (("yes", "bob"), ("no", "ann"))


@pytest.mark.scripted
def test_records_of_argilla_that_nobody_submitted_are_left(desk: Desk) -> None:
    """The page of Argilla sends the suggestions with a discard, and an export does not say so."""
    run_id = annotate(desk, code=1)["run_id"]
    review(desk, "export", run_id, "-o", "review.json", "--format", "argilla")
    edit_argilla(desk.folder / "review.json", CORRECTED)
    records = json.loads((desk.folder / "review.json").read_text())
    for record in records:
        if record["metadata"]["row_id"] != "r1":
            record["status"] = "pending"
    (desk.folder / "review.json").write_text(json.dumps(records))
    assert review(desk, "import", "review.json", "--json").summary["rows"] == {
        "confirmed": 0,
        "corrected": 1,
        "left": 4,
    }


@pytest.mark.slow
@pytest.mark.scripted
def test_a_csv_file_that_was_saved_as_xlsx_is_the_same(desk: Desk) -> None:
    for number, text in enumerate(("=1+1", "'=1+1", "-5 or 6")):
        desk.provider.on(f"h{number}:", Reply(text=text))
    desk.write_csv("in.csv", [{"id": f"={at}", "prompt": f"h{at}: x"} for at in range(3)])
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", "--json")
    run_id = ran.summary["run_id"]
    review(desk, "export", run_id, "-o", "review.csv")
    content = (desk.folder / "review.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    save_as_xlsx(desk.folder / "review.csv")
    assert review(desk, "import", "review.xlsx", "--json").summary["rows"] == {
        "confirmed": 3,
        "corrected": 0,
        "left": 0,
    }
    # In the encoding of a spreadsheet of another country.
    (desk.folder / "other.csv").write_bytes(content.decode("utf-8-sig").replace("x", "é").encode("cp1252"))
    refused = review(desk, "import", "other.csv", code=2)
    assert "--encoding" in refused.stderr
    review(desk, "import", "other.csv", "--encoding", "cp1252", "--by", "bob")


def save_as_xlsx(path: Path) -> None:
    """Save a CSV file as a spreadsheet does that takes all cells as texts."""
    book = openpyxl.Workbook()
    sheet: Any = book.active
    with path.open(encoding="utf-8-sig", newline="") as file:
        for at, cells in enumerate(csv.reader(file), start=1):
            for column, text in enumerate(cells, start=1):
                if text:
                    cell = sheet.cell(at, column, text)
                    cell.data_type = "s"
    book.save(path.with_suffix(".xlsx"))


@pytest.mark.scripted
def test_an_id_that_a_spreadsheet_changed_to_another_one_is_refused(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"id": "007", "prompt": "a answer yes"}, {"id": "7", "prompt": "b answer no"}])
    run_id = annotate(desk)["run_id"]
    review(desk, "export", run_id, "-o", "review.csv")
    path = desk.folder / "review.csv"
    path.write_text(path.read_text().replace(",007,", ",7,"))
    refused = review(desk, "import", "review.csv", code=2)
    assert "row '7': its row_key is that of another row" in refused.stderr


@pytest.mark.scripted
def test_reviews_do_not_change_the_accuracy_on_known_labels(desk: Desk) -> None:
    """A resume measures it again, for --min-accuracy; rows are reviewed because they are doubtful."""
    lines = [f"r{at},r{at} answer yes,{'yes' if at < 3 else ''}\n" for at in range(5)]
    (desk.folder / "in.csv").write_text("".join(["id,prompt,label\n", *lines]))
    run_id = annotate(desk, "--gold", "label", "--min-accuracy", "0.9")["run_id"]
    review(desk, "export", run_id, "-o", "review.csv")
    edit_csv(desk.folder / "review.csv", {"r3": "no", "r4": "no"})
    review(desk, "import", "review.csv")
    known = GoldField(field="response", column="label", kind="label", types=None, labels=("yes", "no"))
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        [found] = measure_quality(ledger, run_id, [known])
    assert (found.n, found.correct) == (3, 3)


@pytest.mark.slow
@pytest.mark.scripted
def test_a_run_with_reviewed_examples_is_resumed_after_a_new_review(desk: Desk) -> None:
    first = annotate(desk, code=1)["run_id"]
    desk.write_csv("in.csv", [{"id": f"n{at}", "prompt": f"new {at}"} for at in range(2)])
    refusal = Reply(status=401, body={"error": {"message": "no"}})
    desk.provider.on("new", refusal, refusal, Reply(text="yes"))
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        record_reviews(ledger, first, [PersonAnswer(row_id="r1", answer="no", answered_by="ann")])
        paused = annotate(desk, "--examples", "reviewed", "--concurrency", "1", code=75)
        record_reviews(ledger, first, [PersonAnswer(row_id="r1", answer="yes", answered_by="bob")])
    sent = len(desk.provider.calls)
    resumed = desk.run("resume", paused["run_id"], "--ledger", str(desk.folder / "ledger.db"))
    assert resumed.code == 0, resumed.stderr
    assert all("Prompt:\nr1 answer yes\n\nAnswer:\nno" in call.system for call in desk.provider.calls[sent:])


@pytest.mark.scripted
@pytest.mark.slow
def test_a_reviewed_row_takes_its_answer_after_a_review_under_another_system_text(desk: Desk) -> None:
    runs = [annotate(desk, code=1), annotate(desk, "--system", "Judge.", code=1)]
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        for run in runs:
            record_reviews(ledger, run["run_id"], [PersonAnswer(row_id="r1", answer="no", answered_by="ann")])
    sent = len(desk.provider.calls)
    annotate(desk, "--examples", "reviewed", code=1)
    assert "r1 answer yes" not in [call.prompt for call in desk.provider.calls[sent:]]
