"""Choice of the temporary directory of a local Ray."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from opencode_tasks.errors import SetupError
from opencode_tasks.orchestration.local_ray import (
    FALLBACK_TMPDIRS,
    LONGEST_SOCKET,
    MAX_SOCKET_PATH_BYTES,
    MAX_TMPDIR_BYTES,
    _make_folder,
    _temporary_dirs,
)


@pytest.fixture
def short() -> Iterator[Path]:
    """A writable directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="s", dir=FALLBACK_TMPDIRS[0]) as name:
        assert len(os.fsencode(name)) <= MAX_TMPDIR_BYTES
        yield Path(name)


def test_the_longest_socket_path_fits_exactly(short: Path) -> None:
    folder = _make_folder([str(short)])
    folder.rmdir()
    unused = MAX_TMPDIR_BYTES - len(os.fsencode(short))
    assert len(os.fsencode(folder)) + len(LONGEST_SOCKET) == MAX_SOCKET_PATH_BYTES - unused


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, FALLBACK_TMPDIRS[0]),
        ({"TMPDIR": ""}, FALLBACK_TMPDIRS[0]),
        ({"TMPDIR": "/mine"}, "/mine"),
        ({"TMP": "/third", "TEMP": "/second"}, "/second"),
    ],
)
def test_the_directory_of_the_user_comes_first(environ: dict[str, str], first: str) -> None:
    found = _temporary_dirs(environ)
    assert found[0] == first
    assert found[-len(FALLBACK_TMPDIRS) :] == list(FALLBACK_TMPDIRS)


def test_a_directory_is_listed_once() -> None:
    assert _temporary_dirs({"TMPDIR": "/tmp", "TMP": "/tmp/"}) == list(FALLBACK_TMPDIRS)


def test_a_relative_directory_is_made_absolute() -> None:
    assert _temporary_dirs({"TMPDIR": "here"})[0] == str(Path.cwd() / "here")


def test_a_long_path_is_skipped_without_a_warning(
    short: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = tmp_path / ("é" * MAX_TMPDIR_BYTES)
    long.mkdir()
    folder = _make_folder([str(long), str(short)])
    folder.rmdir()
    assert folder.parent == short
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("kind", ["missing", "file", "/proc"])
def test_an_unusable_directory_is_skipped_with_a_warning(
    short: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    unusable = Path(kind) if kind == "/proc" else short / kind
    if kind == "file":
        unusable.touch()
    folder = _make_folder([str(unusable), str(short)])
    folder.rmdir()
    assert folder.parent == short
    [message] = [record.getMessage() for record in caplog.records]
    assert f"the local Ray uses {short} for temporary files: {unusable} cannot be used (" in message


def test_without_a_usable_directory_every_reason_is_named(short: Path) -> None:
    long = f"/{'x' * MAX_TMPDIR_BYTES}"
    with pytest.raises(SetupError) as caught:
        _make_folder([long, str(short / "missing")])
    assert f"{long} is longer than {MAX_TMPDIR_BYTES} bytes" in caught.value.raw_message
    assert f"{short / 'missing'} cannot be used (No such file or directory)" in caught.value.raw_message
    assert "\n" not in caught.value.raw_message
    assert f"at most {MAX_TMPDIR_BYTES} bytes" in caught.value.hint
