"""The work of a row in its workspace as people read it: on a terminal and on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from opencode_tasks.domain.diff_lines import DIFF_BEGIN, ShownDiff, shown_diff
from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.domain.url_secrets import without_url_secrets

# Of a diff in a file, this much is read for a look at it.
HEAD_BYTES = 1_000_000
LOCAL = "file://"
NAME_CHARS = 120
KILO = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An artifact: its path in the workspace, its address, and its size for people."""

    path: str
    url: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWork:
    """The work of a row.

    - ``facts``: pairs of a name and a text, without those that are not known.
    - ``diff``: None if there is none, or if its file cannot be read here; ``diff_note`` names the file.
    - ``check_output``: the end of the output of the check command, "" without one.
    """

    facts: Sequence[tuple[str, str]]
    diff: ShownDiff | None
    diff_note: str
    check_output: str
    artifacts: Sequence[StoredFile]

    @property
    def is_empty(self) -> bool:
        """Whether the row has done no work in a workspace and called no tool."""
        return not (self.facts or self.artifacts or self.check_output or self.diff or self.diff_note)


def shown_work(row: Mapping[str, Any], *, max_lines: int, max_output_lines: int) -> ShownWork:
    """The work of a row by its columns in the ledger."""
    diff, note = _diff(row, max_lines)
    return ShownWork(
        facts=[(name, text) for name, text in _facts(row) if text],
        diff=diff,
        diff_note=note,
        check_output=_end(row["check_output"] or "", max_output_lines),
        artifacts=[_stored(mapping_in(one)) for one in list_in(_json(row["artifacts"]))],
    )


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("files changed", _changes(row)),
        ("tools called", _names(row["tools_called"])),
        ("tools denied", _names(row["tools_denied"])),
        ("check", {True: "passed", False: "failed", None: ""}[row["check_passed"]]),
        ("workspace", row["workspace_url"] or ""),
    ]


def _changes(row: Mapping[str, Any]) -> str:
    if row["files_changed"] is None:
        return ""
    lines = f"{row['lines_added'] or 0:,} lines added, {row['lines_removed'] or 0:,} removed"
    return f"{row['files_changed']:,} ({lines})"


def _names(names: str | None) -> str:
    return ", ".join(_short(str(name)) for name in list_in(_json(names)))


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _stored(artifact: Mapping[str, Any]) -> StoredFile:
    size = artifact.get("size_bytes")
    return StoredFile(
        path=_short(str(artifact.get("path") or "")),
        url=_short(str(artifact.get("url") or "")),
        size=size_text(size) if isinstance(size, int) else "unknown",
    )


def size_text(size_bytes: int) -> str:
    """A size such as "12 bytes", "3.4 kB" or "1.2 MB"."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < KILO:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= KILO
    return f"{size:,.1f} GB"


def _short(name: str) -> str:
    """A name of which the middle is cut if it is longer than a person reads."""
    half = NAME_CHARS // 2
    return name if len(name) <= NAME_CHARS else f"{name[:half]}…{name[-half:]}"


def _end(text: str, max_lines: int) -> str:
    """The last lines of a text."""
    lines = text.rstrip("\n").split("\n")
    if len(lines) <= max_lines:
        return text.rstrip("\n")
    return "\n".join([f"… {len(lines) - max_lines:,} lines before", *lines[-max_lines:]])


def _diff(row: Mapping[str, Any], max_lines: int) -> tuple[ShownDiff | None, str]:
    """The beginning of a diff, and a text that names its file; "" without one."""
    address = row["diff_url"]
    if row["diff"] or address is None:
        return (shown_diff(row["diff"], max_lines) if row["diff"] else None), ""
    shown, local = _short(without_url_secrets(address)), address.removeprefix(LOCAL)
    # A file elsewhere may need a network and a key.
    found = None if "://" in local else _local_diff(Path(local), max_lines)
    return found, f"in the file {shown}"


def _local_diff(path: Path, max_lines: int) -> ShownDiff | None:
    """The beginning of the diff in a file; None if it is not there or is no diff."""
    try:
        # A pipe would never end.
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(HEAD_BYTES)
            after = _more_lines(file, data)
    except (OSError, ValueError):
        return None
    # The ledger may name any file: only a diff is shown.
    if not data.startswith(DIFF_BEGIN):
        return None
    found = shown_diff(data.decode("utf-8", "replace"), max_lines)
    return replace(found, more=found.more + after)


def _more_lines(file: IO[bytes], head: bytes) -> int:
    """The number of lines that begin in the rest of a file."""
    count, last = 0, head
    while chunk := file.read(HEAD_BYTES):
        count += chunk.count(b"\n")
        last = chunk
    if last is head:
        return 0
    # The line in which the head ends is not counted again, and the last one may have no line break.
    return count - (not head.endswith(b"\n")) + (not last.endswith(b"\n"))
