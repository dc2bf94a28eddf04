"""What is known before money is spent: the dry run, the pilot, the projected cost."""

from __future__ import annotations

import os
import re

import pytest
from cluster import LIMIT_S, Desk, read_all

from opencode_tasks.testing import Reply

ROWS = [{"id": f"r{i:02}", "prompt": f"Row number {i} of the pilot"} for i in range(40)]
PILOT = ("in.csv", "-o", "out.csv", "--id-column", "id", "--pilot", "10")


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.provider.on("Row number", Reply(output_tokens=20))
    desk.write_csv("in.csv", ROWS)
    return desk


@pytest.mark.scripted
def test_a_dry_run_shows_prompts_and_an_estimate_without_a_call(desk: Desk) -> None:
    arguments = ("in.csv", "-o", "out.csv", "--template", "Say: {prompt}", "--max-cost", "1")
    ran = desk.annotate(*arguments, "--dry-run")
    assert ran.code == 0, ran.stderr
    assert "Say: Row number 0 of the pilot\n" in ran.stdout
    assert "Say: Row number 2 of the pilot\n" in ran.stdout
    assert "Row number 3" not in ran.stdout
    assert "40 of 40 rows would be sent" in ran.stdout
    assert "from the texts and the price alone" in ran.stdout
    assert desk.provider.calls == []
    found = desk.annotate(*arguments, "--dry-run", "--json").summary
    assert (found["send"], found["reused"], found["estimate"]["source"]) == (40, 0, "text")
    assert found["estimate"]["cost_usd"]["low"] < found["estimate"]["cost_usd"]["high"]
    assert found["prompts"] == [f"Say: Row number {i} of the pilot" for i in range(3)]


@pytest.mark.scripted
def test_a_dry_run_expects_a_label_of_known_length(desk: Desk) -> None:
    found = desk.annotate("in.csv", "-o", "out.csv", "--choices", "yes,no", "--dry-run", "--json").summary
    estimate = found["estimate"]
    assert estimate["has_short_answers"] is True
    assert 40 <= estimate["output_tokens"]["expected"] <= 400
    assert estimate["output_tokens"]["high"] < 10_000
    assert estimate["cost_usd"]["expected"] < estimate["cost_usd"]["high"] < estimate["ceiling_usd"]
    text = desk.annotate("in.csv", "-o", "out.csv", "--choices", "yes,no", "--dry-run").stdout
    assert "the longest answer that the schema or the choices allow" in text
    assert "theoretical maximum: $" in text
    # Answers without a known length have no expected cost.
    free = desk.annotate("in.csv", "-o", "out.csv", "--dry-run", "--json").summary["estimate"]
    assert (free["has_short_answers"], free["ceiling_usd"]) == (False, None)
    assert free["cost_usd"]["expected"] is None


@pytest.mark.slow
@pytest.mark.scripted
def test_a_dry_run_estimates_from_rows_of_earlier_runs(desk: Desk) -> None:
    first = desk.annotate("in.csv", "-o", "out.csv", "--limit", "20", "--json").summary
    desk.write_csv("in.csv", [*ROWS, ROWS[39], ROWS[0]])
    found = desk.annotate("in.csv", "-o", "out.csv", "--dry-run", "--json").summary
    # The last two rows equal others; one of these has an answer.
    assert (found["rows"], found["send"], found["reused"], found["equal"]) == (42, 20, 21, 1)
    estimate = found["estimate"]
    assert (estimate["source"], estimate["source_rows"], estimate["rows"]) == ("ledger", 20, 20)
    assert estimate["cost_usd"]["low"] <= first["cost_usd"] * 1.05
    assert estimate["cost_usd"]["high"] >= first["cost_usd"] * 0.95
    assert estimate["output_tokens"]["expected"] == 400
    other = desk.annotate("in.csv", "-o", "out.csv", "--system", "Be brief.", "--dry-run", "--json").summary
    assert other["estimate"]["source"] == "text"
    text = desk.annotate("in.csv", "-o", "out.csv", "--dry-run").stdout
    assert "20 of 42 rows would be sent" in text
    assert "21 reuse an answer of the ledger, 1 equals another row of INPUT" in text


