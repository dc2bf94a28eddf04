"""Text files that people write."""

from __future__ import annotations

from pathlib import Path


def read_text_file(path: str | Path) -> str:
    """Return the text of a file in UTF-8, without the byte order mark that some editors put first.

    Raises OSError if the file cannot be read, and UnicodeDecodeError if it is not UTF-8.
    """
    # Not read_text: it replaces the ends of lines.
    return Path(path).read_bytes().decode("utf-8-sig")
