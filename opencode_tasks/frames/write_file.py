"""OUTPUT files: a frame at a path or any fsspec URL. A local file is replaced as a whole or not at all.

A format writes every frame: it turns values that it has no type for into JSON text, so that answers that
were paid for are never lost.
"""

# pandas and fsspec have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import fcntl
import gzip
import io
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import fsspec
import pandas as pd
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from opencode_tasks.frames.content import compression_of, one_line
from opencode_tasks.frames.excel_file import INSTALL, is_installed, write_excel
from opencode_tasks.frames.formats import format_of, unknown_suffix
from opencode_tasks.ledger.column_types import storable

_IS_HEX: Final = re.compile(r"[0-9a-f]{32}")


def file_faults(
    path_or_url: str | os.PathLike[str],
    *,
    input_path: str | os.PathLike[str] | None = None,
    sample: pd.DataFrame | None = None,
) -> list[str]:
    """Return one line for each reason why OUTPUT cannot be written; [] if there is none.

    Nothing is created at the path. Of a remote URL, only the suffix and the protocol are checked. The rows of
    ``sample`` are written in memory, to find columns that the format cannot hold.
    """
    name = os.fspath(path_or_url)
    faults: list[str] = []
    file_format = format_of(name)
    if file_format is None:
        faults.append(f"OUTPUT {name}: {unknown_suffix()}")
    elif file_format.write is write_excel and not is_installed():
        faults.append(f"OUTPUT {name}: {INSTALL}")
    elif sample is not None:
        faults.extend(f"OUTPUT {name}: {fault}" for fault in column_faults(file_format.write, sample))
    try:
        local = _local_path(name)
    except (ValueError, ImportError, OSError) as error:
        return [*faults, f"OUTPUT {name}: {error}"]
    if local is not None:
        faults.extend(f"OUTPUT {name}: {fault}" for fault in _path_faults(local))
    if input_path is not None and _is_same_file(name, os.fspath(input_path)):
        faults.append(f"OUTPUT {name}: this is the INPUT file; use another name")
    return faults


def column_faults(write: Callable[[Iterable[pd.DataFrame], Any], None], sample: pd.DataFrame) -> list[str]:
    """Return one line for each column of the rows that ``write`` refuses."""
    if not sample.columns.is_unique:
        return []
    fault = _trial_fault(write, sample)
    if fault is None:
        return []
    advice = "use another format, such as .jsonl, or leave the column out"
    found = [
        f"the column {str(name)!r} cannot be written: {reason}; {advice}"
        for at, name in enumerate(sample.columns)
        if (reason := _trial_fault(write, sample.iloc[:, [at]])) is not None
    ]
    return found or [f"the columns cannot be written: {fault}"]


def _trial_fault(write: Callable[[Iterable[pd.DataFrame], Any], None], sample: pd.DataFrame) -> str | None:
    try:
        write([sample], io.BytesIO())
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        return one_line(error)
    return None


def write_frames(frames: Iterable[pd.DataFrame], path_or_url: str | os.PathLike[str]) -> None:
    """Write frames with the same columns, one at least, as one table without index.

    The suffix is the format. One frame at a time is in memory; for Parquet, all frames are in memory as
    Arrow tables. Raises ValueError if the suffix is unknown, and OSError if the file cannot be written or if
    the format has no such type of a column; see ``file_faults``.
    """
    name = os.fspath(path_or_url)
    file_format = format_of(name)
    if file_format is None:
        raise ValueError(f"OUTPUT {name}: {unknown_suffix()}")
    with _open_output(name) as file, _compressed(file, compression_of(name)) as target:
        try:
            file_format.write(frames, target)
        except pa.ArrowException as error:
            raise OSError(f"OUTPUT {name}: {one_line(error)}; use another format, such as .jsonl") from None


@contextmanager
def _compressed(file: Any, compression: str | None) -> Generator[Any]:
    """Compress what the block writes to a file, in the way that a suffix means."""
    if compression is None:
        yield file
    elif compression == ".gz":
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as target:
            yield target
    else:
        kept = pa.PythonFile(_Unclosed(file), mode="w")
        with pa.CompressedOutputStream(kept, "zstd") as target:
            yield target


