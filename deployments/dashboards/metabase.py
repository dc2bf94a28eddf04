"""Send metabase.json to a Metabase: its questions, and a dashboard of them.

    METABASE_API_KEY=… python deployments/dashboards/metabase.py https://metabase.example DATABASE_ID

DATABASE_ID is the number that Metabase has given the ledger's PostgreSQL (Admin, Databases: it is in
the address). The key is made under Admin, Settings, Authentication, API keys.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

LIMIT_S = 30.0


def send(client: httpx.Client, told: dict[str, Any], database: int) -> int:
    """Make the questions and the dashboard; its id."""
    cards: list[dict[str, Any]] = []
    for card, place in zip(told["cards"], told["places"], strict=True):
        card["dataset_query"]["database"] = database
        made = client.post("/api/card", json=card).raise_for_status().json()
        cards.append({"id": -len(cards) - 1, "card_id": made["id"], **place})
    dashboard = client.post("/api/dashboard", json=told["dashboard"]).raise_for_status().json()
    client.put(f"/api/dashboard/{dashboard['id']}", json={"dashcards": cards}).raise_for_status()
    return int(dashboard["id"])


def main() -> None:
    """Send it to the Metabase that the arguments name."""
    key = os.environ.get("METABASE_API_KEY")
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal() or not key:  # noqa: PLR2004  the two of the usage
        sys.exit("usage: METABASE_API_KEY=… python deployments/dashboards/metabase.py URL DATABASE_ID")
    told = json.loads(Path(__file__).with_name("metabase.json").read_text(encoding="utf-8"))
    with httpx.Client(base_url=sys.argv[1], headers={"x-api-key": key}, timeout=LIMIT_S) as client:
        number = send(client, told, int(sys.argv[2]))
    sys.stdout.write(f"{sys.argv[1].rstrip('/')}/dashboard/{number}\n")


if __name__ == "__main__":
    main()
