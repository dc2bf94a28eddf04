"""``ledger.row_list``: rows that people filter, sort and page through, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert

from opencode_tasks.ledger import GoldValue, Ledger, RowFilter, RowOrder
from opencode_tasks.ledger.schema import rows, runs

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MANY = 100_000
PAGE = range(100)


def write(ledger: Ledger, lines: list[dict[str, Any]]) -> None:
    run = {"run_id": "r", "created_at": NOW, "status": "running", "parameters": {}, "refresh": False}
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:
        connection.execute(insert(runs), [run])
        for start in range(0, len(lines), 5000):
            connection.execute(insert(rows), lines[start : start + 5000])


def line(position: int, **values: Any) -> dict[str, Any]:
    plain = {"error_type": None, "response": None, "structured": None, "cost_pico": None, "labels": {}}
    ids = {"run_id": "r", "row_id": f"row {position}", "position": position, "row_key": f"k{position}"}
    common = {"prompt": f"prompt {position}", "status": "completed", "attempts": 1, "reused": False}
    return ids | common | plain | values


def found(ledger: Ledger, *, order: RowOrder | None = None, **wanted: Any) -> list[int]:
    """The positions of the rows that a filter selects, in order."""
    chosen = RowFilter(**wanted)
    ids = ledger.row_list.ids("r", chosen, order or RowOrder(), PAGE)
    assert ledger.row_list.count("r", chosen) == len(ids)
    return [one["position"] for one in ledger.row_list.lines("r", ids)]


@pytest.fixture
def listed(ledger: Ledger) -> Ledger:
    fields = [{"label": "good", "score": 9, "sure": True}, {"label": "bad", "score": 10, "sure": False}]
    write(
        ledger,
        [
            line(0, structured=fields[0], response='{"label": "good"}', cost_pico=3, labels={'te"am': "a"}),
            line(1, structured=fields[1], response='{"label": "bad"}', cost_pico=20, labels={'te"am': "b"}),
            line(2, prompt="100% sure_thing", status="failed", error_type="timeout", attempts=3, cost_pico=1),
            line(3, status="open", attempts=0),
            line(4, status="held", attempts=0, prompt="ÄRGER"),
        ],
    )
    ledger.gold.add("r", [GoldValue(row_id=f"row {i}", field="label", value="good") for i in (0, 1)])
    ledger.gold.set_correct("r", [("row 0", "label", True), ("row 1", "label", False)])
    return ledger


@pytest.mark.parametrize(
    ("wanted", "positions"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"text": "PROMPT 1"}, [1]),
        ({"text": "row 3"}, [3]),
        ({"text": '"good"'}, [0]),
        ({"text": "100% s"}, [2]),
        ({"text": "%"}, [2]),
        ({"text": "_"}, [2]),
        ({"text": "'; drop table rows; --"}, []),
        ({"status": "open"}, [3, 4]),
        ({"status": "completed"}, [0, 1]),
        ({"error_type": "timeout"}, [2]),
        ({"values": {"label": "bad"}}, [1]),
        ({"values": {"label": "bad", "sure": "true"}}, []),
        ({"values": {"sure": "true"}}, [0]),
        ({"values": {"score": "10"}}, [1]),
        ({"labels": {'te"am': "a"}}, [0]),
        ({"has_gold_mismatch": True}, [1]),
        ({"has_open_mismatch": True}, [1]),
        ({"min_cost_pico": 3}, [0, 1]),
        ({"min_cost_pico": 1, "status": "failed"}, [2]),
    ],
)
def test_a_filter_selects_rows(listed: Ledger, wanted: dict[str, Any], positions: list[int]) -> None:
    assert found(listed, **wanted) == positions


@pytest.mark.parametrize(
    ("order", "positions"),
    [
        (RowOrder(is_descending=True), [4, 3, 2, 1, 0]),
        (RowOrder(column="cost"), [2, 0, 1, 3, 4]),
        (RowOrder(column="cost", is_descending=True), [1, 0, 2, 3, 4]),
        (RowOrder(column="attempts", is_descending=True), [2, 0, 1, 3, 4]),
        (RowOrder(column="error_type"), [2, 0, 1, 3, 4]),
        (RowOrder(column="status"), [0, 1, 2, 3, 4]),
        (RowOrder(column="label", is_field=True), [1, 0, 2, 3, 4]),
        (RowOrder(column="score", is_field=True, is_number=True), [0, 1, 2, 3, 4]),
    ],
)
def test_rows_without_a_value_are_last(listed: Ledger, order: RowOrder, positions: list[int]) -> None:
    assert found(listed, order=order) == positions


def test_a_line_has_what_a_list_shows(listed: Ledger) -> None:
    [first] = listed.row_list.lines("r", ["row 1"])
    assert (first["status"], first["cost_pico"], first["prompt"]) == ("completed", 20, "prompt 1")
    assert first["gold"] == [{"row_id": "row 1", "field": "label", "value": "good", "is_correct": False}]
    assert listed.row_list.lines("r", ["row 4", "row 3"])[0]["status"] == "open"
    assert listed.row_list.error_types("r") == ["timeout"]
    assert listed.row_list.has_gold("r")
    assert not listed.row_list.has_gold("other")
    counts = {"status": "running", "attempts": 0, "open": 2, "completed": 2, "failed": 1, "skipped": 0}
    assert listed.row_list.counts("r") == counts


def test_a_list_leaves_out_the_start_that_prompts_have_in_common(ledger: Ledger) -> None:
    start = 'Label 100% of_this: "é"\n' * 40
    prompts = (start + "works well", "An example first. " + start, start, "label 100% of_this")
    write(ledger, [line(position, prompt=prompt) for position, prompt in enumerate(prompts)])
    shown = ledger.row_list.lines("r", [f"row {position}" for position in range(4)], start)
    assert [one["prompt"] for one in shown] == ["…works well", prompts[1][:300], "…", "label 100% of_this"]


def test_answers_that_are_one_value_can_be_selected(ledger: Ledger) -> None:
    lines = [line(0, response="**Yes**", structured="yes"), line(1, response="no"), line(2, structured=3)]
    write(ledger, lines)
    assert found(ledger, values={"response": "yes"}) == [0]
    assert found(ledger, values={"response": "no"}) == [1]
    assert found(ledger, values={"response": "3"}) == [2]


def test_answers_that_postgresql_cannot_convert_do_not_break_the_list(ledger: Ledger) -> None:
    odd = ("nul \0", "half \ud800", "half \udc00", "pair 👩", "pair \ud83d\ude00")
    lines = [line(i, structured={"text": text, "label": "good"}) for i, text in enumerate(odd)]
    write(ledger, [*lines, line(5, structured="pair 👩"), line(6, structured="\0")])
    assert found(ledger, values={"text": "pair 👩"}) == [3]
    assert {3, 4} <= set(found(ledger, values={"label": "good"}))
    order = RowOrder(column="text", is_field=True)
    assert set(found(ledger, order=order)) == set(range(7))
    assert found(ledger, values={"response": "pair 👩"}) == [5]


def test_answers_that_are_texts_or_booleans_are_filtered_and_sorted_by_their_values(ledger: Ledger) -> None:
    values = [True, False, "good", "bad", None]
    lines = [line(at, structured=one, response=f"Answer {at}: {one}") for at, one in enumerate(values)]
    write(ledger, lines)
    for text, at in (("true", 0), ("false", 1), ("good", 2)):
        assert found(ledger, values={"response": text}) == [at]
    assert found(ledger, order=RowOrder(column="answer"), text="d")[-2:] == [3, 2]


def test_answers_that_are_numbers_are_sorted_as_numbers(ledger: Ledger) -> None:
    lines = [line(at, structured=one, response=str(one)) for at, one in enumerate([10, 9.5, 1, 2, None])]
    write(ledger, lines)
    order = RowOrder(column="answer", is_number=True)
    assert found(ledger, order=order)[:4] == [2, 3, 1, 0]
    assert found(ledger, order=RowOrder(column="answer", is_number=True, is_descending=True))[:4] == [
        0,
        1,
        3,
        2,
    ]


@pytest.mark.slow
def test_pages_of_100000_rows_are_read_by_indexes(tmp_path: Path) -> None:
    with Ledger.open(str(tmp_path / "ledger.db")) as ledger:
        labels = ("positive", "negative")
        write(
            ledger,
            [
                line(i, prompt=f"{i} " + "word " * 80, structured={"label": labels[i % 2]}, cost_pico=i)
                for i in range(MANY)
            ],
        )
        queries: list[tuple[str, Any]] = []

        def note(*arguments: Any) -> None:
            queries.append((arguments[2], arguments[3]))

        event.listen(ledger._database.engine, "before_cursor_execute", note)
        last = ledger.row_list.ids("r", RowFilter(), RowOrder(), range(MANY - 100, MANY))
        assert [one["position"] for one in ledger.row_list.lines("r", last)] == list(range(MANY - 100, MANY))
        negative = RowFilter(values={"label": "negative"}, text="WORD WORD")
        order = RowOrder(column="cost", is_descending=True)
        assert ledger.row_list.ids("r", negative, order, range(2)) == ["row 99999", "row 99997"]
        assert ledger.row_list.count("r", negative) == MANY // 2
        assert ledger.row_list.counts("r")["completed"] == MANY
        event.remove(ledger._database.engine, "before_cursor_execute", note)
        with ledger._database.engine.connect() as connection:
            plans = [step for query, values in queries for step in plan_of(connection, query, values)]
    # A search for texts reads the rows of the run, by the index of the run.
    assert [step for step in plans if step.startswith("SCAN rows")] == []
    assert any("USING INDEX rows_run_position (run_id=?)" in step for step in plans)
    assert any("USING COVERING INDEX rows_run_status_position (run_id=?)" in step for step in plans)


def plan_of(connection: Connection, query: str, values: Any) -> list[str]:
    return [row[3] for row in connection.exec_driver_sql(f"explain query plan {query}", values)]