def encoded(frame: pd.DataFrame, suffix: str) -> bytes:
    """Return the content of a file with this suffix, such as ``csv``; raises ValueError if it is unknown."""
    file_format = format_of(f".{suffix}")
    if file_format is None:
        raise ValueError(unknown_suffix())
    file = io.BytesIO()
    file_format.write([frame], file)
    return file.getvalue()


def write_bytes(content: bytes, path_or_url: str | os.PathLike[str]) -> None:
    """Write a file; raises OSError if it cannot be written."""
    with _open_output(os.fspath(path_or_url)) as file:
        file.write(content)


def write_records(lines: Iterable[str], path_or_url: str | os.PathLike[str]) -> None:
    """Write JSON objects, each in one line, as they come; raises OSError if the file cannot be written.

    The suffix is ``.jsonl``, or ``.json`` for an array of them; both may be compressed. What is not UTF-8
    becomes U+FFFD.
    """
    name = os.fspath(path_or_url)
    file_format = format_of(name)
    is_array = file_format is not None and file_format.name == "json"
    before = "[\n" if is_array else ""
    with _open_output(name) as file, _compressed(file, compression_of(name)) as target:
        for line in lines:
            target.write(f"{before}{storable(line)}".encode())
            before = ",\n" if is_array else "\n"
        end = "\n]\n" if before == ",\n" else "[]\n" if is_array else before
        target.write(end.encode())


class _Unclosed:
    """A file that stays open when the stream that writes to it is closed."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.write = file.write
        self.flush = file.flush

    def close(self) -> None:
        """Leave the file open."""


@contextmanager
def _open_output(name: str) -> Generator[Any]:
    """Open a file that is moved to its path, or uploaded to its URL, when the block ends without an error."""
    local = _local_path(name)
    if local is not None:
        with _replace_file(local) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        opened: Any = fsspec.open(name, "wb")
        with opened as target:
            shutil.copyfileobj(file, target)


def _local_path(name: str) -> Path | None:
    filesystem, path = fsspec.core.url_to_fs(name)
    return Path(os.path.realpath(path)) if isinstance(filesystem, LocalFileSystem) else None


def is_local_file(name: str) -> bool:
    """Return whether a path or URL is a file of this machine that exists."""
    local = _local_path(name)
    return local is not None and local.is_file()


def _path_faults(path: Path) -> Iterable[str]:
    folder = path.parent
    if path.is_dir():
        yield "this is a folder; use the name of a file"
    elif not folder.is_dir():
        yield f"the folder {folder} does not exist"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"the folder {folder} is not writable"


def _is_same_file(output: str, source: str) -> bool:
    try:
        first, second = _local_path(output), _local_path(source)
    except (ValueError, ImportError, OSError):
        return output == source
    if first is None or second is None:
        return output == source
    return first == second or (first.exists() and second.exists() and first.samefile(second))


@contextmanager
def _locked_file(folder: Path, prefix: str) -> Generator[tuple[Any, Path]]:
    """A new file that is locked, so that others see that its writer is alive; and its path."""
    while True:
        path = folder / f"{prefix}{uuid.uuid4().hex}"
        # Not tempfile: it creates files with mode 0600 and ignores the umask.
        with path.open("xb") as file:
            # Some network file systems have no locks: files are then not removed.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have removed it before it was locked.
            if path.exists():
                yield file, path
                return


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove the files of ``_locked_file`` whose writers were killed."""
    found: list[Path] = []
    # A folder that cannot be listed may be written to.
    with suppress(OSError):
        found = [path for path in folder.iterdir() if path.name.startswith(prefix)]
    for path in found:
        if not _IS_HEX.fullmatch(path.name.removeprefix(prefix)):
            continue
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def _replace_file(path: Path) -> Generator[Any]:
    prefix = f".{path.name[:100]}."
    _remove_abandoned(path.parent, prefix)
    with _locked_file(path.parent, prefix) as (file, partial):
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                partial.chmod(path.stat().st_mode & 0o7777)
            # Under its lock, so that no other process takes it for abandoned.
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
