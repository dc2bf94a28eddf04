"""Archives as sources: checked lists of their members, and extraction that stays in its folder."""

# fsspec and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.limits import Size
from opencode_tasks.workspace.members import Members

ZIP = ".zip"
TARS = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),
    *(".tar.zst", ".tzst"),
)
SUFFIXES = (ZIP, *TARS)
CHUNK_BYTES = 1 << 20
_MAX_LINK_BYTES = 4096


def is_archive(address: str) -> bool:
    """Whether the suffix of an address is that of an archive."""
    return address.lower().endswith(SUFFIXES)


@contextmanager
def local_archive(address: str) -> Generator[Path]:
    """The archive as a local file, fetched if it is at a URL. Raises WorkspaceFaultError if it cannot be."""
    if "://" not in address:
        yield Path(address)
        return
    with tempfile.TemporaryDirectory(prefix="oct-") as folder:
        path = Path(folder, "archive" + _suffix_of(address))
        try:
            opened: Any = fsspec.open(address, "rb")
            with opened as stored, path.open("wb") as file:
                shutil.copyfileobj(stored, file, CHUNK_BYTES)
        # The errors depend on the driver of the URL.
        except Exception as error:
            shown = without_url_secrets(f"{type(error).__name__}: {error}")
            raise WorkspaceFaultError(f"cannot read {without_url_secrets(address)}: {shown}") from error
        yield path


def digest_of(path: Path) -> str:
    """SHA-256 of the file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path) -> None:
    """Read the list of members. Raises WorkspaceFaultError if one may not be extracted, or above a limit."""
    with _reported(path):
        _read(path, None)


def extract(path: Path, folder: Path) -> None:
    """Extract into a new folder. Raises as ``check`` does."""
    folder.mkdir(parents=True, mode=0o700)
    with _reported(path):
        _read(path, folder)
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if not Path(parent, name).resolve().is_relative_to(folder.resolve()):
                raise WorkspaceFaultError(f"the link {name!r} of the archive leaves it")


@contextmanager
def _reported(path: Path) -> Generator[None]:
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
    ) as error:
        raise WorkspaceFaultError(f"{path.name} is no valid archive: {error}") from error
    except RuntimeError as error:
        # zipfile raises it for an encrypted member.
        raise WorkspaceFaultError(f"{path.name} cannot be read: {error}") from error


def _read(path: Path, folder: Path | None) -> None:
    if path.name.lower().endswith(ZIP):
        _read_zip(path, folder)
    else:
        _read_tar(path, folder)


def _read_tar(path: Path, folder: Path | None) -> None:
    size, members = Size(), Members()
    with _opened_tar(path) as archive:
        for member in archive:
            if member.isdir():
                members.add_folder(member.name)
            elif member.issym():
                members.add_link(member.name, member.linkname)
            elif member.islnk():
                members.add_hard_link(member.name, member.linkname)
            elif member.isfile():
                members.add_file(member.name)
            else:
                raise WorkspaceFaultError(
                    f"the member {member.name!r} is neither a file, a folder nor a link"
                )
            if not member.isdir():
                size.add_file(member.size)
            if folder is not None and not members.is_link(member.name):
                archive.extract(member, folder, filter="data")
    members.check()
    if folder is not None:
        members.make_links(folder)


@contextmanager
def _opened_tar(path: Path) -> Generator[tarfile.TarFile]:
    if path.name.lower().endswith((".zst", ".tzst")):
        with (
            pa.input_stream(str(path), compression="zstd") as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            yield archive
        return
    with tarfile.open(path, "r|*") as archive:
        yield archive


def _read_zip(path: Path, folder: Path | None) -> None:
    size, members = Size(), Members()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                size.add_file(0 if folder else member.file_size)
            if stat.S_ISLNK(member.external_attr >> 16):
                members.add_link(member.filename, archive.open(member).read(_MAX_LINK_BYTES).decode())
                continue
            if member.is_dir():
                members.add_folder(member.filename)
            else:
                members.add_file(member.filename)
            if folder is not None:
                _extract_member(archive, member, folder / member.filename, size)
    members.check()
    if folder is not None:
        members.make_links(folder)


def _extract_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, size: Size) -> None:
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The size in the list of members may be wrong.
    with archive.open(member) as stored, path.open("wb") as file:
        while chunk := stored.read(CHUNK_BYTES):
            size.add_bytes(len(chunk))
            file.write(chunk)
    if (member.external_attr >> 16) & stat.S_IXUSR:
        path.chmod(0o755)


def _suffix_of(address: str) -> str:
    return next(
        suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if address.lower().endswith(suffix)
    )
