"""The columns of an outcome: each is declared once, and every user of the declaration agrees with it."""

from __future__ import annotations

from opencode_tasks.domain.columns import STORED
from opencode_tasks.domain.records import TOKEN_COLUMNS, Answer, AttemptRecord, RowInput
from opencode_tasks.ledger.reuse import REUSED_COLUMNS
from opencode_tasks.ledger.row_outcomes import completed
from opencode_tasks.ledger.schema import rows
from opencode_tasks.ledger.usage_sums import row_totals

# The columns of ``rows`` that are no part of the outcome.
OWN_COLUMNS = {
    *("run_id", "row_id", "position", "row_key", "prompt", "system", "labels", "workspace", "files"),
    *("source_run_id", "source_row_id", "started_at", "completed_at"),
}


def names(source: str) -> set[str]:
    return {column.ledger_name for column in STORED if column.source == source}


def test_a_meaning_is_a_sentence() -> None:
    assert all(column.meaning.endswith(".") for column in STORED)


def test_the_table_rows_has_a_column_for_each() -> None:
    assert {column.ledger_name for column in STORED} | OWN_COLUMNS == set(rows.c.keys())


def test_new_rows_have_the_initial_values_of_the_columns() -> None:
    not_null = {column.name for column in rows.c if not column.nullable and column.server_default is not None}
    assert not_null == {column.ledger_name for column in STORED if column.initial is not None}
    assert set(RowInput.__dataclass_fields__) <= OWN_COLUMNS


def test_an_answer_fills_the_columns_with_the_source_answer() -> None:
    attempt = AttemptRecord(session_id="ses")
    answer = Answer(
        text="yes", structured={}, finish_reason="stop", turns=1, model_ref="p/m", attempt=attempt
    )
    values = completed(answer).columns
    assert set(values) == names("answer") | {"status", "error_type", "error_message", "waits_until"}
    assert (values["response"], values["session_id"]) == ("yes", "ses")
    assert all(column.answer_field for column in STORED if column.source == "answer")


def test_attempts_fill_the_columns_with_the_source_attempts() -> None:
    assert set(row_totals([])) - {"started_at"} == names("attempts")
    assert set(TOKEN_COLUMNS) < names("attempts")


def test_a_reused_answer_copies_all_but_what_belongs_to_the_row_itself() -> None:
    not_copied = {
        "waits_until",
        "attempts",
        "reused",
        "duration_s",
        "agreement",
        "votes",
        "needs_review",
        "escalated",
        "workspace_url",
    }
    assert {column.ledger_name for column in STORED} - not_copied == set(REUSED_COLUMNS)
