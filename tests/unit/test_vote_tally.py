"""The count of several answers to a row, and their agreement."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.quality import votes as module
from opencode_tasks.quality.votes import VotedField, alpha, first_votes, tally, voted_fields

LABEL = (VotedField(name=None, kind="label"),)
NO_ANSWER = object()


def counted(answers: list[Any], votes: int) -> tuple[int | None, float | None, bool, bool]:
    valid = [answer is not NO_ANSWER for answer in answers]
    found = tally([None if not ok else a for a, ok in zip(answers, valid, strict=True)], valid, LABEL, votes)
    return found.chosen, found.agreement, found.is_tie, found.is_decided


@pytest.mark.parametrize(
    ("answers", "votes", "expected"),
    [
        (["a", "a"], 3, (0, 1.0, False, True)),
        (["a", "b"], 3, (0, 0.5, True, False)),
        (["a", "b", "b"], 3, (1, 2 / 3, False, True)),
        (["a", "a", "b"], 5, (0, 2 / 3, False, False)),
        (["a", "a", "b", "a"], 5, (0, 0.75, False, True)),
        (["a", "b", "a", "b"], 4, (0, 0.5, True, True)),
        ([NO_ANSWER, "b", "b"], 3, (1, 1.0, False, True)),
        ([NO_ANSWER, NO_ANSWER], 3, (None, None, False, True)),
        ([NO_ANSWER], 3, (None, None, False, False)),
        ([True, "true"], 2, (0, 1.0, False, True)),
        ([None, None], 2, (0, 1.0, False, True)),
    ],
)
def test_the_most_frequent_answer_is_taken(
    answers: list[Any], votes: int, expected: tuple[int | None, float | None, bool, bool]
) -> None:
    assert counted(answers, votes) == pytest.approx(expected)


@pytest.mark.parametrize(("votes", "first"), [(2, 2), (3, 2), (4, 3), (5, 3), (9, 5)])
def test_no_answer_can_have_a_majority_with_fewer_votes(votes: int, first: int) -> None:
    assert first_votes(votes) == first
    assert not counted(["a"] * (first - 1), votes)[3]
    assert counted(["a"] * first, votes)[3]


def test_labels_truth_values_and_whole_numbers_are_voted_on_and_other_fields_if_there_are_none() -> None:
    properties = {
        "topic": {"enum": ["a", "b"]},
        "urgent": {"type": "boolean"},
        "stars": {"type": "integer"},
        "confidence": {"type": "number"},
        "reason": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties}
    assert [one.name for one in voted_fields(schema)] == ["topic", "urgent", "stars"]
    only_text = {"type": "object", "properties": {"reason": {"type": "string"}}}
    assert [one.name for one in voted_fields(only_text)] == ["reason"]
    assert [one.name for one in voted_fields(None)] == [None]
    assert voted_fields({"type": "string", "enum": ["a", "b"]})[0].kind == "label"


def test_alpha_as_computed_by_hand() -> None:
    # Of 8 values 5 are a and 3 are b; one pair differs: 1 - (2 / 8) / (30 / 56).
    pairs = [["a", "a"], ["a", "a"], ["b", "b"], ["a", "b"], ["a"], [None, "b"]]
    assert alpha(pairs, LABEL[0]) == pytest.approx(1 - (2 / 8) / (30 / 56))
    numbers = VotedField(name="stars", kind="number")
    stars = [[{"stars": 1}, {"stars": 1}], [{"stars": 5}, {"stars": 5}]]
    assert alpha(stars, numbers) == 1.0
    assert alpha([["a", "a"], ["a", "a"]], LABEL[0]) is None
    assert alpha([[str(n), str(n + 1)] for n in range(100)], LABEL[0]) is None


def test_alpha_of_many_rows_takes_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATRIX_CELLS", 40)
    rows = [["a", "a"]] * 5 + [["a", "b"]] * 5
    assert alpha([*rows, *[["b", "b"]] * 1000], LABEL[0]) == alpha(rows, LABEL[0])
    # None of these rows has the other value.
    assert alpha([["a", "a"]] * 100 + [["b", "b"]], LABEL[0]) is None
