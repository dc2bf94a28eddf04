"""Lines of a unified diff for people: each with its kind, and no more than can be read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LineKind = Literal["file", "header", "hunk", "added", "removed", "same"]
MAX_LINE_CHARS = 500

# Characters that change the direction of text can make code look like other code.
_DIRECTIONS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�")
_FILE_BEGIN = "diff "
_KINDS: dict[str, LineKind] = {"+": "added", "-": "removed", "@": "hunk"}

# The beginning of a diff of git.
DIFF_BEGIN = b"diff --git "


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of a diff without its line break. A ``file`` line begins a file, ``header`` lines follow it."""

    kind: LineKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDiff:
    """The first lines of a diff, and the number of the others."""

    lines: Sequence[DiffLine]
    more: int


def shown_diff(text: str, max_lines: int, max_chars: int = MAX_LINE_CHARS) -> ShownDiff:
    """The first lines of a diff, long ones cut with a note. A diff of any size is not copied."""
    lines: list[DiffLine] = []
    start, is_in_hunk = 0, False
    while start < len(text) and len(lines) < max_lines:
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        # A line inside of a hunk begins with another character.
        is_file = text.startswith(_FILE_BEGIN, start)
        is_in_hunk = not is_file and (is_in_hunk or text.startswith("@@", start))
        in_hunk = _KINDS.get(text[start : start + 1], "same")
        kind: LineKind = "file" if is_file else in_hunk if is_in_hunk else "header"
        lines.append(DiffLine(kind, _cut(text, start, end, max_chars)))
        start = end + 1
    return ShownDiff(lines=lines, more=_count_lines(text, start))


def _count_lines(text: str, start: int) -> int:
    """The number of lines of a text from a position on; the last one may have no line break."""
    if start >= len(text):
        return 0
    return text.count("\n", start) + (not text.endswith("\n"))


def _cut(text: str, start: int, end: int, max_chars: int) -> str:
    line = text[start : min(end, start + max_chars)].translate(_DIRECTIONS)
    rest = end - start - max_chars
    return line if rest <= 0 else f"{line}… [{rest:,} characters cut]"
