"""The deployable entry point ``flows/cost_report.py:cost_report``."""

from __future__ import annotations

from opencode_tasks.orchestration.report_flow import cost_report

__all__ = ["cost_report"]
