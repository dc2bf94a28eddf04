"""Charts of a report as SVG, drawn here: the page that shows them runs no script.

Altair describes them, vl-convert draws them; both work without a network. What names come from the
data are escaped by the latter. The reader's font is not known here, so room is left for a wide one.
"""

# Altair's own types are unions of hundreds of generated classes.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import altair as alt
import vl_convert

MAX_SERIES = 7
MAX_BARS = 12
OTHERS = "all others"
FONT = "Liberation Sans, Helvetica Neue, Helvetica, Arial, sans-serif"
FONT_SIZE = 12
CHARACTER_WIDTH = 7.5
LEGEND_LENGTH = 36
BAR_HEIGHT = 26
COLOURS = ("#3b6fb6", "#e08a3c", "#4b9e6a", "#b0517a", "#8271b8", "#2f9a9f", "#a0793d", "#9aa3ad")
TOKEN_KINDS = ("input", "cache read", "cache write", "output", "reasoning")
INK, MUTED, LINE = "#1c2733", "#5b6875", "#dfe4e9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much room a drawing has, in pixels, and the longest name that a bar shows in full."""

    width: int
    name_length: int
    legend_columns: int

    @property
    def ticks(self) -> int:
        """How many numbers an axis has room for."""
        return max(2, self.width // 130)

    def names(self, longest: int) -> alt.Axis:
        """An axis of names of at most ``longest`` characters."""
        room = CHARACTER_WIDTH * min(longest, self.name_length) + 8
        return alt.Axis(labelExpr=_shortened(self.name_length), minExtent=room, labelLimit=0)


def _shortened(length: int) -> str:
    """Vega's expression for a name as there is room for it: its beginning and its end."""
    end = length // 2
    short = f"slice(datum.label, 0, {length - end - 1}) + '…' + slice(datum.label, -{end})"
    return f"length(datum.label) > {length} ? {short} : datum.label"


# Wide for a desk, narrow for a telephone; the page shows the one that fits.
SIZES: Mapping[str, Size] = {
    "wide": Size(width=980, name_length=36, legend_columns=3),
    "narrow": Size(width=330, name_length=16, legend_columns=1),
}


def over_time(days: Sequence[Mapping[str, Any]], size: Size) -> str:
    """Spending by day, stacked by ``model``: lines with ``day`` (ISO), ``model`` and ``usd``."""
    by_model: dict[str, float] = {}
    by_day: dict[str, float] = {}
    for line in days:
        by_model[line["model"]] = by_model.get(line["model"], 0.0) + line["usd"]
        by_day[line["day"]] = by_day.get(line["day"], 0.0) + line["usd"]
    shown = sorted(by_model, key=lambda model: -by_model[model])[:MAX_SERIES]
    values = [dict(line) | {"model": line["model"] if line["model"] in shown else OTHERS} for line in days]
    order = [*shown, OTHERS] if len(by_model) > len(shown) else shown
    all_days = _all_days(list(by_day))
    every = -(-len(all_days) // max(1, size.width // 70))
    axis = alt.Axis(
        labelAngle=0, labelExpr="utcFormat(toDate(datum.value), '%d %b')", values=all_days[::every]
    )
    legend = alt.Legend(labelExpr=_shortened(LEGEND_LENGTH))
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            x=alt.X("day:O", title=None, axis=axis, scale=alt.Scale(domain=all_days)),
            y=alt.Y("sum(usd):Q", title="USD", axis=_usd_axis(max(by_day.values()), 5)),
            color=alt.Color(
                "model:N", legend=legend, scale=alt.Scale(domain=order, range=list(COLOURS)), sort=order
            ),
        )
    )
    return _drawn(chart, size, 240)


def _all_days(days: Sequence[str]) -> list[str]:
    """Every day from the first to the last, so that a gap shows as one."""
    first, last = date.fromisoformat(min(days)), date.fromisoformat(max(days))
    return [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]


def bars(lines: Sequence[Mapping[str, Any]], size: Size) -> str:
    """The dearest names first: lines with ``name`` and ``usd``; those beyond a dozen in one bar."""
    ranked = sorted(lines, key=lambda line: -line["usd"])
    values = [dict(line) for line in ranked[:MAX_BARS]]
    if rest := ranked[MAX_BARS:]:
        values.append({"name": f"{len(rest)} others", "usd": sum(line["usd"] for line in rest)})
    names = [value["name"] for value in values]
    most = max(value["usd"] for value in values)
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color=COLOURS[0])
        .encode(
            x=alt.X("usd:Q", title="USD", axis=_usd_axis(most, size.ticks)),
            y=alt.Y("name:N", title=None, sort=names, axis=size.names(max(map(len, names)))),
        )
    )
    return _drawn(chart, size, BAR_HEIGHT * len(values))


def tokens(lines: Sequence[Mapping[str, Any]], size: Size) -> str:
    """Tokens by model and kind: lines with ``name``, ``kind`` (one of TOKEN_KINDS) and ``tokens``."""
    names = sorted({line["name"] for line in lines})
    values = [dict(line) | {"rank": TOKEN_KINDS.index(line["kind"])} for line in lines]
    axis = alt.Axis(tickCount=size.ticks, format="~s")
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            x=alt.X("sum(tokens):Q", title="tokens", axis=axis),
            y=alt.Y("name:N", title=None, sort=names, axis=size.names(max(map(len, names)))),
            color=alt.Color("kind:N", scale=alt.Scale(domain=list(TOKEN_KINDS), range=list(COLOURS))),
            order=alt.Order("rank:Q"),
        )
    )
    return _drawn(chart, size, BAR_HEIGHT * len(names))


def _usd_axis(most: float, ticks: int) -> alt.Axis:
    """Dollars with as many decimals as its steps need; a step may be far below a cent."""
    digits = max(0, -math.floor(math.log10(most / ticks))) + 1
    return alt.Axis(tickCount=ticks, format=f",.{min(digits, 12)}~f")


def _drawn(chart: alt.Chart, size: Size, height: int) -> str:
    styled = (
        chart.properties(width=size.width, height=height, background="transparent")
        .configure(font=FONT, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            titleColor=MUTED,
            gridColor=LINE,
            domainColor=LINE,
            tickColor=LINE,
            labelFontSize=FONT_SIZE,
        )
        .configure_legend(
            orient="top",
            title=None,
            labelColor=INK,
            labelFontSize=FONT_SIZE,
            labelLimit=0,
            columns=size.legend_columns,
            columnPadding=60,
        )
    )
    return vl_convert.vegalite_to_svg(styled.to_dict()).replace("<svg ", '<svg role="img" ', 1)
