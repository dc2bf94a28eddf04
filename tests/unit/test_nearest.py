"""Texts that are most like others."""

from __future__ import annotations

from opencode_tasks.quality.nearest import NearestTexts

TEXTS = ["The screen is too dark.", "It never arrived.", "画面が暗すぎます。", "The screen broke.", " ", "ok"]


def test_the_most_similar_texts_come_first() -> None:
    found = NearestTexts(TEXTS).of(["the screen is dark", "画面が暗い", "arrived never"], 2)
    assert found == [[0, 3], [2, 0], [1, 0]]


def test_every_kind_of_text_can_be_compared() -> None:
    assert NearestTexts([" ", "\n"]).of(["", "a"], 5) == [[0, 1], [0, 1]]
    assert NearestTexts(["x"]).of([], 5) == []
