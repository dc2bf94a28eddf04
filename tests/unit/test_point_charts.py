"""Geometry of the chart of cost against accuracy: its axis, and the places of its labels."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_tasks.reports.cost_accuracy_chart import Point, cost_and_accuracy
from opencode_tasks.reports.cost_axis import CostAxis
from opencode_tasks.reports.drawing import SIZES, Drawing, Rect, Text
from opencode_tasks.reports.scales import share_ticks, text_width

LEFT, RIGHT = 40.0, 340.0
NAMES = st.sampled_from(
    ["p/m", "provider/a-model-with-a-long-name#high", "模型/很长的名字很长的名字", "x" * 200]
)
COSTS = st.none() | st.just(0) | st.integers(1, 10**13)


@st.composite
def points(draw: st.DrawFn) -> list[Point]:
    found: list[Point] = []
    count = draw(st.integers(1, 25))
    for number in range(1, count + 1):
        low, share, high = sorted(draw(st.tuples(*[st.integers(0, 100)] * 3)))
        found.append(
            Point(
                number=number,
                name=draw(NAMES),
                share=share / 100,
                low=low / 100,
                high=high / 100,
                cost_pico=draw(COSTS),
                state="chosen" if number == 1 else draw(st.sampled_from(["measured", "dropped"])),
            )
        )
    return found


def box_of(label: Text, height: float = 11) -> Rect:
    """The letters of a label."""
    width = text_width(label.text)
    x = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return Rect(x, label.y - height + 2, width, height)


def overlap(one: Rect, other: Rect) -> bool:
    return min(one.x + one.width, other.x + other.width) > max(one.x, other.x) and min(
        one.y + one.height, other.y + other.height
    ) > max(one.y, other.y)


@settings(deadline=None)
@given(points(), st.integers(1, 100))
def test_no_label_covers_another_one_or_a_point_or_leaves_the_chart(found: list[Point], target: int) -> None:
    chart = cost_and_accuracy(found, target=target / 100, title="t")
    for name, drawing in chart.drawings.items():
        labels = [box_of(label) for label in drawing.labels]
        assert not [pair for pair in combinations(labels, 2) if overlap(*pair)], name
        parts = [part for mark in drawing.marks for part in mark.parts]
        # The label of the target is on its line, also where many points leave it no place.
        assert not [(one, part) for one in labels[1:] for part in parts if overlap(one, part)], name
        assert all(box.x >= 0 and box.x + box.width <= drawing.width for box in labels), name
        assert len(drawing.marks) == len(found)
        axis = [box_of(text) for text in drawing.texts]
        assert not [pair for pair in combinations(axis, 2) if overlap(*pair)], name
        assert all(box.x >= -1 and box.x + box.width <= drawing.width + 1 for box in axis), name


def whisker(drawing: Drawing, at: int) -> tuple[float, float, float]:
    """Place of a vertical line, its upper and its lower end."""
    line = next(one for one in drawing.marks[at].lines if one.x1 == one.x2 and one.look != "leader")
    return line.x1, line.y1, line.y2


def test_points_are_where_their_figures_are() -> None:
    low = Point(number=1, name="a", share=0.7, low=0.6, high=0.8, cost_pico=10**9, state="measured")
    high = Point(number=2, name="b", share=0.95, low=0.9, high=1.0, cost_pico=10**11, state="chosen")
    chart = cost_and_accuracy([low, high], target=0.9, title="t")
    assert chart.legend == {2: "chosen", 0: "measured to the end"}
    for name, drawing in chart.drawings.items():
        # The chosen one is drawn last.
        (x_low, top, bottom), (x_high, top_high, bottom_high) = whisker(drawing, 0), whisker(drawing, 1)
        assert x_low < x_high <= SIZES[name].width
        assert bottom > top > bottom_high > top_high
        [target] = [line for line in drawing.grid if line.look == "target"]
        assert target.y1 == target.y2 == pytest.approx(bottom_high)
        assert "90%" in drawing.labels[0].text
        assert any("1 a" in label.text for label in drawing.labels)
        assert any(label.text == "2 b (chosen)" for label in drawing.labels)
        assert "95.0% (90.0% to 100.0%)" in drawing.summary


@given(st.lists(COSTS, min_size=1, max_size=8))
def test_costs_are_in_order_on_the_axis(costs: list[int | None]) -> None:
    axis = CostAxis.of(costs, LEFT, RIGHT)
    known = sorted({cost for cost in costs if cost is not None})
    places = [axis.x(cost) for cost in known]
    assert places == sorted(places)
    assert all(LEFT < place < RIGHT for place in [*places, *map(axis.x, costs)])
    if None in costs and known:
        assert axis.x(None) > max(places)
    assert len({text for _, text in axis.labels}) == len(axis.labels)


@pytest.mark.parametrize(
    ("costs", "is_log", "labels"),
    [
        ([10**9, 5 * 10**9], False, ["$0", "$0.002", "$0.004"]),
        ([10**8, 10**10], True, ["$0.0001", "$0.001", "$0.01"]),
        ([0, 10**8, 10**10, None], True, ["$0", "$0.0001", "$0.01", "unknown"]),
        ([0, 0], False, ["$0"]),
        ([None], False, ["unknown"]),
    ],
)
def test_the_axis_is_logarithmic_if_costs_differ_much(
    costs: list[int | None], is_log: bool, labels: list[str]
) -> None:
    axis = CostAxis.of(costs, LEFT, RIGHT)
    assert (axis.is_log, "logarithmic" in axis.title) == (is_log, is_log)
    assert [text for _, text in axis.labels] == labels


def test_ticks_of_shares_are_round() -> None:
    assert share_ticks(0.0, 300, 55) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert share_ticks(0.9, 320, 35) == [0.9, 0.92, 0.94, 0.96, 0.98, 1.0]
    assert share_ticks(0.0, 60, 55) == [0.0, 0.5, 1.0]
