"""Runs of the engine on threads of this process."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opencode_tasks import AnnotationResult
from opencode_tasks.engine.run import execute
from opencode_tasks.engine.thread_executor import ThreadExecutor
from opencode_tasks.ledger import Ledger
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.resolver import ResolvedOptions
from opencode_tasks.settings import settings
from opencode_tasks.testing import ScriptedProvider


@contextmanager
def setting(name: str, value: str) -> Generator[None]:
    """A variable of the settings for the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"OPENCODE_TASKS_{name}", value)
        settings.cache_clear()
        yield
    settings.cache_clear()


class Engine:
    """Plans over rows ``row 0``, ``row 1``, …, and the ledger of their runs.

    ``way`` are the options that say which backend answers.
    """

    def __init__(
        self, folder: Path, provider: ScriptedProvider, way: Mapping[str, Any], *, rows: int = 6
    ) -> None:
        self.provider = provider
        self.ledger_url = str(folder / "ledger.db")
        self.frame = pd.DataFrame({"prompt": [f"row {i}" for i in range(rows)]})
        self._way = way

    def plan(self, **more: Any) -> Plan:
        values: dict[str, Any] = {"ledger": self.ledger_url, "concurrency": 2, **self._way, **more}
        return make_plan(self.frame, ResolvedOptions(options=Options(**values)))

    def execute(self, plan: Plan, **more: Any) -> AnnotationResult:
        return execute(plan, self.frame, executor=ThreadExecutor(), **more)

    def run(self) -> dict[str, Any]:
        """The newest run of the ledger."""
        with Ledger.open(self.ledger_url) as ledger:
            return ledger.runs.newest()[0]

    def outcomes(self) -> list[dict[str, Any]]:
        """The rows of the newest run."""
        with Ledger.open(self.ledger_url) as ledger:
            return ledger.results.outcomes(ledger.runs.newest()[0]["run_id"])
