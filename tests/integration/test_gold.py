"""Quality of answers measured with known values, on the command line, in Python and in the ledger."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from cluster import Desk

from opencode_tasks import LowAccuracyError, annotate
from opencode_tasks.testing import Reply

# Gold label, answer of the model.
CASES = [("positive", "positive")] * 12 + [("negative", "negative")] * 4 + [("negative", "positive")] * 4


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.provider.on(lambda call: "answer positive" in call.prompt, Reply(text="positive"))
    desk.provider.on(lambda call: "answer negative" in call.prompt, Reply(text="negative"))
    desk.provider.on(lambda call: "fail" in call.prompt, Reply(status=400, body={"error": {"message": "no"}}))
    desk.write_csv(
        "in.csv",
        [
            *(
                {"prompt": f"{i}: answer {answer}", "human": gold, "nothing": ""}
                for i, (gold, answer) in enumerate(CASES)
            ),
            {"prompt": "20: answer positive", "human": "", "nothing": ""},
            {"prompt": "21: fail", "human": "positive", "nothing": ""},
        ],
    )
    return desk


LABELS = ("in.csv", "-o", "out.csv", "--choices", "positive,negative", "--gold", "human")


@pytest.mark.scripted
def test_accuracy_of_labels(desk: Desk) -> None:
    ran = desk.annotate(*LABELS, "--json")
    assert ran.code == 1, "a row failed"
    quality = ran.summary["quality"]["response"]
    assert (quality["n"], quality["unanswered"], quality["accuracy"]) == (20, 1, 0.8)
    assert quality["low"] == pytest.approx(0.584, abs=1e-3)
    assert quality["high"] == pytest.approx(0.919, abs=1e-3)
    # Rows negative, positive by columns negative, positive.
    assert quality["confusion"] == [[4, 4], [0, 12]]
    assert {c["label"]: round(c["recall"], 3) for c in quality["classes"]} == {
        "negative": 0.5,
        "positive": 1.0,
    }
    assert all("human" not in call.prompt + call.system for call in desk.provider.calls)
    planned = desk.annotate(*LABELS, "--dry-run", "--refresh").stdout
    assert f"--- system text\n{desk.provider.calls[0].system}\n--- prompt of row 0\n" in planned
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
        by_run = ledger.execute("select field, answered_rows, unanswered_rows, accuracy from quality_by_run")
        assert by_run.fetchall() == [("response", 20, 1, 0.8)]
        by_model = ledger.execute("select correct_rows from quality_by_model").fetchall()
        assert sum(count for (count,) in by_model) == 16


@pytest.mark.scripted
def test_answers_that_are_all_the_same_are_named(desk: Desk) -> None:
    desk.write_csv("in.csv", [row for row in desk.read_csv("in.csv") if "answer positive" in row["prompt"]])
    shown = desk.annotate(*LABELS).stdout
    assert "kappa 0.00\n  all 16 answers are 'positive': they say nothing about the rows\n" in shown
    desk.write_csv("in.csv", desk.read_csv("in.csv")[:12])
    assert "answers are 'positive'" not in desk.annotate(*LABELS).stdout


@pytest.mark.slow
@pytest.mark.scripted
def test_an_answer_counts_once_for_its_model_however_often_it_is_reused(desk: Desk) -> None:
    few = (*LABELS, "--limit", "20", "--json")
    desk.annotate("in.csv", "-o", "out.csv", "--choices", "positive,negative", "--limit", "20")
    counts: list[tuple[int, int]] = []
    for more in ((), ("--votes", "2"), ("--refresh",)):
        ran = desk.annotate(*few, *more)
        assert ran.summary["quality"]["response"]["n"] == 20
        with closing(sqlite3.connect(desk.folder / "ledger.db")) as ledger:
            found = ledger.execute("select answered_rows, correct_rows from quality_by_model").fetchall()
        counts += found
    # Only --refresh has other answers. The first run had no gold values.
    assert counts == [(20, 16), (20, 16), (40, 32)]
    page = desk.run("report", "--html", "r.html", "--ledger", str(desk.folder / "ledger.db"))
    assert page.code == 0, page.stderr
    assert 'data-title="rows">40<' in (desk.folder / "r.html").read_text()


@pytest.mark.scripted
def test_the_summary_for_people_and_a_required_accuracy(desk: Desk) -> None:
    ran = desk.annotate(*LABELS, "--limit", "20", "--min-accuracy", "0.9")
    assert ran.code == 1
    assert "accuracy of response is 80 %, and --min-accuracy requires 90 %" in ran.stderr
    assert "quality of response: accuracy 80.0% (58.4% to 91.9%) over 20 rows" in ran.stdout
    table = [line.split() for line in ran.stdout.splitlines() if line.startswith("  ")]
    assert table[0] == ["known", "\\", "answer", "negative", "positive", "recall", "precision"]
    assert [line[0] for line in table[1:]] == ["negative", "positive"]
    assert [line[1:] for line in table[1:]] == [["4", "4", "50.0%", "100.0%"], ["0", "12", "100.0%", "75.0%"]]
    assert len(desk.read_csv("out.csv")) == 20
    assert desk.annotate(*LABELS, "--limit", "20", "--min-accuracy", "0.8").code == 0


@pytest.mark.slow
@pytest.mark.scripted
def test_a_run_is_shown_with_its_quality_by_a_short_name(desk: Desk) -> None:
    run_id = desk.annotate(*LABELS, "--json").summary["run_id"]
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    for name in (run_id, "newest", run_id[:-3]):
        shown = desk.run("show", name, *ledger)
        assert shown.code == 0, shown.stderr
        assert shown.stdout.startswith(f"run                {run_id}\n")
        assert "\ngold               human\n" in shown.stdout
        assert "1 without an answer (76.2% of 21 known)" in shown.stdout
        assert "\n  negative        4         4         50.0%   100.0%\n" in shown.stdout
    # What the model was told, with the instruction of --choices.
    row = json.loads(desk.run("show", run_id, "0", "--json", *ledger).stdout)["row"]
    assert row["system"] == desk.provider.calls[0].system
    assert row["system"].splitlines()[-1] in desk.run("show", run_id, "0", *ledger).stdout
    audited = desk.run("audit", "newest", "--json", *ledger)
    assert audited.summary["run_id"] == run_id
    desk.annotate(*LABELS, "--refresh", "--limit", "1")
    several = desk.run("show", "2", *ledger)
    assert (
        several.code,
        "RUN_ID: several runs begin with '2', name more of the id: 20" in several.stderr,
    ) == (2, True)
    assert "there is no run none" in desk.run("export", "none", "-o", "x.csv", *ledger).stderr


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--gold", "nobody"], "INPUT has no column 'nobody' (--gold). It has "),
        (["--gold", "prompt"], "--gold: the column 'prompt' is sent to the model"),
        (
            ["--gold", "human", "--template", "{prompt} {human}"],
            "--gold: the column 'human' is sent to the model",
        ),
        (["--gold", "label=human"], "--gold: the answer has no fields; write --gold human"),
        (["--min-accuracy", "0.9"], "--min-accuracy: no accuracy is measured without --gold COLUMN"),
        (["--gold", "human", "--min-accuracy", "90"], "--min-accuracy: 90 is not a share from 0 to 1"),
        (
            ["--gold", "human", "--choices", "Positive,Negative"],
            "--gold: column 'human' has values that no answer can have: 'positive' (13), 'negative' (8)",
        ),
        (["--gold", "nothing"], "--gold: column 'nothing' is empty, so no answer can be compared with it"),
    ],
)
def test_faults_are_found_before_a_prompt_is_sent(desk: Desk, options: list[str], fault: str) -> None:
    ran = desk.annotate("in.csv", "-o", "out.csv", *options)
    assert ran.code == 2
    assert fault in ran.stderr
    assert desk.provider.calls == []


@pytest.mark.scripted
def test_fields_of_a_schema(desk: Desk) -> None:
    schema = {
        "type": "object",
        "properties": {
            "label": {"enum": ["a", "b"]},
            "stars": {"type": "integer"},
            "why": {"type": "string"},
        },
        "required": ["label", "stars", "why"],
    }
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    answer = {"label": "a", "stars": 4, "why": "Slow delivery."}
    desk.provider.on("schema", Reply(text=json.dumps(answer)))
    desk.write_csv(
        "fields.csv",
        [
            {"prompt": "schema 1", "l": "a", "s": "5", "w": "slow delivery"},
            {"prompt": "schema 2", "l": "b", "s": "4", "w": "Rude staff"},
        ],
    )
    gold = ("--gold", "label=l", "--gold", "stars=s", "--gold", "why=w")
    arguments = ("fields.csv", "-o", "out.csv", "--schema", "schema.json")
    quality = desk.annotate(*arguments, *gold, "--json").summary["quality"]
    assert {name: found["accuracy"] for name, found in quality.items()} == {
        "label": 0.5,
        "stars": 0.5,
        "why": 0.5,
    }
    assert quality["stars"]["mae"] == 0.5
    assert quality["stars"]["classes"] == []
    unnamed = desk.annotate(*arguments, "--gold", "l")
    assert "the answer has the fields label, stars, why; name one: --gold label=l" in unnamed.stderr


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("kind", "gold", "answer", "accuracy", "fault"),
    [
        ("boolean", ["1", "0", "True"], True, 2 / 3, None),
        ("boolean", ["yes", "no", "no"], True, None, "the answers are true and false"),
        ("number", ["4", "NaN", "5.0"], 5, 0.5, None),
        ("number", ["1,5", "2", "n/a"], 5, None, "values that no answer can have: '1,5' (1), 'n/a' (1)"),
        ("integer", ["4", "4.5", "1e400"], 5, None, "'4.5' (1), 'inf' (1); the answers are whole numbers"),
        ("number", ["4", "9" * 5000], 5, None, f"'{'9' * 60}…' (1); the answers are numbers"),
        ("array", ['["a", "b"]', '["b"]'], ["a", "b"], 0.5, None),
        ("array", ["a; b", '["b"]'], ["a", "b"], None, "'a; b' (1); the answers are lists, such as"),
        ("null", ["a", "a", "b"], None, 0.0, None),
    ],
)
def test_gold_values_of_a_text_file_by_the_type_of_the_field(
    desk: Desk, kind: str, gold: list[str], answer: object, accuracy: float | None, fault: str | None
) -> None:
    field = {"enum": ["a", "b", None]} if kind == "null" else {"type": kind}
    schema = {"type": "object", "properties": {"value": field}, "required": ["value"]}
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    desk.provider.on("typed", Reply(text=json.dumps({"value": answer})))
    desk.write_csv("typed.csv", [{"prompt": f"typed {i}", "gold": value} for i, value in enumerate(gold)])
    ran = desk.annotate("typed.csv", "-o", "out.csv", "--schema", "schema.json", "--gold", "gold", "--json")
    if fault is not None:
        assert (ran.code, fault in ran.stderr) == (2, True), ran.stderr
        return
    assert ran.code == 0, ran.stderr
    assert ran.summary["quality"]["value"]["accuracy"] == pytest.approx(accuracy)


def test_quality_in_python(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["x", "y", "z"], "human": ["X ", "Y.", "q"]})
    result = annotate(frame, backend="null", gold=["human"], ledger=str(tmp_path / "ledger.db"))
    found = result.quality["response"]
    assert (found.kind, found.n, found.correct) == ("text", 3, 2)


def test_a_low_accuracy_fails_the_flow_after_the_output_is_written(
    tmp_path: Path, prefect_server: str
) -> None:
    from opencode_tasks import annotate_dataset

    del prefect_server
    pd.DataFrame({"prompt": ["x", "y"], "human": ["x", "n"]}).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(LowAccuracyError) as found:
        annotate_dataset(
            str(tmp_path / "in.csv"),
            str(tmp_path / "out.csv"),
            backend="null",
            runner="threads",
            gold=["human"],
            min_accuracy=0.9,
            ledger=str(tmp_path / "ledger.db"),
        )
    assert found.value.accuracy == 0.5
    assert pd.read_csv(tmp_path / "out.csv")["response"].tolist() == ["x", "y"]
