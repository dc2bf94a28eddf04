"""A pilot of a run that asks for several answers to each row: votes, models, a stronger model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from cluster import Desk

from opencode_tasks.testing import Call, Reply

COUNT, DRAWN = 30, 8
ROWS = [{"id": f"r{i:02}", "prompt": f"Row number {i}"} for i in range(COUNT)]
PILOT = ("in.csv", "-o", "out.csv", "--id-column", "id", "--choices", "yes,no", "--pilot", str(DRAWN))
VOTES = ("--votes", "3")
MODELS = ("--model", "fake/alpha", "--model", "fake/beta")
ESCALATION = (*VOTES, "--escalate-to", "fake/strong", "--escalate-below", "0.7")


def _differs(call: Call) -> bool:
    """Every third row has votes that differ."""
    return int(call.prompt.rsplit(" ", 1)[1]) % 3 == 0


@pytest.fixture
def desk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("OPENCODE_TASKS_AFTER_PILOT", "hold")
    for name in ("alpha", "beta", "strong"):
        desk.provider.models[name] = {"name": name, "cost": {"input": 1, "output": 2}}
    answers: dict[str, int] = {}

    def second_differs(call: Call) -> bool:
        if call.model == "strong" or not _differs(call):
            return False
        answers[call.prompt] = answers.get(call.prompt, 0) + 1
        return answers[call.prompt] == 2

    desk.provider.on(second_differs, Reply(text="no", output_tokens=20))
    desk.provider.on("Row number", Reply(text="yes", output_tokens=20))
    desk.write_csv("in.csv", ROWS)
    return desk


def _of_ids(desk: Desk, status: str) -> set[str]:
    return {row["id"] for row in desk.read_csv("out.csv") if row["status"] == status}


def _range(text: str) -> tuple[float, float]:
    found = re.search(r"  cost: \$([0-9.]+)(?: to \$([0-9.]+))?", text)
    assert found is not None, text
    return float(found[1]), float(found[2] or found[1])


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize("options", [VOTES, MODELS, ESCALATION], ids=["votes", "models", "a stronger model"])
def test_all_answers_to_the_rows_of_a_pilot_come_first(desk: Desk, options: Sequence[str]) -> None:
    held = desk.annotate(*PILOT, *options, "--json")
    assert held.code == 75, held.stderr
    assert held.summary["rows"]["completed"] == DRAWN
    assert held.summary["rows"]["open"] == COUNT - DRAWN
    assert f"estimate for {COUNT - DRAWN} rows, from {DRAWN} rows of the pilot" in held.stderr
    run_id, paid = held.summary["run_id"], held.summary["cost_usd"]
    pilot = _of_ids(desk, "completed")
    assert pilot != {row["id"] for row in ROWS[:DRAWN]}, "drawn at random"
    assert {prompt.replace("Row number ", "r") for prompt in desk.provider.prompts()} == {
        f"r{int(name[1:])}" for name in pilot
    }
    again = desk.annotate(*PILOT, *options, "--json")
    assert (again.code, again.summary["run_id"], again.summary["cost_usd"]) == (75, run_id, paid)
    resumed = desk.run("resume", run_id, "--ledger", str(desk.folder / "ledger.db"), "--json")
    assert resumed.code == 0, resumed.stderr
    assert resumed.summary["rows"]["completed"] == COUNT
    low, high = _range(held.stderr)
    assert 0.6 * low <= resumed.summary["cost_usd"] - paid <= 1.5 * high
    # What the pilot answered is asked once; the whole costs as much as a run without a pilot.
    calls = len(desk.provider.calls)
    plain = [one for one in PILOT if one not in ("--pilot", str(DRAWN))]
    assert desk.annotate(*plain, *options).code == 0
    assert len(desk.provider.calls) == calls
    assert desk.run("audit", run_id, "--ledger", str(desk.folder / "ledger.db")).code == 0


@pytest.mark.slow
@pytest.mark.scripted
def test_a_pilot_of_votes_that_is_not_over_is_no_approval(desk: Desk) -> None:
    first = desk.annotate(*PILOT, *VOTES, "--max-cost", "0.0231", "--concurrency", "1", "--json")
    assert first.code == 75, first.stderr
    assert first.summary["rows"]["open"] > COUNT - DRAWN
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    second = desk.run("resume", first.summary["run_id"], *ledger, "--max-cost", "1", "--json")
    assert second.code == 75, second.stderr
    assert second.summary["rows"]["completed"] == DRAWN
    assert "estimate for" in second.stderr
    third = desk.run("resume", first.summary["run_id"], *ledger, "--json")
    assert (third.code, third.summary["rows"]["completed"]) == (0, COUNT), third.stderr


@pytest.mark.slow
@pytest.mark.scripted
def test_another_size_is_no_approval_and_a_run_that_has_ended_asks_nothing(desk: Desk) -> None:
    desk.write_csv("in.csv", [*ROWS, *({"id": f"x{i}", "prompt": ROWS[i]["prompt"]} for i in range(COUNT))])
    held = desk.annotate(*PILOT, *VOTES, "--json")
    # Rows with one prompt are answered together.
    assert (held.code, held.summary["rows"]["completed"]) == (75, 2 * DRAWN), held.stderr
    more = desk.annotate(*PILOT, "--pilot", str(DRAWN + 4), *VOTES, "--json")
    assert (more.code, more.summary["rows"]["completed"]) == (75, 2 * DRAWN), more.stderr
    sent = desk.annotate(*PILOT, *VOTES, "--yes", "--json")
    assert (sent.code, sent.summary["rows"]["completed"]) == (0, 2 * COUNT), sent.stderr
    calls = len(desk.provider.calls)
    again = desk.annotate(*PILOT, *VOTES, "--json")
    assert (again.code, again.summary["rows"]["reused"]) == (0, 2 * COUNT), again.stderr
    assert len(desk.provider.calls) == calls


@pytest.mark.slow
@pytest.mark.scripted
@pytest.mark.parametrize(
    ("first", "then", "low"),
    [
        ((), VOTES, COUNT),
        (MODELS[:2], MODELS, COUNT),
        # Of the rows whose votes are known, only those that differ go to the stronger model.
        (VOTES, ESCALATION, COUNT // 3),
    ],
    ids=["votes", "models", "a stronger model"],
)
def test_earlier_answers_are_taken_before_a_pilot_is_drawn(
    desk: Desk, first: Sequence[str], then: Sequence[str], low: int
) -> None:
    plain = [one for one in PILOT if one not in ("--pilot", str(DRAWN))]
    assert desk.annotate(*plain, *first).code == 0
    held = desk.annotate(*PILOT, *then, "--json")
    assert (held.code, held.summary["rows"]["open"]) == (75, low - DRAWN), held.stderr
    rows = "row" if low - DRAWN == 1 else "rows"
    assert f"estimate for {low - DRAWN} {rows}, from {DRAWN} rows of the pilot" in held.stderr
    paid = held.summary["cost_usd"]
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    resumed = desk.run("resume", held.summary["run_id"], *ledger, "--json")
    assert (resumed.code, resumed.summary["rows"]["completed"]) == (0, COUNT), resumed.stderr
    least, most = _range(held.stderr)
    assert 0.6 * least <= resumed.summary["cost_usd"] - paid <= 1.5 * most


@pytest.mark.nightly
@pytest.mark.scripted
def test_a_pilot_of_votes_is_kept_in_postgresql(desk: Desk, empty_postgresql: str) -> None:
    ledger = ("--ledger", empty_postgresql, "--json")
    held = desk.annotate(*PILOT, *VOTES, *ledger)
    assert (held.code, held.summary["rows"]["completed"]) == (75, DRAWN), held.stderr
    again = desk.annotate(*PILOT, *VOTES, *ledger)
    assert (again.code, again.summary["run_id"]) == (75, held.summary["run_id"])
    resumed = desk.run("resume", held.summary["run_id"], *ledger)
    assert (resumed.code, resumed.summary["rows"]["completed"]) == (0, COUNT), resumed.stderr


@pytest.mark.scripted
def test_a_dry_run_names_the_pilot_of_votes(desk: Desk) -> None:
    dry = desk.annotate(*PILOT, *VOTES, "--dry-run")
    assert f"pilot: {DRAWN} rows first" in dry.stdout
    assert "--pilot 20 gives a narrower range" in dry.stdout
    assert desk.provider.calls == []


@pytest.mark.slow
@pytest.mark.scripted
def test_a_pilot_of_votes_goes_on_by_itself_and_shows_its_quality(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_TASKS_AFTER_PILOT", "continue")
    desk.write_csv("in.csv", [row | {"human": "yes"} for row in ROWS])
    ran = desk.annotate(*PILOT, *VOTES, "--gold", "human", "--json")
    assert ran.code == 0, ran.stderr
    assert "quality of response: accuracy" in ran.stderr
    assert ran.summary["rows"]["completed"] == COUNT
    assert ran.summary["quality"]["response"]["n"] == COUNT
    assert ran.summary["votes"]["asked"] == len(desk.provider.calls)
