"""Time of the ledger's views and of the report page with many model calls.

    python benchmarks/reports.py [ROWS] [LEDGER] [--page FILE]

Fills a ledger with generated model calls (200,000 by default) of 60 days, four models, three deployments and
two labels. Prints the seconds of each view, of each grouping of `report` and of the page. LEDGER is a URL,
such as postgresql://…; without it, the ledger is a SQLite file in a temporary folder.
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
ROWS_PER_INSERT = 5000
MODELS = {
    # USD per million tokens: input, cache read, output.
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


def generate(count: int, rng: random.Random) -> Iterator[Tables]:
    """Yield the tables of one run after the other, with ``count`` rows in total, their attempts and calls."""
    runs_count = -(-count // ROWS_PER_RUN)
    for number in range(runs_count):
        size = min(count - number * ROWS_PER_RUN, ROWS_PER_RUN)
        yield _run(number, size, runs_count, rng)


def _run(number: int, size: int, runs_count: int, rng: random.Random) -> Tables:
    started_at = NOW - timedelta(days=DAYS * (1 - (number + 1) / runs_count))
    model = rng.choices(list(MODELS), weights=(5, 4, 2, 1))[0]
    run_id = f"{started_at:%Y%m%d-%H%M%S}-{number:06x}"
    run = {
        "run_id": run_id,
        "created_at": started_at,
        "ended_at": started_at + timedelta(hours=1),
        "status": "completed",
        "parameters": {},
        "model_ref": model,
        "deployment": rng.choices(DEPLOYMENTS, weights=(5, 3, 1))[0],
        "refresh": False,
    }
    tables: Tables = {"runs": [run], "rows": [], "attempts": [], "usage": []}
    for position in range(size):
        _row(tables, run, position, rng)
    return tables


def _row(tables: Tables, run: dict[str, Any], position: int, rng: random.Random) -> None:
    key = {"run_id": run["run_id"], "row_id": f"row-{position:05}", "row_key": f"{run['run_id']}-{position}"}
    started_at = run["created_at"] + timedelta(seconds=position)
    has_failed = rng.random() < 0.03
    labels = {"team": rng.choices(TEAMS, weights=(6, 3, 2, 1))[0], "language": rng.choice(LANGUAGES)}
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
            "completed_at": started_at,
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
            "started_at": started_at,
            "ended_at": started_at,
            "status": "failed" if has_failed else "completed",
            "error_type": rng.choice(ERRORS) if has_failed else None,
            "usage_known": rng.random() > 0.0005,
            "reserved_pico": 5 * 10**9,
        }
    )
    call = _call(key, attempt_id, run["model_ref"], started_at, rng)
    tables["usage"].append(call)
    tables["rows"][-1]["cost_pico"] = call["cost_pico"]


def _call(
    key: dict[str, Any], attempt_id: str, model: str, at: datetime, rng: random.Random
) -> dict[str, Any]:
    input_price, cached_price, output_price = MODELS[model]
    tokens = {
        "input_tokens": rng.randint(40, 900),
        "cache_read_tokens": rng.choice((0, 0, 1024)),
        "cache_write_tokens": 0,
        "output_tokens": int(rng.lognormvariate(4, 1)),
        "reasoning_tokens": rng.choice((0, 0, 0, 200)),
    }
    input_cost = tokens["input_tokens"] * input_price + tokens["cache_read_tokens"] * cached_price
    output_cost = (tokens["output_tokens"] + tokens["reasoning_tokens"]) * output_price
    cost_pico = round((input_cost + output_cost) * 10**6)
    is_known = not model.startswith("openrouter")
    return {
        **key,
        **tokens,
        "session_id": f"ses_{attempt_id}",
        "step_id": f"prt_{attempt_id}",
        "attempt_id": attempt_id,
        "model_ref": model,
        "agent": "opencode-tasks",
        "cost_pico": cost_pico if is_known else None,
        "cost_source": "reported" if is_known else "unpriced",
        "cost_reported_pico": cost_pico if is_known else None,
        "cost_computed_pico": round(cost_pico * (1.25 if "sonnet" in model else 1)) if is_known else None,
        "price_source": "genai-prices" if is_known else None,
        "ended_at": at,
    }


def fill(ledger: Ledger, count: int) -> None:
    """Write generated rows to a ledger."""
    rng = random.Random(7)
    by_name = {table.name: table for table in (runs, rows, attempts, usage)}
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:  # noqa: SLF001
        for tables in generate(count, rng):
            for name, lines in tables.items():
                chunks = iter(lines)
                while chunk := list(islice(chunks, ROWS_PER_INSERT)):
                    connection.execute(insert(by_name[name]), chunk)


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the duration of a call in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Fill a ledger, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="?", type=int, default=200_000, metavar="ROWS")
    parser.add_argument("ledger", nargs="?", metavar="LEDGER")
    parser.add_argument("--page", type=Path, help="write the page to this file")
    options = parser.parse_args()
    count = options.rows
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(options.ledger or str(Path(folder) / "ledger.db")) as ledger,
    ):
        fill_s = seconds_of(lambda: fill(ledger, count))
        dialect = ledger._database.engine.dialect.name  # noqa: SLF001
        print(
            f"{count:,} model calls on {dialect}, written in {fill_s:.0f} s\n\n| query | seconds |\n|---|---|"
        )
        queries = ledger.reports
        with ledger._database.engine.connect() as connection:  # noqa: SLF001
            for view in VIEWS:
                # All lines are read: for count(*), the database would not compute the sums.
                query = text(f"select * from {view.name}")
                view_s = seconds_of(lambda query=query: connection.execute(query).all())
                print(f"| view {view.name} | {view_s:.2f} |")
        for name in GROUPINGS:
            print(f"| report --by {name} | {seconds_of(lambda name=name: queries.spent((name,))):.2f} |")
        pages: list[str] = []
        arguments: dict[str, Any] = {
            "since": None,
            "now": datetime.now(UTC),
            "source": ledger.url,
            "drift": 0.05,
        }
        page_s = seconds_of(lambda: pages.append(report_page(queries, **arguments)))
        print(f"| report --html, {len(pages[0]) // 1024} KiB | {page_s:.2f} |")
        if options.page:
            options.page.write_text(pages[0], encoding="utf-8")


if __name__ == "__main__":
    main()
