"""Answers of persons in a ledger, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attempts import begin_attempt, finish
from sqlalchemy import text

from opencode_tasks.domain.records import Answer, AttemptRecord, RowInput
from opencode_tasks.engine.audit import audit
from opencode_tasks.engine.review import PersonAnswer, record_reviews, undo_review
from opencode_tasks.errors import InputError, InvalidRequestError
from opencode_tasks.ledger import AlreadyFinished, Lease, Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHOICES = {"enum": ["yes", "no"]}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def create_run(
    ledger: Ledger,
    run_id: str,
    keys: Sequence[str],
    *,
    refresh: bool = False,
    schema: Any = None,
    command: Any = None,
) -> None:
    ledger.runs.create(
        run_id=run_id,
        parameters={"schema": schema, "command": command},
        model_ref="p/m",
        backend="server",
        opencode_version="1.0",
        deployment=None,
        flow_run_id=None,
        input_fingerprint="f",
        row_count=len(keys),
        refresh=refresh,
        now=at(10 * len(run_id)),
    )
    inputs = [RowInput(row_id=f"{i}", position=i, row_key=key, prompt=key) for i, key in enumerate(keys)]
    ledger.rows.add(run_id, inputs)
    ledger.runs.ready(run_id)


def answer(ledger: Ledger, run_id: str, row_id: str, text: str | None, *, seconds: float) -> None:
    """Answer a row by the model; None fails it."""
    lease = ledger.queue.claim_row(run_id, row_id, owner="w", now=at(seconds), lease_s=60)
    assert isinstance(lease, Lease)
    attempt = begin_attempt(ledger, lease, run_id, row_id, now=at(seconds))
    record = AttemptRecord(exit_code=0)
    given = InvalidRequestError("n", raw_message="no") if text is None else answer_of(text, record)
    assert finish(ledger, lease, attempt, given, record, now=at(seconds + 1))


def answer_of(text: str, record: AttemptRecord) -> Answer:
    return Answer(text=text, structured=text, finish_reason="stop", turns=1, model_ref="p/m", attempt=record)


def person(row_id: str, given: Any, by: str = "ann") -> PersonAnswer:
    return PersonAnswer(row_id=row_id, answer=given, answered_by=by)


def shown(ledger: Ledger, run_id: str) -> list[tuple[Any, ...]]:
    names = ("status", "response", "structured", "answered_by", "reused")
    return [tuple(row[name] for name in names) for row in ledger.results.outcomes(run_id)]


def accuracy(ledger: Ledger, run_id: str) -> list[tuple[int, int, int]]:
    with ledger._database.engine.connect() as connection:
        query = "select answered_rows, unanswered_rows, correct_rows from quality_by_run where run = :run"
        return [tuple(line) for line in connection.execute(text(query), {"run": run_id})]


def assert_no_fault(ledger: Ledger, *run_ids: str) -> None:
    for run_id in run_ids:
        found = audit(ledger, run_id)
        assert found is not None
        assert (found.faults, found.repeated) == ([], [])


@pytest.fixture
def reviewed(ledger: Ledger) -> Ledger:
    """A run with the keys k (two rows, answered yes), l (failed) and m (answered no)."""
    create_run(ledger, "a", ["k", "l", "k", "m"], schema=CHOICES)
    answer(ledger, "a", "0", "yes", seconds=10)
    answer(ledger, "a", "1", None, seconds=10)
    answer(ledger, "a", "3", "no", seconds=10)
    return ledger


def test_a_review_replaces_the_answer_of_all_rows_with_the_key(reviewed: Ledger) -> None:
    before = shown(reviewed, "a")
    assert record_reviews(reviewed, "a", [person("2", "no"), person("1", "yes"), person("3", "no")]) == []
    assert shown(reviewed, "a") == [
        ("completed", "no", "no", "ann", False),
        ("completed", "yes", "yes", "ann", False),
        ("completed", "no", "no", "ann", True),
        ("completed", "no", "no", "ann", False),
    ]
    # Two rows with a wrong answer, one that failed, one confirmed.
    assert accuracy(reviewed, "a") == [(3, 1, 1)]
    assert_no_fault(reviewed, "a")
    assert [one.model.response for one in reviewed.reviews.of_run("a")] == ["yes", None, "yes", "no"]

    assert record_reviews(reviewed, "a", [person("0", "yes", "bob")]) == []
    assert shown(reviewed, "a")[2] == ("completed", "yes", "yes", "bob", True)
    assert accuracy(reviewed, "a") == [(3, 1, 3)]
    # The answer of ann counts again, then that of the model.
    assert undo_review(reviewed, "a", "2")
    assert [one[:4] for one in shown(reviewed, "a")][0::2] == [("completed", "no", "no", "ann")] * 2
    assert accuracy(reviewed, "a") == [(3, 1, 1)]
    first = reviewed.reviews.of_run("a")[0]
    assert (first.answer, first.answered_by) == ("no", "ann")
    assert undo_review(reviewed, "a", "2")
    assert not undo_review(reviewed, "a", "2")
    assert undo_review(reviewed, "a", "1")
    assert undo_review(reviewed, "a", "3")
    assert shown(reviewed, "a") == before
    assert accuracy(reviewed, "a") == []


@pytest.mark.parametrize("refresh", [False, True])
def test_the_newest_review_is_reused_before_any_answer_of_a_model(reviewed: Ledger, refresh: bool) -> None:
    # Run b has copied the answer that a person corrects in it.
    create_run(reviewed, "bb", ["k", "m"], schema=CHOICES)
    assert reviewed.rows.reuse_answers("bb", now=at(30)) == 2
    record_reviews(reviewed, "a", [person("0", "yes"), person("1", "yes")])
    record_reviews(reviewed, "bb", [person("0", "no", "bob")])
    # A newer answer of a model counts less.
    create_run(reviewed, "ccc", ["n", "k"], refresh=True, schema=CHOICES)
    create_run(reviewed, "dddd", ["k", "l", "m"], refresh=refresh, schema=CHOICES)
    assert reviewed.ended_rows.answered(["k", "l", "m", "z"], refresh=refresh) == (
        {"k", "l"} if refresh else {"k", "l", "m"}
    )
    assert reviewed.rows.reuse_answers("dddd", now=at(40)) == (2 if refresh else 3)
    assert shown(reviewed, "dddd")[:2] == [
        ("completed", "no", "no", "bob", True),
        ("completed", "yes", "yes", "ann", True),
    ]
    # A worker that claims the row takes it too.
    claimed = reviewed.queue.claim_row("ccc", "1", owner="w", now=at(50), lease_s=60)
    assert claimed == AlreadyFinished(status="completed", reused=True)
    assert shown(reviewed, "ccc")[1] == ("completed", "no", "no", "bob", True)
    assert_no_fault(reviewed, "a", "bb", "ccc", "dddd")
    assert {name: one.response for name, one in reviewed.reviews.model_answers("dddd").items()} == {
        "0": "yes",
        "1": None,
    }


def test_a_copied_answer_is_no_source_after_an_undo(reviewed: Ledger) -> None:
    record_reviews(reviewed, "a", [person("0", "no")])
    create_run(reviewed, "bb", ["k"], schema=CHOICES)
    reviewed.rows.reuse_answers("bb", now=at(30))
    undo_review(reviewed, "a", "0")
    create_run(reviewed, "ccc", ["k"], schema=CHOICES)
    reviewed.rows.reuse_answers("ccc", now=at(31))
    assert shown(reviewed, "bb") == [("completed", "no", "no", "ann", True)]
    assert shown(reviewed, "ccc") == [("completed", "yes", "yes", None, True)]
    # A review of the copy, and its undo, which restores the copy.
    record_reviews(reviewed, "bb", [person("0", "yes", "bob")])
    assert accuracy(reviewed, "bb") == [(1, 0, 1)]
    undo_review(reviewed, "bb", "0")
    assert shown(reviewed, "bb") == [("completed", "no", "no", "ann", True)]


@pytest.mark.slow
def test_what_was_undone_does_not_count_again(reviewed: Ledger) -> None:
    for given, by in (("no", "ann"), ("yes", "bob")):
        record_reviews(reviewed, "a", [person("0", given, by)])
    assert undo_review(reviewed, "a", "0")
    record_reviews(reviewed, "a", [person("0", "yes", "eve")])
    persons: list[Any] = []
    while reviewed.row_list.lines("a", ["0"])[0]["answered_by"]:
        persons.append(reviewed.row_list.lines("a", ["0"])[0]["answered_by"])
        assert undo_review(reviewed, "a", "0")
        assert_no_fault(reviewed, "a")
    assert persons == ["eve", "ann"]
    assert shown(reviewed, "a")[0] == ("completed", "yes", "yes", None, False)


def test_answers_that_do_not_fit_are_named_and_the_others_are_written(reviewed: Ledger) -> None:
    create_run(reviewed, "bb", ["o"], schema=CHOICES)
    reviewed.queue.claim_row("bb", "0", owner="w", lease_s=60)
    wrong = [person("9", "yes"), person("0", "maybe"), person("3", float("nan")), person("1", "yes")]
    assert record_reviews(reviewed, "a", [*wrong, person("0", "no"), person("2", "yes")]) == [
        "row '9': run a has no such row",
        "row '0': 'maybe' is none of yes, no",
        "row '3': it is no JSON value",
        "row '2': row '0' with the same prompt is there with another answer too",
    ]
    assert [row[3] for row in shown(reviewed, "a")] == ["ann", "ann", "ann", None]
    assert record_reviews(reviewed, "bb", [person("0", "yes")]) == [
        "row '0': it is in flight; review it when it has ended"
    ]
    with pytest.raises(InputError, match="there is no run nothing"):
        record_reviews(reviewed, "nothing", [])


def test_a_row_that_was_never_sent_has_no_cost(ledger: Ledger) -> None:
    create_run(ledger, "a", ["k"])
    assert record_reviews(ledger, "a", [person("0", 5)]) == ["row '0': the answers of this run are texts"]
    record_reviews(ledger, "a", [person("0", "NUL \0 and half a pair \ud800")])
    row = ledger.results.outcomes("a")[0]
    assert (row["response"], row["structured"], row["cost_pico"], row["input_tokens"]) == (
        "NUL \N{REPLACEMENT CHARACTER} and half a pair \N{REPLACEMENT CHARACTER}",
        None,
        0,
        0,
    )
    assert_no_fault(ledger, "a")
    undo_review(ledger, "a", "0")
    assert ledger.rows.count_open("a") == 1


def test_the_saved_options_of_a_flow_run(ledger: Ledger) -> None:
    assert ledger.runs.saved_command("flow") == {}
    create_run(ledger, "a", ["k"], command={"examples": "reviewed@2026-03-01T12:00:00+00:00"})
    ledger.runs.add_flow_run("a", "flow")
    assert ledger.runs.saved_command("flow") == {"examples": "reviewed@2026-03-01T12:00:00+00:00"}


def test_reviewed_prompts(reviewed: Ledger) -> None:
    record_reviews(reviewed, "a", [person("0", "no")])
    create_run(reviewed, "bb", ["k", "z"])
    record_reviews(reviewed, "bb", [person("1", "text")])
    now = datetime.now(UTC)

    def prompts(until: datetime, schema: Any = CHOICES) -> list[tuple[str, str]]:
        found = reviewed.ended_rows.reviewed(lambda parameters: parameters["schema"] == schema, until=until)
        return [(one.prompt, one.response) for one in found]

    assert prompts(now) == [("k", "no")]
    assert prompts(now, None) == [("z", "text")]
    assert prompts(now - timedelta(hours=1)) == []
    # What happens later changes nothing for a run that began before.
    record_reviews(reviewed, "a", [person("0", "yes", "bob")])
    assert prompts(now) == [("k", "no")]
    assert prompts(datetime.now(UTC)) == [("k", "yes")]
    undo_review(reviewed, "a", "2")
    undo_review(reviewed, "a", "2")
    assert prompts(now) == [("k", "no")]
    assert prompts(datetime.now(UTC)) == []
    # The same prompt under another key, as of another model, is kept.
    create_run(reviewed, "ccc", ["k"], schema=CHOICES)
    record_reviews(reviewed, "ccc", [person("0", "yes")])
    with reviewed._database.engine.execution_options(ledger_write=True).begin() as connection:
        connection.execute(text("update rows set prompt = 'l' where run_id = 'ccc'"))
    record_reviews(reviewed, "a", [person("1", "no")])
    assert prompts(datetime.now(UTC)) == [("l", "no"), ("l", "yes")]


def test_a_purge_removes_the_answers_of_persons(reviewed: Ledger) -> None:
    record_reviews(reviewed, "a", [person("0", "no")])
    reviewed.runs.end("a", status="completed", now=at(60))
    reviewed.retention.purge(at(3600), texts_only=False, now=at(3700))
    found = reviewed.reviews.of_run("a")
    assert [(one.answer, one.response, one.model.response) for one in found] == [(None, None, None)] * 2
    create_run(reviewed, "bb", ["k"], schema=CHOICES)
    assert reviewed.rows.reuse_answers("bb", now=at(80)) == 0
    assert_no_fault(reviewed, "a")


def test_a_message_that_repeats_a_prompt_is_not_kept_by_a_review(ledger: Ledger) -> None:
    prompt = "Is this review of the blue box positive or negative?"
    create_run(ledger, "r1", [prompt, "another"])
    for row_id in ("0", "1"):
        lease = ledger.queue.claim_row("r1", row_id, owner="w", now=at(100), lease_s=60)
        assert isinstance(lease, Lease)
        attempt = begin_attempt(ledger, lease, "r1", row_id, now=at(100))
        error = InvalidRequestError("n", raw_message=f"{row_id}: {prompt} is refused")
        assert finish(ledger, lease, attempt, error, AttemptRecord(exit_code=0), now=at(101))
    record_reviews(ledger, "r1", [person("0", "yes"), person("1", "no")])
    ledger.retention.remove_texts("r1", {"prompts"}, now=at(300))
    with ledger._database.engine.connect() as connection:
        query = "select row_id, previous_error_message from answer_reviews order by row_id"
        kept = [tuple(line) for line in connection.execute(text(query))]
    assert kept == [("0", "0: [prompt] is refused"), ("1", f"1: {prompt} is refused")]
