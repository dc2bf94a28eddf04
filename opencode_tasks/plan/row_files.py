"""Files of the rows of an input: each is read once, before anything is sent, and only its digest is kept."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from opencode_tasks.attachments.address import absolute, is_local, listed, name_of
from opencode_tasks.attachments.fault import FileFaultError
from opencode_tasks.attachments.source import read_address, state_of
from opencode_tasks.domain.attached_file import KINDS, AttachedFile, FileContent, FileKind, MediaType
from opencode_tasks.frames.validate import Checked, PromptRow, fault_lines
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.plan.options import Options
from opencode_tasks.settings import settings

READ_AT_ONCE = 8
ROWS_AT_ONCE = 1000
# A server of files may fail now and then, and a run may have a million files.
URL_TRIES = 3
_DIGEST_BYTES = 32
_PACKED = struct.Struct(f"<Bqq{_DIGEST_BYTES}s")
_TYPES: Sequence[MediaType] = tuple(KINDS)


class ContentIndex:
    """The contents of files by their addresses, in about 400 bytes for each.

    A file of this machine is read again only if its size or the time of its last change differs.
    """

    def __init__(self) -> None:
        # A digest is a third of the memory of a FileContent.
        self._contents: dict[str, bytes | str] = {}

    def add(self, address: str) -> None:
        """Read the file at an address, unless it is known."""
        known = self._contents.get(address)
        if known is not None and not is_local(address):
            return
        try:
            _, changed_ns = state = state_of(address) if is_local(address) else (0, 0)
            if isinstance(known, bytes) and _unpack(known)[1:] == state:
                return
            content = _read(address)
        except FileFaultError as fault:
            self._contents[address] = str(fault)
            return
        place = _TYPES.index(content.media_type)
        packed = _PACKED.pack(place, content.size_bytes, changed_ns, bytes.fromhex(content.sha256))
        self._contents[address] = packed

    def get(self, address: str) -> FileContent | str:
        """The content of a file that was added, or why it cannot be attached."""
        found = self._contents[address]
        if isinstance(found, str):
            return found
        place, size_bytes, _ = _unpack(found)
        digest = found[-_DIGEST_BYTES:].hex()
        return FileContent(sha256=digest, size_bytes=size_bytes, media_type=_TYPES[place])


def _unpack(packed: bytes) -> tuple[int, int, int]:
    """Place of the media type, size in bytes, and time of the last change in nanoseconds."""
    place, size_bytes, changed_ns, _ = _PACKED.unpack(packed)
    return place, size_bytes, changed_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFiles:
    """The files of the rows of an input. ``folder`` is where relative paths begin, as in ``Options``."""

    folder: str | None = None
    index: ContentIndex = field(default_factory=ContentIndex)

    def of(self, row: PromptRow) -> tuple[AttachedFile, ...]:
        """The files of a row in their order; those of a row with a fault are not to be used."""
        found: list[AttachedFile] = []
        for address in _addresses(row, self.folder):
            content = self.index.get(address)
            if isinstance(content, FileContent):
                found.append(AttachedFile.of(address, name_of(address), content))
        return tuple(found)

    def fault(self, row: PromptRow) -> str | None:
        """Why the files of a row cannot be attached; None if they can."""
        try:
            contents = [self.index.get(address) for address in _addresses(row, self.folder)]
        except FileFaultError as fault:
            return str(fault)
        faults = [content for content in contents if isinstance(content, str)]
        if faults:
            return faults[0]
        total = sum(content.size_bytes for content in contents if isinstance(content, FileContent))
        most = settings().max_row_file_bytes
        if total > most:
            return f"its files have {total:,} bytes, more than {most:,} (OPENCODE_TASKS_MAX_ROW_FILE_BYTES)"
        return None


def read_row_files(
    checked: Checked, options: Options, faults: Sequence[str], index: ContentIndex | None = None
) -> tuple[RowFiles, Checked]:
    """The files of the rows, and the checked input with the faults that were found.

    ``faults`` are those of the options: with one, no file is read. ``index`` has the files that another plan
    of the same run has read.
    """
    if not options.file_columns or faults or checked.faults:
        return RowFiles(), checked
    files = RowFiles(folder=options.table_folder, index=index or ContentIndex())
    row_faults: dict[int, str] = {}
    with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="row-files") as pool:
        for rows in _chunks(row for row in checked.rows if row.position not in checked.row_faults):
            # Each file of these rows is looked at once.
            list(pool.map(files.index.add, dict.fromkeys(_all_addresses(rows, files.folder))))
            found = ((row.position, files.fault(row)) for row in rows)
            row_faults |= {position: fault for position, fault in found if fault is not None}
    return files, _with(checked, row_faults)


def check_model(
    files: RowFiles, checked: Checked, options: Options, catalog: Catalog | None, faults: list[str]
) -> Checked:
    """The checked input with the faults of rows whose files the model does not take.

    If no row could be sent, and with ``bad_rows="stop"``, they are added to ``faults`` instead.
    """
    if catalog is None or catalog.inputs is None or not options.file_columns:
        return checked
    row_faults: dict[int, str] = {}
    refused: set[FileKind] = set()
    is_sent = False
    for row in checked.rows:
        if row.position in checked.row_faults:
            continue
        kinds: set[FileKind] = {file.kind for file in files.of(row)}
        kinds.difference_update(catalog.inputs)
        refused |= kinds
        if kinds:
            row_faults[row.position] = f"{catalog.model_ref} takes no {' and no '.join(sorted(kinds))} files"
        else:
            is_sent = True
    if row_faults and not is_sent:
        faults.append(_model_line(catalog, sorted(refused)))
        return checked
    if row_faults and options.bad_rows == "stop":
        only_these = replace(checked, faults=[], row_faults=row_faults)
        faults += [_model_line(catalog, sorted(refused)), *fault_lines(only_these)]
        return checked
    return _with(checked, row_faults)


def _model_line(catalog: Catalog, refused: Sequence[FileKind]) -> str:
    provider, _, model = catalog.model_ref.partition("/")
    accepted = ", ".join(f'"{kind}"' for kind in ("text", *refused))
    modalities = f'"modalities": {{"input": [{accepted}], "output": ["text"]}}'
    entry = f'"provider": {{"{provider}": {{"models": {{"{model}": {{{modalities}}}}}}}}}'
    return (
        f"--file: {catalog.model_ref} takes no {' and no '.join(refused)} files, as opencode knows it; "
        f"choose another model, or declare in the opencode config what it takes: {entry}"
    )


def _with(checked: Checked, row_faults: Mapping[int, str]) -> Checked:
    all_faults = checked.row_faults | dict(row_faults)
    return replace(checked, rows=replace(checked.rows, faulty=all_faults.keys()), row_faults=all_faults)


def _chunks(rows: Iterable[PromptRow]) -> Iterator[list[PromptRow]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        yield chunk


def _all_addresses(rows: Sequence[PromptRow], folder: str | None) -> Iterator[str]:
    for row in rows:
        try:
            yield from _addresses(row, folder)
        except FileFaultError:
            # The row gets this fault.
            continue


def _addresses(row: PromptRow, folder: str | None) -> list[str]:
    """The addresses of the files of a row. Raises FileFaultError if a cell names none."""
    addresses: list[str] = []
    for text in (text for cell in row.files for text in listed(cell)):
        if "\0" in text or _has_surrogate(text):
            raise FileFaultError(f"the name of a file has a character that no file can have: {text!r}")
        addresses.append(absolute(text, folder))
    return addresses


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read(address: str) -> FileContent:
    for tries_left in range(URL_TRIES - 1, -1, -1):
        try:
            return read_address(address, max_bytes=settings().max_file_bytes)
        except FileFaultError as fault:
            if fault.is_final or is_local(address) or not tries_left:
                raise
    raise AssertionError(address)
