"""Rows whose agent works on files, for tests: the real opencode with its own tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from engine_runs import Engine

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply, ScriptedProvider

TOOLS = ("bash", "edit", "read", "write")
FILES = {"a.txt": "one\ntwo\n", "sub/b.txt": "b\n"}


def cost_usd(provider: ScriptedProvider) -> float:
    """The cost of the calls that a provider has answered, by its record and the prices of its model."""
    price = provider.models["echo"]["cost"]
    tokens = [(call.input_tokens, call.output_tokens) for call in provider.calls]
    return sum(given * price["input"] + made * price["output"] for given, made in tokens) / 1e6


def shell(command: str) -> Reply:
    """A call of the tool ``bash``."""
    return Reply(tool_calls=[("bash", {"command": command, "description": "work"})])


class Work(Engine):
    """Runs over rows with workspaces, whose agent may use the tools that change files."""

    def __init__(self, folder: Path, provider: ScriptedProvider, binary: Path) -> None:
        self.config: dict[str, Any] = provider.opencode_config()
        self.binary = binary
        way = {"opencode_bin": str(binary), "opencode_config": self.config, "model": "fake/echo"}
        super().__init__(folder, provider, {**way, "allow_tool": TOOLS})
        self.folder = folder

    def rows(self, **columns: list[str]) -> None:
        """The rows of the next run; one without columns."""
        count = len(next(iter(columns.values()), "1"))
        prompts = [f"do task {number}." for number in range(count)]
        self.frame = pd.DataFrame({"prompt": prompts, **columns})

    def does(self, number: int, *replies: Reply) -> None:
        """Script the agent of a row: these calls, then an answer."""
        self.provider.on(
            lambda call: f"do task {number}." in json.dumps(call.body), *replies, Reply(text="done")
        )

    def run_rows(self, **options: Any) -> pd.DataFrame:
        """The OUTPUT of a run."""
        return self.execute(self.plan(**{"workspace": "repo", **options})).frame

    def attempts(self) -> list[dict[str, Any]]:
        """The attempts of the newest run, by row."""
        run_id = self.run()["run_id"]
        with Ledger.open(self.ledger_url) as ledger:
            found = ledger.results.attempts(run_id)
        return sorted(found, key=lambda one: (one["row_id"], one["attempt"]))
