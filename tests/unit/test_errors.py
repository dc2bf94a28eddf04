"""The exceptions: constructors, text, pickling, and a reaction on every class."""

from __future__ import annotations

import doctest
import inspect
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from error_examples import CLASSES, EXAMPLES, VALUES, arguments, example

import opencode_tasks
from opencode_tasks import errors
from opencode_tasks.domain.reaction import Reaction
from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.errors import (
    InputError,
    OpenCodeError,
    OpenCodeTasksError,
    RunPausedError,
    error_types,
    row_error_classes,
)

USUAL = ["node_id", "exit_code", "raw_message"]

# The contract with users: parameters in their fixed order, and error_type.
CONTRACT: list[tuple[type[OpenCodeTasksError], list[str], str]] = [
    (OpenCodeError, ["node_id", "error_type", "exit_code", "raw_message"], "odd"),
    (errors.RateLimitError, ["node_id", "reset_time", "raw_message", "exit_code"], "rate_limit"),
    (errors.AuthenticationError, USUAL, "authentication_failed"),
    (errors.BillingError, USUAL, "billing_error"),
    (errors.InvalidRequestError, USUAL, "invalid_request"),
    (errors.ServerError, [*USUAL, "retry_after"], "server_error"),
    (errors.MaxOutputTokensError, [*USUAL, "partial_text"], "max_output_tokens"),
    (errors.UnknownOpenCodeError, [*USUAL, "stderr"], "unknown"),
    (errors.OpenCodeTimeoutError, [*USUAL, "clock", "seconds"], "timeout"),
    (errors.StructuredOutputError, [*USUAL, "text"], "structured_output"),
    (errors.PermissionDeniedError, [*USUAL, "tools"], "permission_denied"),
    (errors.ContentFilteredError, [*USUAL, "partial_text"], "content_filter"),
    (errors.BudgetExceededError, [*USUAL, "limit_usd", "spent_usd"], "budget_exceeded"),
    (errors.SetupError, [*USUAL, "hint"], "setup"),
]


@pytest.mark.parametrize(
    ("cls", "names", "error_type"), CONTRACT, ids=[case[0].__name__ for case in CONTRACT]
)
def test_constructors_and_text_are_fixed(cls: Any, names: list[str], error_type: str) -> None:
    error = example(cls)
    assert list(inspect.signature(cls).parameters) == names
    assert {name: getattr(error, name) for name in names} == {name: VALUES[name] for name in names}
    assert error.error_type == error_type
    assert str(error) == f"{error_type} on n: raw"


@pytest.mark.parametrize("cls", [case[0] for case in CONTRACT], ids=lambda cls: cls.__name__)
def test_only_what_has_no_default_is_required(cls: Any) -> None:
    required = [one.name for one in inspect.signature(cls).parameters.values() if one.default is one.empty]
    error = cls(*(VALUES[name] for name in required))
    assert (error.exit_code, error.raw_message) == (-1, "")


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_pickle_keeps_every_field(error: OpenCodeTasksError) -> None:
    if isinstance(error, OpenCodeError):
        error.attempt = AttemptRecord(session_id="ses_1", notes=("seen",))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_is_public_and_keeps_its_arguments(cls: type[OpenCodeTasksError]) -> None:
    assert getattr(opencode_tasks, cls.__name__) is cls
    error = example(cls)
    assert {name: getattr(error, name) for name in arguments(cls)} == arguments(cls)


@pytest.mark.parametrize("cls", row_error_classes(), ids=lambda cls: cls.__name__)
def test_every_row_error_declares_its_type_and_its_reaction(cls: type[OpenCodeError]) -> None:
    assert isinstance(vars(cls).get("reaction"), Reaction)
    assert isinstance(vars(cls).get("error_type"), str)


def test_every_row_error_has_another_type() -> None:
    types = error_types(lambda _: True)
    assert len(set(types)) == len(types) == len(row_error_classes())


@pytest.mark.parametrize("cls", row_error_classes(), ids=lambda cls: cls.__name__)
def test_reactions_are_consistent(cls: type[OpenCodeError]) -> None:
    reaction = cls.reaction
    # Only a person ends a hold, and a hold costs the row no attempt.
    assert (reaction.action == "hold") == (reaction.gate == "close_until_person")
    assert not (reaction.action == "hold" and reaction.uses_attempt)
    # A rate limit has its own time and its own counter.
    is_limit = reaction.gate == "close_until_reset"
    assert is_limit == (reaction.wait == "until_reset") == (reaction.counter == "rate_limits")
    # What a row keeps must be there to keep.
    text_parameters = {"partial_text", "text"} & set(inspect.signature(cls).parameters)
    assert reaction.keeps_partial_text == bool(text_parameters)
    assert bool(example(cls).partial_text) == reaction.keeps_partial_text


def test_which_errors_are_refusals() -> None:
    reset = datetime(2026, 1, 1, tzinfo=UTC)
    overloaded = errors.ServerError("n")
    overloaded.is_overload = True
    assert [error.is_refusal for error in (errors.RateLimitError("n", reset), overloaded)] == [True, True]
    others = (errors.ServerError("n"), errors.MaxOutputTokensError("n"), errors.BillingError("n"))
    assert [error.is_refusal for error in others] == [False] * 3


def test_one_base_class_covers_all_and_setup_is_no_row_error() -> None:
    assert {InputError, errors.SetupError, RunPausedError, errors.TooManyFailedError} <= set(CLASSES)
    assert errors.SetupError not in row_error_classes()
    assert issubclass(InputError, ValueError)


def test_text_is_cut_and_the_message_kept() -> None:
    error = OpenCodeError("n", "odd", 1, "x" * 300)
    assert str(error) == "odd on n: " + "x" * 200
    assert len(error.raw_message) == 300


def test_an_input_error_shows_one_line_for_each_fault() -> None:
    assert str(InputError(("one", "two"))) == "one\ntwo"


def test_a_paused_run_cuts_its_message_at_a_word() -> None:
    error = RunPausedError("r1", None, "billing_error", "credit " * 50, 1)
    assert str(error).startswith("run r1: 1 row waits for a person: billing_error: credit credit")
    assert str(error).endswith(" credit…")


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(errors).failed == 0
