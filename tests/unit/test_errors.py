"""The errors' constructors, text, reaction and pickling, as design section 3 fixes them."""

from __future__ import annotations

import inspect
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from opencode_tasks import errors
from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.errors import InputError, OpenCodeError

RESET = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

USUAL = {"node_id": "n", "exit_code": 3, "raw_message": "raw"}

# class, its arguments in the fixed order, error_type, disposition
CASES: list[tuple[type[OpenCodeError], dict[str, Any], str, str]] = [
    (
        OpenCodeError,
        {"node_id": "n", "error_type": "odd", "exit_code": 3, "raw_message": "raw"},
        "odd",
        "retry",
    ),
    (
        errors.RateLimitError,
        {"node_id": "n", "reset_time": RESET, "raw_message": "raw", "exit_code": 3},
        "rate_limit",
        "retry",
    ),
    (errors.AuthenticationError, USUAL, "authentication_failed", "pause"),
    (errors.BillingError, USUAL, "billing_error", "pause"),
    (errors.InvalidRequestError, USUAL, "invalid_request", "fail"),
    (errors.ServerError, {**USUAL, "retry_after": 7.5}, "server_error", "retry"),
    (errors.MaxOutputTokensError, {**USUAL, "partial_text": "half"}, "max_output_tokens", "retry"),
    (errors.UnknownOpenCodeError, {**USUAL, "stderr": "err"}, "unknown", "retry"),
    (errors.OpenCodeTimeoutError, {**USUAL, "clock": "stall", "seconds": 40.0}, "timeout", "retry"),
    (errors.StructuredOutputError, {**USUAL, "text": "{"}, "structured_output", "fail"),
    (errors.PermissionDeniedError, {**USUAL, "tools": ("bash",)}, "permission_denied", "fail"),
    (errors.ContentFilteredError, {**USUAL, "partial_text": "half"}, "content_filter", "fail"),
    (errors.BudgetExceededError, {**USUAL, "limit_usd": 1.0, "spent_usd": 1.5}, "budget_exceeded", "fail"),
    (errors.SetupError, {**USUAL, "hint": "install it"}, "setup", "fail"),
]
each_class = pytest.mark.parametrize(
    ("cls", "fields", "error_type", "disposition"), CASES, ids=[case[0].__name__ for case in CASES]
)


def test_the_table_has_every_class() -> None:
    found = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, OpenCodeError)}
    assert found == {case[0] for case in CASES}


@each_class
def test_arguments_come_in_the_fixed_order(
    cls: Any, fields: dict[str, Any], error_type: str, disposition: str
) -> None:
    error = cls(*fields.values())
    assert list(inspect.signature(cls).parameters) == list(fields)
    assert {name: getattr(error, name) for name in fields} == fields
    assert error.error_type == error_type
    assert error.disposition == disposition
    assert str(error) == f"{error_type} on n: raw"


@pytest.mark.parametrize(("cls", "fields"), [case[:2] for case in CASES], ids=str)
def test_a_pickle_keeps_every_field(cls: Any, fields: dict[str, Any]) -> None:
    error = cls(*fields.values())
    error.attempt = AttemptRecord(session_id="ses_1", notes=("seen",))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert vars(copy) == vars(error)
    assert copy.attempt.session_id == "ses_1"
    assert (str(copy), copy.args) == (str(error), error.args)


def test_only_the_needed_arguments_must_be_given() -> None:
    for cls, fields, _, _ in CASES:
        needed = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
        made = cls(*list(fields.values())[: len(needed)])
        assert (made.exit_code, made.raw_message, made.attempt) == (-1, "", None)


def test_text_is_cut_and_the_message_kept() -> None:
    error = OpenCodeError("n", "odd", 1, "x" * 300)
    assert str(error) == "odd on n: " + "x" * 200
    assert len(error.raw_message) == 300


def test_input_error_pickles_and_shows_a_line_a_fault() -> None:
    copy = pickle.loads(pickle.dumps(InputError(("one", "two"))))
    assert copy.faults == ("one", "two")
    assert str(copy) == "one\ntwo"
