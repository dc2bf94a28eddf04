"""Comparison of answers with known values."""

from __future__ import annotations

import pytest

from opencode_tasks.quality.gold import GoldKind, comparable, interval, kind_of, measure, normalized


@pytest.mark.parametrize(
    ("gold", "answer", "kind"),
    [
        ("positive", "positive", "label"),
        (" positive ", "positive", "label"),
        ("True", True, "label"),
        ("7", 7, "number"),
        (7, 7.0, "number"),
        ("7.50", 7.5, "number"),
        (9007199254740993, 9007199254740993, "number"),
        ("Paris.", "paris", "text"),
        ("The  Hague", "the hague!", "text"),
        ("\uff30aris", "paris", "text"),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, "text"),
    ],
)
def test_equal_values(gold: object, answer: object, kind: GoldKind) -> None:
    assert comparable(gold, kind) == comparable(answer, kind)


@pytest.mark.parametrize(
    ("gold", "answer", "kind"),
    [
        ("positive", "Positive", "label"),
        (9007199254740993, 9007199254740992, "number"),
        ("7", "8", "number"),
        ("New York", "York", "text"),
        ("-5", "5", "text"),
        ("5%", "5", "text"),
        ("C#", "C", "text"),
        ("?", "!", "text"),
    ],
)
def test_different_values(gold: object, answer: object, kind: GoldKind) -> None:
    assert comparable(gold, kind) != comparable(answer, kind)


def test_a_text_of_marks_alone_stays() -> None:
    assert normalized("…") != ""


def test_figures_of_a_hand_computed_case() -> None:
    # Rows by gold and answer: a/a 4, a/b 1, b/a 2, b/b 3.
    pairs = [("a", "a")] * 4 + [("a", "b")] + [("b", "a")] * 2 + [("b", "b")] * 3
    found = measure("response", "label", pairs, unanswered=2)
    assert (found.n, found.unanswered, found.correct, found.accuracy) == (10, 2, 7, 0.7)
    # The Wilson interval of 7 in 10.
    assert found.low == pytest.approx(0.3968, abs=1e-4)
    assert found.high == pytest.approx(0.8922, abs=1e-4)
    assert found.confusion == ((4, 1), (2, 3))
    a, b = found.classes
    assert (a.label, a.precision, a.recall, a.n) == ("a", pytest.approx(4 / 6), pytest.approx(4 / 5), 5)
    assert b.f1 == pytest.approx(2 * 3 / 4 * 3 / 5 / (3 / 4 + 3 / 5))
    # Agreement by chance is 0.5 * 0.6 + 0.5 * 0.4.
    assert found.kappa == pytest.approx((0.7 - 0.5) / 0.5)
    assert found.mae is None


def test_a_null_answer_is_an_answer() -> None:
    found = measure("label", "label", [("a", None), ("a", "a")], unanswered=0)
    assert (found.n, found.correct) == (2, 1)
    assert [one.label for one in found.classes] == ["a", "null"]


def test_a_number_that_no_float_holds_has_no_error() -> None:
    assert measure("n", "number", [(10**400, 5)], unanswered=0).mae is None


def test_numbers_have_an_error_and_no_classes() -> None:
    found = measure("stars", "number", [("4", 4), ("5", 3), (1, 2.5)], unanswered=0)
    assert found.mae == pytest.approx((0 + 2 + 1.5) / 3)
    assert (found.correct, found.classes, found.kappa) == (1, (), None)


def test_no_rows_and_one_label() -> None:
    assert interval(0, 0) == (None, None)
    assert measure("response", "label", [], unanswered=3).accuracy is None
    assert measure("response", "label", [("a", "a")] * 3, unanswered=0).kappa is None


@pytest.mark.parametrize(
    ("types", "labels", "kind"),
    [
        (frozenset({"string"}), ("a", "b"), "label"),
        (frozenset({"boolean", "null"}), (), "label"),
        (frozenset({"integer"}), (), "number"),
        (frozenset({"number", "integer"}), (), "number"),
        (frozenset({"string"}), (), "text"),
        (None, (), "text"),
    ],
)
def test_the_kind_follows_from_the_schema(
    types: frozenset[str] | None, labels: tuple[str, ...], kind: str
) -> None:
    assert kind_of(types, labels) == kind
