"""``cost_report``: what a ledger's runs spent, as files and artifacts, as one deployable flow.

A flow's function is pickled by value for Ray, with the globals it uses, so its body is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow

from opencode_tasks.ledger import Grouping
from opencode_tasks.orchestration.report_files import write_reports


@flow(name="cost-report", log_prints=False, persist_result=False)
def cost_report(
    output: str = ".",
    *,
    ledger: str | None = None,
    by: Sequence[Grouping] = ("model",),
    since: str | None = None,
    link: str | None = None,
) -> dict[str, Any]:
    """Write ``cost-report.html``, ``cost-report.csv`` and ``cost-report-focus.csv`` into ``output``.

    ``output`` is a folder or any fsspec URL of one, ``by`` and ``since`` are as in ``opencode-tasks
    report`` (``7d`` is the last seven days), ``link`` is the address at which people reach the page,
    where that is not its path. Leaves a table, a Markdown summary and a link as artifacts; the totals.
    """
    return write_reports(output, ledger=ledger, by=tuple(by), since=since, link=link)
