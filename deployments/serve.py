"""Serve the flows from one process on a laptop, without a worker: schedules, sleep and resume work alike.

    prefect server start &
    python deployments/serve.py --input reviews.csv --output labelled.csv --cron "0 2 * * *"

Ends with Ctrl-C; runs that are due while it is off start when it is on again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.schedules import Cron

from opencode_tasks.orchestration.flows import annotate_dataset
from opencode_tasks.orchestration.report_flow import cost_report


def main() -> None:
    """Read what is wanted and serve it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="table to read, as in opencode-tasks annotate")
    parser.add_argument("--output", required=True, help="table to write")
    parser.add_argument("--cron", default="0 2 * * *", help="when to annotate (default: every night at 2)")
    parser.add_argument("--timezone", default="UTC", help="time zone of the schedules (default: UTC)")
    parser.add_argument("--model", help="provider/model (default: opencode's own)")
    parser.add_argument("--template", help="prompt made of columns, as in opencode-tasks annotate")
    parser.add_argument("--runner", choices=["ray", "threads"], default="threads", help="default: threads")
    parser.add_argument("--incremental", metavar="KEY", help="only rows without an answer yet")
    parser.add_argument("--reports", default="reports", help="folder of the weekly cost report")
    told = parser.parse_args()
    parameters = {
        "input": _place(told.input),
        "output": _place(told.output),
        "model": told.model,
        "template": told.template,
        "runner": told.runner,
        "incremental": told.incremental,
    }
    nightly: Any = annotate_dataset.to_deployment(
        name="laptop", parameters=parameters, schedule=Cron(told.cron, timezone=told.timezone)
    )
    weekly: Any = cost_report.to_deployment(
        name="laptop",
        parameters={"output": _place(told.reports), "since": "7d"},
        schedule=Cron("0 7 * * 1", timezone=told.timezone),
    )
    serve(nightly, weekly)


def _place(name: str) -> str:
    """A path in full, since the flow runs elsewhere; a URL or a table as it is."""
    return name if ":" in name else str(Path(name).absolute())


if __name__ == "__main__":
    main()
