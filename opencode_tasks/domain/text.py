"""Text for people: cut at a word. Pure."""

from __future__ import annotations

ELLIPSIS = "…"
# A longer last word (a URL, a blob) is cut inside rather than left out.
MAX_WORD = 40


def shorten(text: str, limit: int) -> str:
    """Return the text with at most ``limit`` characters; if it is longer, cut after a word, with "…"."""
    if len(text) <= limit:
        return text
    head = text[: limit - len(ELLIPSIS)]
    if not text[len(head)].isspace():
        words, _, last = head.rpartition(" ")
        head = words if words and len(last) <= MAX_WORD else head
    return head.rstrip(" ,;:-([{'\"") + ELLIPSIS
