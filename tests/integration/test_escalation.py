"""``--escalate-to``: rows with a low agreement or confidence go to a stronger model."""

from __future__ import annotations

import json

import pytest
from cluster import Desk

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Call, Reply
from opencode_tasks.view.row_story import row_story
from opencode_tasks.view.run_view import run_view

STRONG = {
    "name": "strong",
    "cost": {"input": 10.0, "output": 20.0},
    "limit": {"context": 100_000, "output": 4096},
}


@pytest.fixture
def desk_with_models(desk: Desk) -> Desk:
    desk.provider.models["strong"] = STRONG

    def is_strong(call: Call) -> bool:
        return call.model == "strong"

    desk.provider.on(is_strong, Reply(text="no", input_tokens=100, output_tokens=10))
    return desk


def story_of_votes(desk: Desk, run_id: str, row_id: str) -> list[str]:
    """The first column of the table of votes on the page of a row."""
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        columns, found = ledger.row_list.run(run_id), ledger.results.row(run_id, row_id)
        assert columns is not None
        assert found is not None
        story = row_story(found, [], [], run_view(columns, has_gold=False, error_types=()))
    [votes] = [section for section in story.sections if section.title == "Votes"]
    return [line[0] for line in votes.blocks[0].lines[1:]]


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
def test_rows_whose_votes_differ_go_to_the_stronger_model(desk_with_models: Desk) -> None:
    desk = desk_with_models
    desk.provider.on("clear", Reply(text="yes"))
    desk.provider.on("unsure", Reply(text="yes"), Reply(text="no"), Reply(text="yes"))
    rows = [("a", "clear one", "yes"), ("b", "unsure two", "no"), ("c", "clear 3", "yes"), ("d", "", "no")]
    desk.write_csv("in.csv", [{"id": i, "prompt": p, "human": h} for i, p, h in rows])
    arguments = (
        *("in.csv", "-o", "out.csv", "--id-column", "id", "--choices", "yes,no", "--votes", "3"),
        *("--escalate-to", "fake/strong", "--gold", "human", "--bad-rows", "fail", "--json"),
    )
    ran = desk.annotate(*arguments)
    assert ran.code == 1, ran.stderr
    output = {row["id"]: row for row in desk.read_csv("out.csv")}
    assert [output[name]["response"] for name in "abc"] == ["yes", "no", "yes"]
    assert [output[name]["escalated"] for name in "abc"] == ["False", "True", "False"]
    assert output["b"]["model_ref"] == "fake/strong"
    assert (json.loads(output["b"]["votes"]), output["b"]["needs_review"]) == (["yes", "no", "yes"], "False")
    assert (output["d"]["status"], output["d"]["escalated"]) == ("failed", "")
    strong = [call for call in desk.provider.calls if call.model == "strong"]
    assert [call.prompt for call in strong] == ["unsure two"]
    run_id = ran.summary["run_id"]
    shown = desk.run("show", run_id, "b", "--ledger", str(desk.folder / "ledger.db")).stdout
    answers = [line for line in shown.splitlines() if line.startswith(("--- vote", "--- stronger"))]
    assert [line.partition(":")[0] for line in answers] == [
        *("--- vote 1", "--- vote 2", "--- vote 3", "--- stronger model")
    ]
    assert story_of_votes(desk, run_id, "b") == [*("vote 1", "vote 2", "vote 3", "stronger model")]
    escalation = ran.summary["escalation"]
    assert (escalation["rows"], escalation["answered"]) == (1, 1)
    assert escalation["cost_usd"] == pytest.approx(100 * 10e-6 + 10 * 20e-6)
    assert escalation["accuracy_before"] == {"response": pytest.approx(2 / 3)}
    assert ran.summary["quality"]["response"]["accuracy"] == 1.0
    votes = ran.summary["votes"]
    assert (votes["asked"], votes["saved"]) == (7, 2)
    charged = sum(
        call.input_tokens * (10e-6 if call.model == "strong" else 1e-6)
        + call.output_tokens * (20e-6 if call.model == "strong" else 2e-6)
        for call in desk.provider.calls
    )
    assert ran.summary["cost_usd"] == pytest.approx(charged)
    exported = desk.folder / "again.csv"
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    assert desk.run("export", ran.summary["run_id"], "-o", str(exported), *ledger).code == 0
    assert exported.read_text() == (desk.folder / "out.csv").read_text()
    # Nothing is paid for twice.
    before = len(desk.provider.calls)
    assert desk.annotate(*arguments).code == 1
    assert len(desk.provider.calls) == before


