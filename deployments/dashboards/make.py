"""Generate dashboards for a PostgreSQL ledger from one list of queries.

    python deployments/dashboards/make.py            write grafana.json and metabase.json to this folder
    python deployments/dashboards/make.py --check    exit with 1 if they are not up to date

Import grafana.json in Grafana (Dashboards, New, Import) and select the PostgreSQL data source; the time
range selects the days. metabase.json has a question for each query, for all days, and a dashboard of these
questions; metabase.py creates them in Metabase. The queries read the views of the ledger, which
docs/reference/ledger.md describes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
TITLE = "Cost of opencode-tasks runs"
RANGE = "$__timeFilter(day)"
# Grafana and Metabase have the same grid.
GRID_COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A query and its display. ``{range}`` in ``sql`` is the condition for the selected days.

    ``width`` is in columns of a grid of ``GRID_COLUMNS``.
    """

    title: str
    display: Literal["number", "bars over time", "bars", "table"]
    sql: str
    width: int = 12
    unit: str = "currencyUSD"


PANELS = (
    Panel(
        title="Cost",
        display="number",
        width=6,
        sql="select coalesce(sum(known_cost_usd), 0) as cost from cost_by_day where {range}",
    ),
    Panel(
        title="Cost of attempts that did not complete",
        display="number",
        width=6,
        sql="select coalesce(sum(failed_cost_usd), 0) as failed from cost_by_day where {range}",
    ),
    Panel(
        title="Rows",
        display="number",
        width=6,
        unit="short",
        sql="select coalesce(sum(rows), 0) as rows from cost_by_day where {range}",
    ),
    Panel(
        title="Model calls with unknown cost",
        display="number",
        width=6,
        unit="short",
        sql="select count(*) as calls from cost_items "
        "where {range} and step_id is not null and cost_pico is null",
    ),
    Panel(
        title="Cost by day and model",
        display="bars over time",
        width=24,
        sql="select day::timestamptz as time, model as metric, sum(cost_pico) / 1e12 as usd "
        "from cost_items where {range} group by day, model order by day, model",
    ),
    Panel(
        title="Cost by model",
        display="bars",
        sql="select model, sum(cost_pico) / 1e12 as usd from cost_items where {range} "
        "group by model having sum(cost_pico) > 0 order by usd desc limit 20",
    ),
    Panel(
        title="Cost by deployment",
        display="bars",
        sql="select coalesce(deployment, 'no deployment') as deployment, sum(cost_pico) / 1e12 as usd "
        "from cost_items where {range} "
        "group by deployment having sum(cost_pico) > 0 order by usd desc limit 20",
    ),
    Panel(
        title="Cost by label",
        display="table",
        sql="select pairs.key as label, pairs.value as value, "
        "count(distinct run || '/' || row_id) as rows, sum(cost_pico) / 1e12 as usd "
        "from cost_items, json_each_text(labels) as pairs where {range} "
        "group by pairs.key, pairs.value order by label, usd desc nulls last",
    ),
    Panel(
        title="Tokens by model",
        display="table",
        unit="short",
        sql="select model, sum(input_tokens) as input, sum(cache_read_tokens) as cache_read, "
        "sum(cache_write_tokens) as cache_write, sum(output_tokens) as output, "
        "sum(reasoning_tokens) as reasoning from cost_items where {range} group by model order by model",
    ),
    Panel(
        title="Failures and their cost",
        display="table",
        sql="select error_type, model, sum(attempts) as attempts, sum(failed_rows) as failed_rows, "
        "sum(known_cost_usd) as usd from failures_by_type where {range} "
        "group by error_type, model order by attempts desc",
    ),
    Panel(
        title="Latest runs",
        display="table",
        sql="select created_at, run, status, deployment, model, rows, known_cost_usd as usd "
        "from cost_by_run where $__timeFilter(created_at) order by created_at desc limit 50",
    ),
    Panel(
        title="Unreported cost of interrupted and running attempts (upper bound)",
        display="table",
        width=24,
        sql="select started_at, run, row_id, coalesce(error_type, status) as result, at_most_usd "
        "from unreported_attempts where {range} order by at_most_usd desc limit 50",
    ),
)


def grafana() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(PANELS, start=1):
        height = 4 if panel.display == "number" else 9
        if x + panel.width > GRID_COLUMNS:
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


def _grafana_panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    types = {"number": "stat", "bars over time": "timeseries", "bars": "barchart", "table": "table"}
    source = {"type": "grafana-postgresql-datasource", "uid": "${DS_LEDGER}"}
    is_series = panel.display == "bars over time"
    custom = {"drawStyle": "bars", "fillOpacity": 80, "stacking": {"mode": "normal"}} if is_series else {}
    return {
        "id": number,
        "title": panel.title,
        "type": types[panel.display],
        "datasource": source,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {"orientation": "horizontal"} if panel.display == "bars" else {},
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
    """Return the questions and their positions for Metabase's API; metabase.py adds the database."""
    displays = {"number": "scalar", "bars over time": "bar", "bars": "row", "table": "table"}
    cards = [
        {
            "name": panel.title,
            "display": displays[panel.display],
            "visualization_settings": {"stackable.stack_type": "stacked"}
            if panel.display == "bars over time"
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
    positions: list[dict[str, int]] = []
    row = column = 0
    for panel in PANELS:
        if column + panel.width > GRID_COLUMNS:
            row, column = row + 7, 0
        height = 3 if panel.display == "number" else 7
        positions.append({"row": row, "col": column, "size_x": panel.width, "size_y": height})
        column += panel.width
    return {"dashboard": {"name": TITLE}, "cards": cards, "positions": positions}


def main() -> int:
    """Write or compare the files and return the exit code."""
    check = sys.argv[1:] == ["--check"]
    outdated = 0
    for name, dashboard in (("grafana.json", grafana()), ("metabase.json", metabase())):
        path, text = HERE / name, json.dumps(dashboard, indent=2) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        outdated += 1
        if not check:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}: {'out of date' if check else 'written'}\n")
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
