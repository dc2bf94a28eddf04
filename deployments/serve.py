"""Serve the flows from one process on a laptop, without a worker. Schedules, sleep and resume work.

    prefect server start &
    python deployments/serve.py --input reviews.csv --output labelled.csv --cron "0 2 * * *"

Ctrl-C ends it. Runs that are due while it does not run start when it runs again.
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
    """Parse the arguments and serve the two flows."""
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
    arguments = parser.parse_args()
    parameters = {
        "input": _absolute(arguments.input),
        "output": _absolute(arguments.output),
        "model": arguments.model,
        "template": arguments.template,
        "runner": arguments.runner,
        "incremental": arguments.incremental,
    }
    nightly: Any = annotate_dataset.to_deployment(
        name="laptop", parameters=parameters, schedule=Cron(arguments.cron, timezone=arguments.timezone)
    )
    weekly: Any = cost_report.to_deployment(
        name="laptop",
        parameters={"output": _absolute(arguments.reports), "since": "7d"},
        schedule=Cron("0 7 * * 1", timezone=arguments.timezone),
    )
    serve(nightly, weekly)


def _absolute(name: str) -> str:
    """An absolute path, since the flow runs in another folder; a URL or a table is not changed."""
    return name if ":" in name else str(Path(name).absolute())


if __name__ == "__main__":
    main()
