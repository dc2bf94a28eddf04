"""``opencode-tasks compare``: two runs over the same rows."""

from __future__ import annotations

import pytest
from cluster import Desk

from opencode_tasks.testing import Call, Reply

# Gold, the answer of the first prompt, the answer of the second.
CASES = (
    [("yes", "yes", "yes")] * 10 + [("no", "yes", "no")] * 8 + [("no", "no", "yes")] + [("yes", "no", "no")]
)


def reply(desk: Desk, word: str, answer: str) -> None:
    def matches(call: Call) -> bool:
        return f"{word} " in call.prompt and f"a{answer}" in call.prompt

    desk.provider.on(matches, Reply(text=answer))


@pytest.fixture
def runs(desk: Desk) -> tuple[Desk, str, str]:
    rows = [
        {"id": f"r{i}", "one": f"first {i} a{a}", "two": f"second {i} a{b}", "human": gold}
        for i, (gold, a, b) in enumerate(CASES)
    ]
    desk.write_csv("in.csv", rows)
    desk.write_csv(
        "more.csv", [*rows, {"id": "extra", "one": "first ayes", "two": "second ayes", "human": ""}]
    )
    for word in ("first", "second"):
        for answer in ("yes", "no"):
            reply(desk, word, answer)
    ids = [
        desk.annotate(
            name, "-o", "out.csv", "--id-column", "id", "--prompt-column", column, *more, "--json"
        ).summary
        for name, column, more in (
            ("in.csv", "one", ("--choices", "yes,no", "--gold", "human")),
            ("more.csv", "two", ("--choices", "no,yes")),
        )
    ]
    return desk, ids[0]["run_id"], ids[1]["run_id"]


@pytest.mark.slow
@pytest.mark.scripted
def test_two_runs_are_compared_over_their_common_rows(runs: tuple[Desk, str, str]) -> None:
    desk, first, second = runs
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    ran = desk.run("compare", first, second, *ledger, "--json")
    assert ran.code == 0, ran.stderr
    found = ran.summary
    assert found["rows"] == {"common": 20, "only_a": 0, "only_b": 1}
    assert found["a"]["answers_cost_usd"] > 0
    field = found["fields"]["response"]
    assert (field["n"], len(field["changed"]), field["agreement"]) == (20, 9, 0.55)
    assert field["changed"][0] == {"row_id": "r10", "a": "yes", "b": "no", "gold": "no"}
    accuracy = field["accuracy"]
    # A is right in 10 + 1, B in 10 + 8 rows; the tail of 1 in 9 is 10/512, on both sides 20/512.
    assert (accuracy["a"], accuracy["b"], accuracy["only_a"], accuracy["only_b"]) == (0.55, 0.9, 1, 8)
    assert accuracy["p_value"] == pytest.approx(20 / 512)
    text = desk.run("compare", first, second, *ledger).stdout
    assert "20 rows in both, 1 only in B\ncompared: the answers of the models, without the corr" in text
    assert text.count(", rows in flight for ") == 2
    assert "response: 55.0% of 20 rows agree" in text
    assert "A 55.0%, B 90.0%" in text
    assert "p = 0.0391: a difference" in text


@pytest.mark.slow
@pytest.mark.scripted
def test_rows_with_different_gold_values_are_left_out_of_the_accuracy(desk: Desk) -> None:
    desk.provider.on("yes", Reply(text="yes"))
    found: list[str] = []
    for name, gold in (("a", ("yes", "yes", "yes", "")), ("b", ("yes", "no", "", "no"))):
        rows = [{"id": str(i), "prompt": f"{name} yes {i}", "human": value} for i, value in enumerate(gold)]
        desk.write_csv("in.csv", rows)
        options = ("--id-column", "id", "--choices", "yes,no", "--gold", "human", "--json")
        found.append(desk.annotate("in.csv", "-o", "out.csv", *options).summary["run_id"])
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    for order in (found, found[::-1]):
        field = desk.run("compare", *order, *ledger, "--json").summary["fields"]["response"]
        # Of four rows, one has another value in each run, and two a value in one run alone.
        assert (field["accuracy"]["n"], field["conflicting_gold"]) == (3, 1)
        assert field["accuracy"]["a"] == field["accuracy"]["b"] == pytest.approx(2 / 3)
    text = desk.run("compare", *found, *ledger).stdout
    assert "left out of the accuracy: 1 row with different gold values in A and B" in text


@pytest.mark.slow
@pytest.mark.scripted
def test_faults_are_one_line(runs: tuple[Desk, str, str]) -> None:
    desk, first, _ = runs
    ledger = ("--ledger", str(desk.folder / "ledger.db"))
    unknown = desk.run("compare", first, "nothing", *ledger)
    assert (unknown.code, "there is no run nothing" in unknown.stderr) == (2, True)
    desk.write_csv("other.csv", [{"id": "z", "prompt": "first ayes"}])
    other = desk.annotate("other.csv", "-o", "o.csv", "--id-column", "id", "--json").summary["run_id"]
    ran = desk.run("compare", first, other, *ledger)
    assert (ran.code, "have no row in common" in ran.stderr) == (2, True)
