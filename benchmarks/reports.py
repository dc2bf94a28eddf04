"""How long the views and the report page take over many model calls.

    python benchmarks/reports.py [ROWS] [LEDGER] [--page FILE]

fills a ledger (SQLite in a temporary folder unless one is named, such as postgresql://…) with made-up
model calls, 200,000 by default, over 60 days, four models, three deployments and two labels, and
prints the seconds of each view, each grouping of `report` and the page.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text

from opencode_tasks.ledger import GROUPINGS, Ledger
from opencode_tasks.ledger.schema import attempts, rows, runs, usage
from opencode_tasks.ledger.views import VIEWS
from opencode_tasks.reports.page import report_page

DAYS = 60
ROWS_PER_RUN = 2000
CHUNK = 5000
MODELS = {
    # USD for a million tokens: input, cache read, output.
    "anthropic/claude-haiku-4-5": (1.0, 0.1, 5.0),
    "openai/gpt-5-mini": (0.25, 0.025, 2.0),
    "anthropic/claude-sonnet-4-5": (3.0, 0.3, 15.0),
    "openrouter/qwen/qwen3-235b-a22b": (0.2, 0.2, 0.6),
}
DEPLOYMENTS = ("annotate-dataset/nightly-reviews", "annotate-dataset/hourly-tickets", None)
TEAMS = ("support", "search", "trust", "sales")
LANGUAGES = ("de", "en", "fr", "es", "pl", "it", "nl")
ERRORS = ("server_error", "rate_limit", "timeout", "max_output_tokens", "content_filter", "invalid_request")
NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)

Tables = dict[str, list[dict[str, Any]]]


def made_up(count: int, chance: random.Random) -> Iterator[Tables]:
    """So many rows with their attempts and calls, a chunk of tables at a time."""
    left = count
    for number in range(-(-count // ROWS_PER_RUN)):
        size = min(left, ROWS_PER_RUN)
        left -= size
        yield _run(number, size, -(-count // ROWS_PER_RUN), chance)


def _run(number: int, size: int, of: int, chance: random.Random) -> Tables:
    begun = NOW - timedelta(days=DAYS * (1 - (number + 1) / of))
    model = chance.choices(list(MODELS), weights=(5, 4, 2, 1))[0]
    run_id = f"{begun:%Y%m%d-%H%M%S}-{number:06x}"
    run = {
        "run_id": run_id,
        "created_at": begun,
        "ended_at": begun + timedelta(hours=1),
        "status": "completed",
        "parameters": {},
        "model_ref": model,
        "deployment": chance.choices(DEPLOYMENTS, weights=(5, 3, 1))[0],
        "refresh": False,
    }
    tables: Tables = {"runs": [run], "rows": [], "attempts": [], "usage": []}
    for position in range(size):
        _row(tables, run, position, chance)
    return tables


def _row(tables: Tables, run: dict[str, Any], position: int, chance: random.Random) -> None:
    key = {"run_id": run["run_id"], "row_id": f"row-{position:05}", "row_key": f"{run['run_id']}-{position}"}
    begun = run["created_at"] + timedelta(seconds=position)
    has_failed = chance.random() < 0.03
    labels = {"team": chance.choices(TEAMS, weights=(6, 3, 2, 1))[0], "language": chance.choice(LANGUAGES)}
    tables["rows"].append(
        key
        | {
            "position": position,
            "prompt": f"Is this review positive or negative? The {labels['team']} team was slow.",
            "labels": labels,
            "status": "failed" if has_failed else "completed",
            "attempts": 1,
            "model_ref": run["model_ref"],
            "reused": False,
            "completed_at": begun,
        }
    )
    attempt_id = f"{key['row_key']}-1"
    tables["attempts"].append(
        key
        | {
            "attempt_id": attempt_id,
            "attempt": 1,
            "fence": 1,
            "owner": "benchmark",
            "started_at": begun,
            "ended_at": begun,
            "status": "failed" if has_failed else "completed",
            "error_type": chance.choice(ERRORS) if has_failed else None,
            "usage_known": chance.random() > 0.0005,
            "reserved_pico": 5 * 10**9,
        }
    )
    call = _call(key, attempt_id, run["model_ref"], begun, chance)
    tables["usage"].append(call)
    tables["rows"][-1]["cost_pico"] = call["cost_pico"]


def _call(
    key: dict[str, Any], attempt_id: str, model: str, at: datetime, chance: random.Random
) -> dict[str, Any]:
    given, cached, answered = MODELS[model]
    tokens = {
        "input_tokens": chance.randint(40, 900),
        "cache_read_tokens": chance.choice((0, 0, 1024)),
        "cache_write_tokens": 0,
        "output_tokens": int(chance.lognormvariate(4, 1)),
        "reasoning_tokens": chance.choice((0, 0, 0, 200)),
    }
    sold = tokens["output_tokens"] + tokens["reasoning_tokens"]
    usd = tokens["input_tokens"] * given + tokens["cache_read_tokens"] * cached + sold * answered
    cost = round(usd * 10**6)
    is_known = not model.startswith("openrouter")
    return {
        **key,
        **tokens,
        "session_id": f"ses_{attempt_id}",
        "step_id": f"prt_{attempt_id}",
        "attempt_id": attempt_id,
        "model_ref": model,
        "agent": "opencode-tasks",
        "cost_pico": cost if is_known else None,
        "cost_source": "reported" if is_known else "unpriced",
        "cost_reported_pico": cost if is_known else None,
        "cost_computed_pico": round(cost * (1.25 if "sonnet" in model else 1)) if is_known else None,
        "price_source": "genai-prices" if is_known else None,
        "ended_at": at,
    }


def fill(ledger: Ledger, count: int) -> None:
    """Write the made-up rows."""
    chance = random.Random(7)
    by_name = {table.name: table for table in (runs, rows, attempts, usage)}
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:  # noqa: SLF001
        for tables in made_up(count, chance):
            for name, lines in tables.items():
                chunks = iter(lines)
                while chunk := list(islice(chunks, CHUNK)):
                    connection.execute(insert(by_name[name]), chunk)


def seconds_of(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="?", type=int, default=200_000, metavar="ROWS")
    parser.add_argument("ledger", nargs="?", metavar="LEDGER")
    parser.add_argument("--page", type=Path, help="keep the page in this file")
    asked = parser.parse_args()
    count = asked.rows
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(asked.ledger or str(Path(folder) / "ledger.db")) as ledger,
    ):
        spent_s = seconds_of(lambda: fill(ledger, count))
        kind = ledger._database.engine.dialect.name  # noqa: SLF001
        print(f"{count:,} model calls on {kind}, written in {spent_s:.0f} s\n\n| what | seconds |\n|---|---|")
        accounts = ledger.reports
        with ledger._database.engine.connect() as connection:  # noqa: SLF001
            for view in VIEWS:
                # Every line read: of a mere count the database would leave the sums out.
                query = text(f"select * from {view.name}")
                taken_s = seconds_of(lambda query=query: connection.execute(query).all())
                print(f"| view {view.name} | {taken_s:.2f} |")
        for name in GROUPINGS:
            print(f"| report --by {name} | {seconds_of(lambda name=name: accounts.spent((name,))):.2f} |")
        pages: list[str] = []
        told: dict[str, Any] = {"since": None, "now": datetime.now(UTC), "source": ledger.url, "drift": 0.05}
        taken_s = seconds_of(lambda: pages.append(report_page(accounts, **told)))
        print(f"| report --html, {len(pages[0]) // 1024} KiB | {taken_s:.2f} |")
        if asked.page:
            asked.page.write_text(pages[0], encoding="utf-8")


if __name__ == "__main__":
    main()
