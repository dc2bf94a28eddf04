"""Parts of the story of a row: sections of texts, fields, tables and diffs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of a section.

    It is a text, pairs of a name and a value (``fields``), a table with its titles as first line, or
    ``code``: pairs of a kind of ``domain.diff_lines`` and a line; ``text`` says what is left out after them.
    """

    kind: Literal["text", "fields", "table", "code"]
    title: str = ""
    text: str = ""
    lines: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a story. A main one is beside the review; a folded one is closed until a person opens it."""

    title: str
    blocks: Sequence[Block]
    is_main: bool = False
    is_folded: bool = False
