"""Copies of files for opencode, fetched by the worker of a row and compared with the plan."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from opencode_tasks.attachments.address import is_local, shown
from opencode_tasks.attachments.fault import ContentFaultError, FileFaultError
from opencode_tasks.attachments.source import read_address
from opencode_tasks.domain.attached_file import AttachedFile
from opencode_tasks.domain.url_secrets import without_url_secrets

CAPACITY_BYTES = 200_000_000
FETCHED_AT_ONCE = 8


class FileCache:
    """Verified copies of files in a private folder. Used on one event loop.

    A copy has what is sent: the bytes of the file, or its text in UTF-8. Copies that no row uses are removed,
    the oldest first, while all of them have more than ``capacity_bytes`` bytes.
    """

    def __init__(self, folder: Path, *, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._in_use: Counter[str] = Counter()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextlib.asynccontextmanager
    async def held(self, files: Sequence[AttachedFile]) -> AsyncGenerator[list[Path]]:
        """The copies of files in their order, which stay in this context.

        Raises FileFaultError if a file cannot be read, or if its content has changed since it was planned.
        """
        names = [_copy_name(file) for file in files]
        self._in_use.update(names)
        try:
            paths: list[Path] = []
            for file in files:
                path = await asyncio.get_running_loop().run_in_executor(_pool(), self._copy_of, file)
                self._sizes[path.name] = file.size_bytes
                self._sizes.move_to_end(path.name)
                paths.append(path)
            yield paths
        finally:
            self._release(names)
            self._evict()

    def _release(self, names: Sequence[str]) -> None:
        self._in_use.subtract(names)
        for name in names:
            if self._in_use[name] <= 0:
                del self._in_use[name]
                if name not in self._sizes:
                    self._locks.pop(name, None)

    def _copy_of(self, file: AttachedFile) -> Path:
        path = self._folder / _copy_name(file)
        with self._locks[path.name]:
            if not path.exists():
                self._fetch(file, path)
        return path

    def _fetch(self, file: AttachedFile, path: Path) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        temporary = path.with_name(f"{uuid.uuid4().hex}.new")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
                found = read_address(file.address, max_bytes=file.size_bytes, write=copy.write)
            if found != file.content:
                raise _changed(file)
            temporary.rename(path)
        except FileFaultError as fault:
            raise self._explained(file, fault) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _explained(self, file: AttachedFile, fault: FileFaultError) -> FileFaultError:
        """The fault of a file that was readable when the run began."""
        if isinstance(fault, ContentFaultError):
            return _changed(file)
        if not is_local(file.address) or Path(file.address).exists():
            return fault
        return FileFaultError(
            f"the file {shown(file.address)} is not on this machine; workers on other machines need a URL, "
            "or a folder that all machines have"
        )

    def _evict(self) -> None:
        total = sum(self._sizes.values())
        for name in [*self._sizes]:
            if total <= self._capacity_bytes:
                return
            if name not in self._in_use:
                total -= self._sizes.pop(name)
                self._locks.pop(name, None)
                (self._folder / name).unlink(missing_ok=True)


def _copy_name(file: AttachedFile) -> str:
    return f"{file.sha256}.{file.media_type.rpartition('/')[2]}"


def _changed(file: AttachedFile) -> FileFaultError:
    return FileFaultError(
        f"the file {shown(without_url_secrets(file.address))} has changed since the run began; run annotate "
        "again"
    )


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # The threads of the event loop renew leases, and a slow server of files must not keep them.
    return ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="attached-files")
