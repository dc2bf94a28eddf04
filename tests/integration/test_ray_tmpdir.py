"""A local Ray starts with every TMPDIR: at the limit of a socket path, longer, missing, not a directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.orchestration.local_ray import FALLBACK_TMPDIRS, LONGEST_SOCKET, MAX_TMPDIR_BYTES

pytestmark = pytest.mark.alone

LIMIT_S = 200.0
START = """
import json, os, stat
from opencode_tasks.orchestration.local_ray import ray_folder, ray_options

with ray_folder() as folder:
    import ray

    ray.init(address="local", num_cpus=1, **ray_options(folder))
    value = ray.get(ray.remote(lambda: 42).remote())
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    sockets = [path for path in paths if stat.S_ISSOCK(os.lstat(path).st_mode)]
    ray.shutdown()
print("found", json.dumps({"value": value, "folder": str(folder), "sockets": sockets}))
"""


@contextmanager
def directory_of_length(length: int) -> Generator[Path]:
    """A directory whose path has this many bytes."""
    parent = FALLBACK_TMPDIRS[0]
    name = uuid.uuid4().hex * (length // 32 + 1)
    path = Path(parent) / name[: length - len(parent) - 1]
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def start_ray(tmpdir: Path) -> tuple[dict[str, Any], str]:
    """Start a local Ray in a process with this TMPDIR; what it found, and its standard error."""
    ran = subprocess.run(
        [sys.executable, "-c", START],
        env=os.environ | {"TMPDIR": str(tmpdir)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.split("found ", 1)[1]), ran.stderr


def with_seven_digits(path: str) -> int:
    """The length of a socket's path if the process id in it had seven digits."""
    [pid] = re.findall(r"_(\d+)/sockets/", path)
    return len(path) + 7 - len(pid)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("length", "is_used"),
    [
        pytest.param(MAX_TMPDIR_BYTES - 1, True, marks=pytest.mark.nightly),
        pytest.param(MAX_TMPDIR_BYTES, True, marks=pytest.mark.nightly),
        pytest.param(MAX_TMPDIR_BYTES + 1, False, marks=pytest.mark.nightly),
        pytest.param(200, False, marks=pytest.mark.nightly),
    ],
)
def test_ray_starts_around_the_limit(length: int, is_used: bool) -> None:
    with directory_of_length(length) as tmpdir:
        found, stderr = start_ray(tmpdir)
        assert list(tmpdir.glob("oct-ray-*")) == []
    assert found["value"] == 42
    assert Path(found["folder"]).parent == (tmpdir if is_used else Path(FALLBACK_TMPDIRS[0]))
    assert not Path(found["folder"]).exists()
    assert "temporary files" not in stderr
    # Ray's naming of its sockets, on which the limit rests.
    longest = max(map(with_seven_digits, found["sockets"]))
    assert longest - len(found["folder"]) == len(LONGEST_SOCKET)
    assert longest <= 107


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_ray_starts_with_a_tmpdir_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    with directory_of_length(12) as parent:
        tmpdir = parent / kind
        if kind == "file":
            tmpdir.touch()
        found, stderr = start_ray(tmpdir)
    assert found["value"] == 42
    assert Path(found["folder"]).parent == Path(FALLBACK_TMPDIRS[0])
    [line] = [line for line in stderr.splitlines() if "temporary files" in line]
    assert f"{tmpdir} cannot be used (" in line
