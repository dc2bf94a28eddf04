"""A real Prefect server and a real Ray for the session, and the command line as a user runs it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forked_commands import SCRIPTED, loaded_command

from opencode_tasks.testing import ScriptedProvider

# A command with these finds no Prefect API and no Ray, as those of most users.
OWN_SERVICES: dict[str, str | None] = {"PREFECT_API_URL": None, "RAY_AUTH_TOKEN": None}
COMMAND = Path(sys.executable).with_name("opencode-tasks")
LIMIT_S = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The object that ``--json`` printed."""
        return json.loads(self.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A user's working folder with a provider's config in it.

    With ``is_scripted`` the provider's backend answers in place of opencode, for tests of everything else:
    a command then takes a second or two. ``test_backend_contract`` shows that it answers as opencode does.
    ``env`` has variables of its commands; None removes one.
    """

    folder: Path
    provider: ScriptedProvider
    binary: Path
    ray_address: str | None = None
    is_scripted: bool = False
    env: dict[str, str | None] = field(default_factory=dict[str, "str | None"])

    def write_csv(self, name: str, rows: Sequence[Mapping[str, str]]) -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    def read_csv(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def arguments(self, *more: str) -> list[str]:
        """``annotate`` with this desk's provider, ledger and runner; later options win."""
        config = self.folder / "opencode.json"
        config.write_text(json.dumps(self.provider.opencode_config()))
        runner = (
            ["--runner", "ray", "--ray-address", self.ray_address]
            if self.ray_address
            else ["--runner", "threads"]
        )
        fixed = ["--opencode-config", str(config), "--opencode-bin", str(self.binary)]
        # A backend that does not run opencode has a model of its own.
        model = [] if self.is_scripted or "--model" in more else ["--model", "fake/echo"]
        return ["annotate", *model, *fixed, *runner, "--ledger", str(self.folder / "ledger.db"), *more]

    def annotate(self, *more: str) -> Ran:
        return self.run(*self.arguments(*more))

    def run(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> Ran:
        with self.start(*arguments, env=env) as process:
            try:
                stdout, stderr = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Ran(code=process.returncode, stdout=stdout, stderr=stderr)

    def start(
        self, *arguments: str, env: Mapping[str, str | None] | None = None, terminal: int | None = None
    ) -> subprocess.Popen[str]:
        command = [str(COMMAND), *arguments]
        variables: dict[str, str | None] = {**os.environ, **self.env, **(env or {})}
        environment = {k: v for k, v in variables.items() if v is not None}
        if self.is_scripted:
            known = {"config": self.provider.opencode_config(), "models": self.provider.models}
            environment[SCRIPTED] = json.dumps(known)
            return loaded_command.start(command, self.folder, environment, terminal)
        assert terminal is None, "only a command of a scripted desk starts on a terminal"
        if (forked := loaded_command.start_if_loaded(command, self.folder, environment)) is not None:
            return forked
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def read_all(screen: int) -> str:
    """Everything that a terminal shows, up to its end."""
    found = b""
    # Linux answers EIO after the other side is closed.
    with contextlib.suppress(OSError), open(screen, "rb", buffering=0) as file:
        while piece := file.read(4096):
            found += piece
    return found.decode(errors="replace")