@pytest.mark.scripted
def test_a_pilot_draws_rows_and_goes_on_without_a_terminal(desk: Desk) -> None:
    ran = desk.annotate(*PILOT, "--json")
    assert ran.code == 0, ran.stderr
    assert "estimate for 30 rows, from 10 rows of the pilot" in ran.stderr
    prompts = desk.provider.prompts()
    assert sorted(prompts) == sorted(row["prompt"] for row in ROWS)
    assert set(prompts[:10]) != {row["prompt"] for row in ROWS[:10]}, "drawn at random"
    assert ran.summary["rows"]["completed"] == 40
    assert [row["id"] for row in desk.read_csv("out.csv")] == [row["id"] for row in ROWS]


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.prefect
def test_a_held_pilot_shows_its_answers_and_a_resume_sends_the_others(desk: Desk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCODE_TASKS_AFTER_PILOT", "hold")
        held = desk.annotate(*PILOT, "--json")
    assert held.code == 75, held.stderr
    assert held.summary["rows"] == {
        "total": 40, "open": 30, "completed": 10, "failed": 0, "skipped": 0, "reused": 0,
    }  # fmt: skip
    out = desk.read_csv("out.csv")
    assert len(out) == 40
    assert [row["status"] for row in out].count("completed") == 10
    assert {row["status"] for row in out} == {"completed", "open"}
    ledger = str(desk.folder / "ledger.db")
    run_id = held.summary["run_id"]
    assert f"opencode-tasks resume {run_id}" in held.stderr
    shown = desk.run("show", run_id, "--ledger", ledger)
    assert not re.search(r"\bheld\b", shown.stdout.replace(str(desk.folder), ""))
    resumed = desk.run("resume", run_id, "--ledger", ledger, "--json")
    assert resumed.code == 0, resumed.stderr
    assert resumed.summary["rows"]["completed"] == 40
    assert resumed.summary["run_id"] == run_id
    assert len(desk.provider.prompts()) == 40
    audit = desk.run("audit", run_id, "--ledger", ledger)
    assert audit.code == 0, audit.stdout + audit.stderr


@pytest.mark.slow
@pytest.mark.scripted
def test_the_same_command_continues_a_held_pilot(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_TASKS_AFTER_PILOT", "hold")
    first = desk.annotate(*PILOT, "--json")
    again = desk.annotate(*PILOT, "--json")
    assert (first.code, again.code) == (75, 75), again.stderr
    assert again.summary["run_id"] == first.summary["run_id"]
    assert "estimate for 30 rows, from 10 rows of the pilot" in again.stderr
    assert len(desk.provider.prompts()) == 10
    # Another output is another run.
    other = desk.annotate("in.csv", "-o", "other.csv", *PILOT[3:], "--json")
    assert other.summary["run_id"] != first.summary["run_id"]
    sent = desk.annotate(*PILOT, "--yes", "--json")
    assert (sent.code, sent.summary["run_id"]) == (0, first.summary["run_id"]), sent.stderr
    assert sent.summary["rows"]["completed"] == 40
    assert sorted(desk.provider.prompts()) == sorted(row["prompt"] for row in ROWS)


@pytest.mark.slow
@pytest.mark.scripted
def test_equal_rows_and_answered_rows_are_not_in_the_pilot(desk: Desk) -> None:
    desk.annotate("in.csv", "-o", "out.csv", "--limit", "30")
    before = len(desk.provider.prompts())
    desk.write_csv("in.csv", [*ROWS, *({"id": f"x{i}", "prompt": ROWS[35]["prompt"]} for i in range(20))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCODE_TASKS_AFTER_PILOT", "hold")
        held = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", "--pilot", "5", "--json")
    assert held.code == 75, held.stderr
    assert len(desk.provider.prompts()) - before == 5
    ran = desk.annotate("in.csv", "-o", "out.csv", "--id-column", "id", "--json")
    assert ran.summary["rows"]["completed"] == 60
    assert len(desk.provider.prompts()) == 40


@pytest.mark.scripted
def test_a_pilot_as_large_as_the_input_is_no_pilot(desk: Desk) -> None:
    ran = desk.annotate("in.csv", "-o", "out.csv", "--pilot", "40", "--json")
    assert ran.code == 0
    assert "estimate" not in ran.stderr
    bad = desk.annotate("in.csv", "-o", "out.csv", "--pilot", "0")
    assert (bad.code, "--pilot: 0 is not at least 1" in bad.stderr) == (2, True)


@pytest.mark.scripted
def test_refused_rows_of_a_pilot_do_not_spoil_the_estimate(desk: Desk) -> None:
    desk.provider.on("Refuse", Reply(status=400, body={"error": {"message": "no"}}))
    refused = [{"id": f"x{i}", "prompt": f"Refuse row {i}"} for i in range(4)]
    desk.write_csv("some.csv", [*ROWS[:36], *refused])
    ran = desk.annotate("some.csv", "-o", "out.csv", "--pilot", "20", "--json")
    assert ran.code == 1, ran.stderr
    assert ran.summary["rows"]["completed"] == 36
    cost = re.search(r"cost: \$([0-9.]+) to \$([0-9.]+)", ran.stderr)
    assert cost is not None, ran.stderr
    assert float(cost[2]) < 3 * ran.summary["cost_usd"]


@pytest.mark.scripted
@pytest.mark.parametrize(
    ("refused", "options", "notes"),
    [
        (40, ("--pilot", "6"), ["6 of 6 rows failed (invalid_request 6)", "no estimate, which needs 5 rows"]),
        (0, ("--pilot", "4"), ["no estimate, which needs 5 rows of the pilot"]),
        (
            0,
            ("--pilot", "10", "--max-cost", "0.04"),
            ["of --max-cost is left, which is too low for the other"],
        ),
        (0, ("--pilot", "10", "--max-cost", "100"), []),
    ],
)
def test_a_held_pilot_says_what_speaks_against_the_other_rows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, refused: int, options: tuple[str, ...], notes: list[str]
) -> None:
    monkeypatch.setenv("OPENCODE_TASKS_AFTER_PILOT", "hold")
    desk.provider.on("Refuse", Reply(status=400, body={"error": {"message": "no"}}))
    # A row costs 0.2 cents.
    desk.provider.on("Row", Reply(text="yes", input_tokens=1, output_tokens=1000))
    rows = [{"prompt": f"{'Refuse' if n < refused else 'Row'} {n}"} for n in range(40)]
    desk.write_csv("in.csv", rows)
    held = desk.annotate("in.csv", "-o", "out.csv", *options, "--json")
    assert held.code == 75, held.stderr
    hold = held.summary["hold"]
    assert (hold["error_type"], hold["until"]) == ("pilot", None)
    for note in notes:
        assert note in hold["message"]
        assert f"warning: {hold['message'].split('; ', 2)[2]}" in held.stderr
    assert ("warning" in held.stderr) == bool(notes)
    assert ("estimate for" in held.stderr) == ("no estimate" not in hold["message"])


@pytest.mark.scripted
def test_a_pilot_shows_the_quality_of_its_answers(desk: Desk) -> None:
    desk.write_csv("gold.csv", [row | {"human": row["prompt"]} for row in ROWS])
    ran = desk.annotate("gold.csv", "-o", "out.csv", "--pilot", "10", "--gold", "human", "--json")
    assert ran.code == 0, ran.stderr
    assert "quality of response: accuracy" in ran.stderr
    assert ran.summary["quality"]["response"]["n"] == 40


def _ask(desk: Desk, answer: bytes, *more: str) -> tuple[int, str]:
    """The command on a terminal, and what the terminal showed."""
    screen, terminal = os.openpty()
    with desk.start(*desk.arguments(*PILOT, *more), terminal=terminal) as process:
        os.close(terminal)
        shown = ""
        if answer:
            # Keys that were pressed before the question are no answer.
            os.write(screen, b"y\n")
            while "[y/N]" not in shown:
                shown += os.read(screen, 1000).decode()
            os.write(screen, answer)
        shown += read_all(screen)
        return process.wait(LIMIT_S), shown


@pytest.mark.scripted
@pytest.mark.parametrize(("answer", "code", "sent"), [(b"y\n", 0, 40), (b"\n", 75, 10)])
def test_a_person_on_a_terminal_is_asked(desk: Desk, answer: bytes, code: int, sent: int) -> None:
    found, shown = _ask(desk, answer)
    assert found == code, shown
    assert "Send the other 30 rows? [y/N]" in shown
    assert "cost:" in shown
    assert len(desk.provider.prompts()) == sent


@pytest.mark.scripted
def test_yes_asks_nobody(desk: Desk) -> None:
    code, shown = _ask(desk, b"", "--yes")
    assert code == 0, shown
    assert "[y/N]" not in shown
    assert len(desk.provider.prompts()) == 40