@pytest.mark.slow
@pytest.mark.scripted
def test_rows_with_a_low_confidence_or_no_answer_go_to_the_stronger_model(desk: Desk) -> None:
    desk.provider.models["strong"] = STRONG

    def answer(label: str, confidence: float) -> str:
        return json.dumps({"label": label, "confidence": confidence})

    def on(model: str, word: str, reply: Reply) -> None:
        desk.provider.on(lambda call: call.model == model and word in call.prompt, reply)

    on("echo", "clear", Reply(text=answer("yes", 0.95)))
    on("echo", "doubtful", Reply(text=answer("yes", 0.4)))
    on("echo", "broken", Reply(text="no JSON at all"))
    on("echo", "stubborn", Reply(text=answer("yes", 0.1)))
    on("echo", "percent", Reply(text=answer("yes", 95)))
    on("strong", "stubborn", Reply(status=400, body={"error": {"message": "no such option"}}))
    on("strong", "", Reply(text=answer("no", 0.99)))
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["yes", "no"]}, "confidence": {"type": "number"}},
        "required": ["label", "confidence"],
    }
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    words = ["clear", "doubtful", "broken", "stubborn", "percent"]
    desk.write_csv("in.csv", [{"prompt": f"{word} row"} for word in words])
    ran = desk.annotate(
        *("in.csv", "-o", "out.csv", "--schema", "schema.json", "--confidence", "confidence"),
        *("--escalate-to", "fake/strong", "--max-repairs", "0", "--json"),
    )
    assert ran.code == 0, ran.stderr
    output = desk.read_csv("out.csv")
    assert [row["label"] for row in output] == ["yes", "no", "no", "yes", "no"]
    assert [row["escalated"] for row in output] == ["False", "True", "True", "False", "True"]
    assert "agreement" not in output[0]
    assert (ran.summary["escalation"]["rows"], ran.summary["escalation"]["answered"]) == (4, 3)
    assert ran.summary["votes"] is None


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize(
    ("more", "escalated"),
    [
        ((), ["differ", "unsure"]),
        (("--escalate-below", "0.6"), ["unsure"]),
    ],
)
def test_rows_whose_votes_differ_are_escalated_although_the_answers_state_a_high_confidence(
    desk: Desk, more: tuple[str, ...], escalated: list[str]
) -> None:
    desk.provider.models["strong"] = STRONG

    def on(word: str, *answers: tuple[str, float]) -> None:
        replies = [Reply(text=json.dumps({"label": label, "sure": sure})) for label, sure in answers]
        desk.provider.on(lambda call: call.model == "echo" and word in call.prompt, *replies)

    on("agree", ("yes", 0.9), ("yes", 0.9))
    on("differ", ("yes", 0.9), ("no", 0.9), ("yes", 0.9))
    on("unsure", ("yes", 0.5), ("yes", 0.9))
    desk.provider.on(lambda call: call.model == "strong", Reply(text='{"label": "no", "sure": 1}'))
    properties = {"label": {"enum": ["yes", "no"]}, "sure": {"type": "number"}}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    (desk.folder / "schema.json").write_text(json.dumps(schema))
    desk.write_csv("in.csv", [{"prompt": word} for word in ("agree", "differ", "unsure")])
    ran = desk.annotate(
        *("in.csv", "-o", "out.csv", "--schema", "schema.json", "--votes", "3", "--confidence", "sure"),
        *("--escalate-to", "fake/strong", *more),
    )
    assert ran.code == 0, ran.stderr
    found = [row["prompt"] for row in desk.read_csv("out.csv") if row["escalated"] == "True"]
    assert found == escalated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        pytest.param(options, fault, marks=pytest.mark.scripted)
        for options, fault in (
            (("--escalate-to", "fake/strong"), "--escalate-to: say which rows: give --votes N"),
            (("--escalate-below", "0.5"), "--escalate-below: nothing is escalated without --escalate-to"),
            (
                ("--votes", "3", "--escalate-to", "fake/strong", "--escalate-below", "2"),
                "--escalate-below: 2 is not a share",
            ),
            (
                ("--choices", "yes,no", "--escalate-to", "fake/strong", "--confidence", "sure"),
                "--confidence: the answer has no field 'sure'; it has no fields",
            ),
            (
                ("--schema", "label.json", "--escalate-to", "fake/strong", "--confidence", "label"),
                "--confidence: the field 'label' is no number (string)",
            ),
        )
    ]
    + [
        pytest.param(
            ("--votes", "3", "--escalate-to", "fake/absent"),
            "--escalate-to: provider 'fake' has no model 'absent'",
        )
    ],
)
def test_an_escalation_that_cannot_be_made_is_refused(
    desk_with_models: Desk, options: tuple[str, ...], fault: str
) -> None:
    desk = desk_with_models
    desk.write_csv("in.csv", [{"prompt": "row"}])
    label = {"type": "object", "properties": {"label": {"enum": ["yes", "no"]}}, "required": ["label"]}
    (desk.folder / "label.json").write_text(json.dumps(label))
    ran = desk.annotate("in.csv", "-o", "out.csv", *options)
    assert (ran.code, fault in ran.stderr, desk.provider.calls) == (2, True, []), ran.stderr
