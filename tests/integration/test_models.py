"""Several models in one run: each answers each row, side by side, and the row takes the majority."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import Any

import pandas as pd
import psycopg
import pytest
from cluster import Desk, Ran

from opencode_tasks import annotate
from opencode_tasks.engine.review import PersonAnswer, record_reviews
from opencode_tasks.frames.io import read_input
from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply

MODELS = ("alpha", "beta", "gamma")
# USD per million tokens: each model has another price.
PRICES = {"alpha": 1.0, "beta": 2.0, "gamma": 4.0}
# What each model answers to a row, and the answer of most of them. Each is wrong on another row.
ANSWERS = {
    "row one": ("no", "yes", "yes"),
    "row two": ("no", "yes", "no"),
    "row three": ("yes", "yes", "no"),
    "row four": ("yes", "yes", "yes"),
}
MAJORITY = {"row one": "yes", "row two": "no", "row three": "yes", "row four": "yes"}
CHOICES = ("--choices", "yes,no,maybe")


def named(*models: str) -> list[str]:
    return [word for name in models for word in ("--model", f"fake/{name}")]


@pytest.fixture
def desk(desk: Desk) -> Desk:
    for number, name in enumerate(MODELS):
        price = PRICES[name]
        desk.provider.models[name] = {
            "name": name,
            "cost": {"input": price, "output": 2 * price},
            "limit": {"context": 100_000, "output": 4096},
        }
        for prompt, answers in ANSWERS.items():
            on(desk, name, prompt, Reply(text=answers[number], input_tokens=100, output_tokens=10))
    write(desk)
    return desk


def on(desk: Desk, model: str, prompt: str, *replies: Reply) -> None:
    desk.provider.on(lambda call: call.model == model and prompt in call.prompt, *replies)


def write(desk: Desk) -> None:
    rows = [{"id": f"r{n}", "prompt": one, "human": MAJORITY[one]} for n, one in enumerate(ANSWERS)]
    desk.write_csv("in.csv", rows)


def run(desk: Desk, *more: str, models: tuple[str, ...] = MODELS) -> Ran:
    return desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES, *named(*models), *more)


def ledger_of(desk: Desk) -> tuple[str, str]:
    return ("--ledger", str(desk.folder / "ledger.db"))


def charged(desk: Desk, model: str | None = None) -> float:
    calls = [call for call in desk.provider.calls if model in (None, call.model)]
    return sum(PRICES[call.model] * (call.input_tokens + 2 * call.output_tokens) * 1e-6 for call in calls)


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
def test_each_model_answers_each_row_and_the_row_takes_the_majority(desk: Desk) -> None:
    dry = run(desk, "--dry-run")
    assert "12 prompts (of 4 rows) would be sent to 3 models" in dry.stdout
    assert "4 of 4 rows would be sent to fake/beta" in dry.stdout
    assert desk.provider.calls == []
    ran = run(desk, "--gold", "human", "--json")
    assert ran.code == 0, ran.stderr
    output = {row["prompt"]: row for row in desk.read_csv("out.csv")}
    for prompt, answers in ANSWERS.items():
        row = output[prompt]
        assert tuple(row[f"response@fake/{name}"] for name in MODELS) == answers
        assert (row["response"], row["status"]) == (MAJORITY[prompt], "completed")
        assert json.loads(row["votes"]) == list(answers)
        assert float(row["agreement"]) == pytest.approx(answers.count(MAJORITY[prompt]) / 3)
        assert (row["needs_review"], row["attempts"]) == ("False", "3")
        costs = [float(row[f"cost_usd@fake/{name}"]) for name in MODELS]
        assert costs == pytest.approx([PRICES[name] * 120e-6 for name in MODELS])
        assert sum(costs) == pytest.approx(float(row["cost_usd"]))
        assert {row[f"status@fake/{name}"] for name in MODELS} == {"completed"}
    assert ran.summary["cost_usd"] == pytest.approx(charged(desk))
    found = {one["model"]: one for one in ran.summary["models"]}
    assert [*found] == [f"fake/{name}" for name in MODELS]
    for name, accuracy in zip(MODELS, (0.75, 0.75, 0.75), strict=True):
        one = found[f"fake/{name}"]
        assert (one["rows"], one["answered"], one["accuracy"]) == (4, 4, {"response": accuracy})
        assert one["cost_usd"] == pytest.approx(charged(desk, name))
        assert one["agreement"] == pytest.approx(0.75)
    assert ran.summary["quality"]["response"]["accuracy"] == 1.0
    votes = ran.summary["votes"]
    assert (votes["votes"], votes["asked"], votes["saved"], votes["ties"]) == (3, 12, 0, 0)
    assert "alpha" in votes
    assert "fake/gamma  4 of 4 rows  $0.00192" in ran.stderr
    with closing(sqlite3.connect(desk.folder / "ledger.db")) as database:
        by_model = database.execute(
            "select model, answered_rows, correct_rows from quality_by_model order by model"
        ).fetchall()
        by_run = database.execute("select run, correct_rows from quality_by_run").fetchall()
        costs = dict(database.execute("select model, cost_usd from cost_by_model").fetchall())
    assert by_model == [(f"fake/{name}", 4, 3) for name in MODELS]
    assert by_run == [(ran.summary["run_id"], 4)]
    assert costs == {f"fake/{name}": pytest.approx(charged(desk, name)) for name in MODELS}
    # Nothing is paid for twice: neither by the same run, nor by a run with one of the models.
    assert run(desk).code == 0
    assert run(desk, models=("beta",)).code == 0
    assert len(desk.provider.calls) == 12


@pytest.mark.scripted
@pytest.mark.slow
def test_a_model_that_is_refused_leaves_the_answers_of_the_others(desk: Desk) -> None:
    is_refused = True
    refused = Reply(status=401, body={"error": {"message": "bad key"}})
    # The first rule that matches decides, so this desk has a model without other rules.
    desk.provider.models["delta"] = desk.provider.models["beta"]
    desk.provider.on(lambda call: call.model == "delta" and is_refused, refused)
    on(desk, "delta", "", Reply(text="no", input_tokens=100, output_tokens=10))
    models = ("delta", "alpha", "gamma")
    held = run(desk, "--json", models=models)
    assert held.code == 75, held.stderr
    assert "authentication_failed" in held.stderr
    assert "fake/delta: " in held.stderr
    output = {row["prompt"]: row for row in desk.read_csv("out.csv")}
    for prompt, answers in ANSWERS.items():
        row = output[prompt]
        assert (row["status"], row["response"], row["response@fake/delta"]) == ("open", "", "")
        assert (row["response@fake/alpha"], row["response@fake/gamma"]) == (answers[0], answers[2])
    assert [one["answered"] for one in held.summary["models"]] == [0, 4, 4]
    is_refused = False
    before = len(desk.provider.calls)
    ended = desk.run("resume", *ledger_of(desk), "--json")
    assert ended.code == 0, ended.stderr
    assert ended.summary["run_id"] == held.summary["run_id"]
    assert {call.model for call in desk.provider.calls[before:]} == {"delta"}
    assert len(desk.provider.calls) == before + 4
    votes = [json.loads(row["votes"]) for row in desk.read_csv("out.csv")]
    assert votes == [["no", a, c] for a, _, c in ANSWERS.values()]
    answered = [call for call in desk.provider.calls if call.status == 200]
    assert len(answered) == 12


@pytest.mark.slow
@pytest.mark.scripted
def test_a_row_that_a_model_refuses_has_the_majority_of_the_others_and_a_tie_is_marked(desk: Desk) -> None:
    refused = Reply(status=400, body={"error": {"message": "no such option"}})
    desk.provider.models["picky"] = desk.provider.models["beta"]
    on(desk, "picky", "row one", refused)
    on(desk, "picky", "row two", Reply(text="maybe"))
    on(desk, "picky", "", Reply(text="no"))
    ran = run(desk, "--json", models=("alpha", "beta", "picky"))
    assert ran.code == 0, ran.stderr
    one, two, three, _ = desk.read_csv("out.csv")
    assert (one["status@fake/picky"], one["response@fake/picky"]) == ("failed", "")
    assert (one["response"], json.loads(one["votes"])) == ("no", ["no", "yes", None])
    assert (one["agreement"], one["needs_review"]) == ("0.5", "True")
    assert (two["response"], two["needs_review"]) == ("no", "True")
    assert float(two["agreement"]) == pytest.approx(1 / 3)
    assert (three["response"], three["needs_review"]) == ("yes", "False")
    assert [found["answered"] for found in ran.summary["models"]] == [4, 4, 3]
    assert ran.summary["votes"]["ties"] == 2
    # The answers that two models have given are those of another run with them, and the stronger one decides.
    more = ("--escalate-to", "fake/gamma", "--json")
    escalated = run(desk, *more, models=("beta", "alpha"))
    assert escalated.code == 0, escalated.stderr
    output = desk.read_csv("out.csv")
    assert [row["escalated"] for row in output] == ["True", "True", "False", "False"]
    assert [row["response"] for row in output] == ["yes", "no", "yes", "yes"]
    assert escalated.summary["escalation"]["rows"] == 2
    assert {call.model for call in desk.provider.calls[12:]} == {"gamma"}
    assert len(desk.provider.calls) == 14


@pytest.mark.scripted
@pytest.mark.slow
def test_the_budget_is_that_of_all_models_and_a_killed_run_is_resumed(desk: Desk) -> None:
    # A row of the third model may cost $0.0865, which does not fit beside the $0.00144 of the others.
    held = run(desk, "--json", "--max-cost", "0.087", "--concurrency", "1")
    assert held.code == 75, held.stderr
    assert "$0.00144 of $0.087 is spent" in held.stderr, held.stderr
    assert {call.model for call in desk.provider.calls} == {"alpha", "beta"}
    ended = desk.run("resume", *ledger_of(desk), "--max-cost", "1", "--json")
    assert ended.code == 0, ended.stderr
    assert len(desk.provider.calls) == 12
    assert ended.summary["budget"]["spent_usd"] == pytest.approx(charged(desk))
    # A run with new prompts is killed while the second model answers.
    desk.provider.models["slow"] = desk.provider.models["beta"]
    on(desk, "slow", "row two", Reply(text="yes", delay_s=30.0), Reply(text="yes"))
    on(desk, "slow", "", Reply(text="yes"))
    before = len(desk.provider.calls)
    arguments = desk.arguments(
        *("in.csv", "-o", "out.csv", "--id-column", "id", *CHOICES),
        *(*named("alpha", "slow", "gamma"), "--template", "Again: {prompt}"),
    )
    with desk.start(*arguments) as process:
        deadline = time.monotonic() + 200
        while sum(call.model == "slow" for call in desk.provider.calls) < 4:
            assert time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        time.sleep(1.0)
        process.kill()
        process.communicate(timeout=30)
    again = desk.run("resume", *ledger_of(desk), "--json")
    assert again.code == 0, again.stderr
    sent = Counter((call.model, call.prompt.partition("Again: ")[2]) for call in desk.provider.calls[before:])
    twice = {pair for pair, count in sent.items() if count > 1}
    assert twice <= {("slow", "row two")}
    assert set(sent) == {(model, row) for model in ("alpha", "slow", "gamma") for row in ANSWERS}
    shown = json.loads(desk.run("show", again.summary["run_id"], "--json", *ledger_of(desk)).stdout)
    assert [one["title"] for one in shown["parts"]] == ["fake/alpha", "fake/slow", "fake/gamma"]


@pytest.mark.scripted
@pytest.mark.slow
def test_readers_show_the_models_of_a_run(desk: Desk) -> None:
    ran = run(desk, "--json")
    run_id, ledger = ran.summary["run_id"], ledger_of(desk)
    listed = desk.run("runs", *ledger).stdout
    assert "fake/alpha, fake/beta, fake/gamma" in " ".join(listed.split())
    shown = desk.run("show", run_id, "r0", *ledger).stdout
    assert "--- fake/beta: completed" in shown
    audited = desk.run("audit", run_id, "--json", *ledger)
    assert (audited.code, audited.summary["faults"]) == (0, []), audited.stderr
    exported = desk.folder / "again.csv"
    assert desk.run("export", run_id, "-o", str(exported), *ledger).code == 0
    assert exported.read_text() == (desk.folder / "out.csv").read_text()
    assert desk.run("view", run_id, "--export", str(desk.folder / "page"), *ledger).code == 0
    page = "".join(path.read_text() for path in (desk.folder / "page").rglob("*") if path.is_file())
    assert "fake/alpha, fake/beta, fake/gamma" in page
    assert '"fake/beta"' in page
    report = json.loads(desk.run("report", "--by", "model", "--format", "json", *ledger).stdout)
    assert {line["model"]: line["rows"] for line in report} == {f"fake/{name}": 4 for name in MODELS}
    dry = run(desk, "--dry-run", "--json").summary
    assert (dry["send"], dry["reused"], dry["model_ref"]) == (0, 12, None)
    assert [(one["model"], one["send"], one["reused"]) for one in dry["models"]] == [
        (f"fake/{name}", 0, 4) for name in MODELS
    ]
    assert desk.run("purge", "--before", "2100-01-01", *ledger).code == 0
    assert desk.run("show", run_id, *ledger).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (named("alpha", "absent"), "no model 'absent'"),
        (named("alpha", "beta#none"), "model fake/beta has no variant 'none'"),
        pytest.param(
            (*named("alpha", "beta"), "--max-cost", "0.01"),
            "--max-cost: 0.01 is too small for any row of fake/beta",
            marks=pytest.mark.scripted,
        ),
    ],
)
def test_models_that_cannot_be_asked_are_refused(desk: Desk, options: tuple[str, ...], fault: str) -> None:
    ran = desk.annotate("in.csv", "-o", "out.csv", *options)
    assert (ran.code, fault in ran.stderr, desk.provider.calls) == (2, True, []), ran.stderr


@pytest.mark.scripted
@pytest.mark.slow
def test_a_column_of_the_input_may_not_have_the_name_of_one_of_a_model(desk: Desk) -> None:
    desk.write_csv("in.csv", [{"prompt": "row one", "response@fake/beta": "old"}])
    ran = desk.annotate("in.csv", "-o", "out.csv", *CHOICES, *named("alpha", "beta"))
    assert (ran.code, desk.provider.calls) == (2, [])
    assert "INPUT column 'response@fake/beta' has the name of a column that OUTPUT adds" in ran.stderr
    more = (*named("alpha", "beta"), "--column-prefix", "new_")
    assert desk.annotate("in.csv", "-o", "out.csv", *CHOICES, *more).code == 0
    [row] = desk.read_csv("out.csv")
    assert (row["response@fake/beta"], row["new_response@fake/beta"]) == ("old", "yes")


@pytest.mark.scripted
@pytest.mark.parametrize(
    "target",
    [
        "out.jsonl",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("out.parquet", "out.xlsx", "sql:answers")),
    ],
)
def test_the_columns_of_the_models_have_the_types_of_the_answer(desk: Desk, target: str) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["a", "b"]}, "stars": {"type": "integer"}},
        "required": ["label", "stars"],
    }
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    for number, name in enumerate(MODELS[:2]):
        text = json.dumps({"label": "ab"[number], "stars": number + 3})
        on(desk, name, "Rate:", Reply(text=text))
    desk.write_csv("in.csv", [{"id": "1", "text": "fine"}, {"id": "2", "text": "poor"}])
    database = f"sqlite:///{desk.folder / 'tables.db'}"
    ran = desk.annotate(
        *("in.csv", "-o", target, "--template", "Rate: {text}", "--schema", "schema.json"),
        *(*named("alpha", "beta"), "--incremental", "id", "--database", database, "--json"),
    )
    assert ran.code == 0, ran.stderr
    table = target if target.startswith("sql:") else str(desk.folder / target)
    frame = read_input(table, database=database)
    assert [name for name in frame.columns if "@" in name] == [
        *("label@fake/alpha", "label@fake/beta", "stars@fake/alpha", "stars@fake/beta"),
        *("status@fake/alpha", "status@fake/beta", "cost_usd@fake/alpha", "cost_usd@fake/beta"),
    ]
    assert frame["label@fake/beta"].tolist() == ["b", "b"]
    assert [int(one) for one in frame["stars@fake/alpha"]] == [3, 3]
    assert frame["needs_review"].astype(bool).tolist() == [True, True]
    assert set(ran.summary["votes"]["alpha"]) == {"label", "stars"}


@pytest.mark.slow
def test_python_takes_a_list_and_a_variant_is_a_model_of_its_own(desk: Desk) -> None:
    thinker = {"reasoning": True, "variants": {"high": {"reasoningEffort": "high"}}}
    desk.provider.models["alpha"] = {**desk.provider.models["alpha"], **thinker}
    desk.provider.on(
        lambda call: "Free" in call.prompt and call.body.get("reasoning_effort") == "high",
        Reply(text="Yes, it is."),
    )
    desk.provider.on("Free", Reply(text="yes it is"))
    options: dict[str, Any] = {
        "opencode_config": desk.provider.opencode_config(),
        "opencode_bin": str(desk.binary),
        "ledger": str(desk.folder / "ledger.db"),
    }
    frame = pd.DataFrame({"prompt": ["Free text"]})
    result = annotate(frame, model=["fake/alpha", "fake/alpha#high"], **options)
    row = result.frame.iloc[0]
    assert row["response@fake/alpha"] == "yes it is"
    assert row["response@fake/alpha#high"] == "Yes, it is."
    # Texts are compared without case, marks and spaces, as those of votes.
    assert (row["needs_review"], row["agreement"]) == (True, 0.5)
    assert [one.model for one in result.models] == ["fake/alpha", "fake/alpha#high"]
    assert len(result.cost) == 1
    # One model with its variant is the same row.
    alone = annotate(frame, model="fake/alpha#high", **options)
    assert alone.frame["response"].tolist() == ["Yes, it is."]
    same = annotate(frame, model="fake/alpha", variant="high", **options)
    assert (same.counts["completed"], len(desk.provider.calls)) == (1, 2)


@pytest.mark.scripted
@pytest.mark.slow
def test_the_answer_of_a_person_under_the_key_of_a_model_decides(desk: Desk) -> None:
    run_id = run(desk, "--json", models=("beta",)).summary["run_id"]
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        assert not record_reviews(
            ledger, run_id, [PersonAnswer(row_id="r1", answer="maybe", answered_by="ann")]
        )
    ran = run(desk, "--json", models=("alpha", "beta"))
    assert ran.code == 0, ran.stderr
    row = desk.read_csv("out.csv")[1]
    assert (row["response"], row["answered_by"], row["needs_review"]) == ("maybe", "ann", "False")


@pytest.mark.slow
@pytest.mark.scripted
def test_several_models_on_postgresql(desk: Desk, empty_postgresql: str) -> None:
    ran = run(desk, "--gold", "human", "--json", "--ledger", empty_postgresql, models=("alpha", "beta"))
    assert ran.code == 0, ran.stderr
    assert [one["accuracy"]["response"] for one in ran.summary["models"]] == [0.75, 0.75]
    assert desk.run("show", ran.summary["run_id"], "r0", "--ledger", empty_postgresql).code == 0
    report = desk.run("report", "--by", "model", "--format", "json", "--ledger", empty_postgresql)
    assert len(json.loads(report.stdout)) == 2
    with psycopg.connect(empty_postgresql.replace("+psycopg", "")) as connection:
        found = connection.execute("select model, correct_rows from quality_by_model order by model")
        assert found.fetchall() == [("fake/alpha", 3), ("fake/beta", 3)]


@pytest.mark.nightly
@pytest.mark.alone
def test_several_models_on_ray(ray_desk: Desk) -> None:
    for name in MODELS[:2]:
        ray_desk.provider.models[name] = ray_desk.provider.models["echo"]
    write(ray_desk)
    ran = ray_desk.annotate("in.csv", "-o", "out.csv", *named(*MODELS[:2]), "--json")
    assert ran.code == 0, ran.stderr
    assert Counter((call.model, call.prompt) for call in ray_desk.provider.calls) == Counter(
        (name, prompt) for name in MODELS[:2] for prompt in ANSWERS
    )
    assert [row["agreement"] for row in ray_desk.read_csv("out.csv")] == ["1"] * 4
