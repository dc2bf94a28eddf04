"""Commands in a container (a user without a name or a home, a root that is read-only), and after ``uv run``.

Bubblewrap is the container, as no container engine is needed for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import COMMAND, LIMIT_S, Desk, Ran

UID = "54321"
ROOT = Path(__file__).parents[2]


def ran(command: list[str], folder: Path, environment: dict[str, str]) -> Ran:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return Ran(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files with a path that is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="c"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def contained(desk: Desk, temporary: Path, home: str | None, *arguments: str) -> Ran:
    """A command that can write to the desk's folder and to temporary files alone."""
    bubblewrap = shutil.which("bwrap")
    assert bubblewrap is not None, "install bubblewrap"
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary)} | ({"HOME": home} if home else {})
    places = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for folder in (desk.folder, temporary):
        places += ["--bind", str(folder), str(folder)]
    user = ["--unshare-user", "--uid", UID, "--gid", UID]
    return ran([bubblewrap, *places, *user, "--", str(COMMAND), *arguments], desk.folder, environment)


@pytest.mark.slow
@pytest.mark.parametrize("home", [pytest.param("/", marks=pytest.mark.nightly), None])
def test_rows_are_answered_without_a_home(desk: Desk, temporary: Path, home: str | None) -> None:
    desk.write_csv("in.csv", [{"prompt": "a"}, {"prompt": "b"}])
    done = contained(desk, temporary, home, *desk.arguments("in.csv", "-o", "out.csv"))
    assert done.code == 0, done.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["a", "b"]
    # Prefect would warn that its folder cannot be made.
    assert "Warning" not in done.stderr
    # Nothing is left of opencode's directories.
    assert [path for path in temporary.glob("*/opencode/*") if path.is_dir()] == []


@pytest.mark.slow
def test_doctor_names_the_folders_that_cannot_be_written(desk: Desk, temporary: Path) -> None:
    done = contained(desk, temporary, "/", "doctor")
    lines = done.stdout.splitlines()
    (folders,) = [line for line in lines if line.startswith("ok    folders")]
    assert "/.local/share/opencode-tasks/opencode cannot be written" in folders
    assert str(temporary / f"opencode-tasks-{UID}" / "opencode") in folders
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL  ledger")]
    assert lines[at].endswith("Read-only file system.")
    assert "OPENCODE_TASKS_LEDGER" in lines[at + 1]


@pytest.mark.nightly
@pytest.mark.alone
def test_after_uv_run_the_workers_have_this_environment(desk: Desk) -> None:
    """Ray would upload the working directory, and refuse a project outside of it."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    desk.write_csv("in.csv", [{"prompt": "a"}])
    run = ["run", "--project", str(ROOT), "--no-sync", "--frozen", "--python", sys.executable]
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": sys.prefix}
    arguments = desk.arguments("in.csv", "-o", "out.csv", "--runner", "ray")
    done = ran([uv, *run, "opencode-tasks", *arguments], desk.folder, dict(environment))
    assert done.code == 0, done.stderr
    assert [row["response"] for row in desk.read_csv("out.csv")] == ["a"]
