"""Dashboards over a PostgreSQL ledger, made from one list of queries.

    python deployments/dashboards/make.py            writes grafana.json and metabase.json beside itself
    python deployments/dashboards/make.py --check    only says whether they are up to date

grafana.json is imported in Grafana under Dashboards, New, Import; it asks for the PostgreSQL data
source, and its time range chooses the days. metabase.json holds a question for each query over all
days and a dashboard of them; metabase.py sends it to a Metabase by its API. Everything reads the
ledger's views, whose columns docs/reference/ledger.md tells.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
TITLE = "What opencode-tasks spends"
RANGE = "$__timeFilter(day)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A query and how it is shown; ``{range}`` is where the chosen days go. ``width`` of 24."""

    title: str
    shown: Literal["number", "bars over time", "bars", "table"]
    sql: str
    width: int = 12
    unit: str = "currencyUSD"


PANELS = (
    Panel(
        title="Spent",
        shown="number",
        width=6,
        sql="select coalesce(sum(known_cost_usd), 0) as spent from cost_by_day where {range}",
    ),
    Panel(
        title="In attempts that did not complete",
        shown="number",
        width=6,
        sql="select coalesce(sum(failed_cost_usd), 0) as failed from cost_by_day where {range}",
    ),
    Panel(
        title="Rows",
        shown="number",
        width=6,
        unit="short",
        sql="select coalesce(sum(rows), 0) as rows from cost_by_day where {range}",
    ),
    Panel(
        title="Calls of unknown cost",
        shown="number",
        width=6,
        unit="short",
        sql="select count(*) as calls from cost_items "
        "where {range} and step_id is not null and cost_pico is null",
    ),
    Panel(
        title="Spending by day and model",
        shown="bars over time",
        width=24,
        sql="select day::timestamptz as time, model as metric, sum(cost_pico) / 1e12 as usd "
        "from cost_items where {range} group by day, model order by day, model",
    ),
    Panel(
        title="By model",
        shown="bars",
        sql="select model, sum(cost_pico) / 1e12 as usd from cost_items where {range} "
        "group by model having sum(cost_pico) > 0 order by usd desc limit 20",
    ),
    Panel(
        title="By deployment",
        shown="bars",
        sql="select coalesce(deployment, 'run by hand') as deployment, sum(cost_pico) / 1e12 as usd "
        "from cost_items where {range} "
        "group by deployment having sum(cost_pico) > 0 order by usd desc limit 20",
    ),
    Panel(
        title="By label",
        shown="table",
        sql="select pairs.key as label, pairs.value as value, "
        "count(distinct run || '/' || row_id) as rows, sum(cost_pico) / 1e12 as usd "
        "from cost_items, json_each_text(labels) as pairs where {range} "
        "group by pairs.key, pairs.value order by label, usd desc nulls last",
    ),
    Panel(
        title="Tokens by model",
        shown="table",
        unit="short",
        sql="select model, sum(input_tokens) as input, sum(cache_read_tokens) as cache_read, "
        "sum(cache_write_tokens) as cache_write, sum(output_tokens) as output, "
        "sum(reasoning_tokens) as reasoning from cost_items where {range} group by model order by model",
    ),
    Panel(
        title="Failures and what they cost",
        shown="table",
        sql="select error_type, model, sum(attempts) as attempts, sum(failed_rows) as failed_rows, "
        "sum(known_cost_usd) as usd from failures_by_type where {range} "
        "group by error_type, model order by attempts desc",
    ),
    Panel(
        title="Newest runs",
        shown="table",
        sql="select created_at, run, status, deployment, model, rows, known_cost_usd as usd "
        "from cost_by_run where $__timeFilter(created_at) order by created_at desc limit 50",
    ),
    Panel(
        title="May have been sold and not told",
        shown="table",
        width=24,
        sql="select started_at, run, row_id, coalesce(error_type, status) as ended_as, at_most_usd "
        "from unreported_attempts where {range} order by at_most_usd desc limit 50",
    ),
)


def grafana() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(PANELS, start=1):
        height = 4 if panel.shown == "number" else 9
        if x + panel.width > 24:  # noqa: PLR2004  Grafana's grid
            x, y = 0, y + 9
        panels.append(_grafana_panel(panel, number, {"h": height, "w": panel.width, "x": x, "y": y}))
        x += panel.width
    return {
        "__inputs": [
            {
                "name": "DS_LEDGER",
                "label": "Ledger",
                "type": "datasource",
                "pluginId": "grafana-postgresql-datasource",
                "pluginName": "PostgreSQL",
            }
        ],
        "title": TITLE,
        "uid": "opencode-tasks-costs",
        "schemaVersion": 39,
        "timezone": "utc",
        "time": {"from": "now-30d", "to": "now"},
        "tags": ["opencode-tasks"],
        "panels": panels,
    }


def _grafana_panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    kinds = {"number": "stat", "bars over time": "timeseries", "bars": "barchart", "table": "table"}
    source = {"type": "grafana-postgresql-datasource", "uid": "${DS_LEDGER}"}
    is_series = panel.shown == "bars over time"
    custom = {"drawStyle": "bars", "fillOpacity": 80, "stacking": {"mode": "normal"}} if is_series else {}
    return {
        "id": number,
        "title": panel.title,
        "type": kinds[panel.shown],
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {"orientation": "horizontal"} if panel.shown == "bars" else {},
        "targets": [
            {
                "refId": "A",
                "datasource": source,
                "rawQuery": True,
                "format": "time_series" if is_series else "table",
                "rawSql": panel.sql.format(range=RANGE),
            }
        ],
    }


def metabase() -> dict[str, Any]:
    """The questions and where they stand, as Metabase's API takes them; their database is not known here."""
    kinds = {"number": "scalar", "bars over time": "bar", "bars": "row", "table": "table"}
    cards = [
        {
            "name": panel.title,
            "display": kinds[panel.shown],
            "visualization_settings": {"stackable.stack_type": "stacked"}
            if panel.shown == "bars over time"
            else {},
            "dataset_query": {
                "type": "native",
                "database": None,
                "native": {
                    "query": panel.sql.format(range="true").replace("$__timeFilter(created_at)", "true")
                },
            },
        }
        for panel in PANELS
    ]
    places: list[dict[str, int]] = []
    row = column = 0
    for panel in PANELS:
        if column + panel.width > 24:  # noqa: PLR2004  Metabase's grid, too
            row, column = row + 7, 0
        height = 3 if panel.shown == "number" else 7
        places.append({"row": row, "col": column, "size_x": panel.width, "size_y": height})
        column += panel.width
    return {"dashboard": {"name": TITLE}, "cards": cards, "places": places}


def main() -> int:
    """Write or compare; the exit code."""
    check = sys.argv[1:] == ["--check"]
    stale = 0
    for name, made in (("grafana.json", grafana()), ("metabase.json", metabase())):
        path, text = HERE / name, json.dumps(made, indent=2) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if not check:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}: {'out of date' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
