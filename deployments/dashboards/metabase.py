"""Create the questions and the dashboard of metabase.json in Metabase.

    METABASE_API_KEY=… python deployments/dashboards/metabase.py https://metabase.example DATABASE_ID

DATABASE_ID is Metabase's id of the ledger's PostgreSQL database: open it under Admin, Databases, and read
the id in the URL. Create the key under Admin, Settings, Authentication, API keys. Prints the URL of the
dashboard.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

LIMIT_S = 30.0


def create_dashboard(client: httpx.Client, content: dict[str, Any], database: int) -> int:
    """Create the questions and the dashboard and return the id of the dashboard.

    Raises HTTPStatusError if Metabase rejects a request.
    """
    cards: list[dict[str, Any]] = []
    for card, position in zip(content["cards"], content["positions"], strict=True):
        card["dataset_query"]["database"] = database
        created = client.post("/api/card", json=card).raise_for_status().json()
        cards.append({"id": -len(cards) - 1, "card_id": created["id"], **position})
    dashboard = client.post("/api/dashboard", json=content["dashboard"]).raise_for_status().json()
    client.put(f"/api/dashboard/{dashboard['id']}", json={"dashcards": cards}).raise_for_status()
    return int(dashboard["id"])


def main() -> None:
    """Read the arguments and create the dashboard."""
    key = os.environ.get("METABASE_API_KEY")
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal() or not key:  # noqa: PLR2004 - the two arguments of the usage line
        sys.exit("usage: METABASE_API_KEY=… python deployments/dashboards/metabase.py URL DATABASE_ID")
    content = json.loads(Path(__file__).with_name("metabase.json").read_text(encoding="utf-8"))
    with httpx.Client(base_url=sys.argv[1], headers={"x-api-key": key}, timeout=LIMIT_S) as client:
        dashboard_id = create_dashboard(client, content, int(sys.argv[2]))
    sys.stdout.write(f"{sys.argv[1].rstrip('/')}/dashboard/{dashboard_id}\n")


if __name__ == "__main__":
    main()
