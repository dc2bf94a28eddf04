"""The files that are attached to the prompt of a row, as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opencode_tasks.attachments.address import shown
from opencode_tasks.domain.attached_file import AttachedFile
from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.engine.shown_work import size_text

DIGEST_CHARS = 12


def file_facts(files: Iterable[AttachedFile]) -> list[tuple[str, str]]:
    """The name of each file, and a text with its type, size, digest and address."""
    return [(_one_line(without_url_secrets(file.name)), _fact(file)) for file in files]


def _fact(file: AttachedFile) -> str:
    address = _one_line(shown(without_url_secrets(file.address)))
    digest = f"sha256 {file.sha256[:DIGEST_CHARS]}…"
    return f"{file.media_type}, {size_text(file.size_bytes)}, {digest}, {address}"


def stored_files(row: Mapping[str, Any]) -> list[AttachedFile]:
    """The files of a row by its columns in the ledger."""
    return [AttachedFile.from_json(mapping_in(one)) for one in list_in(row["files"])]


def without_secrets(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The column ``files`` of a row with ``***`` for the secrets of URLs; None for a row without files."""
    return [masked(file) for file in stored_files(row)] or None


def masked(file: AttachedFile) -> dict[str, Any]:
    """A file as JSON with ``***`` for the secrets of its URL."""
    hidden = {"name": without_url_secrets(file.name), "address": without_url_secrets(file.address)}
    return file.to_json() | hidden


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]
