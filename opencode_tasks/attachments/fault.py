"""The fault of a file that cannot be attached."""

from __future__ import annotations


class FileFaultError(Exception):
    """A file cannot be attached. Its text is one clause for the user, which names the file.

    ``is_final``: another attempt would find the same.
    """

    def __init__(self, text: str, *, is_final: bool = True) -> None:
        super().__init__(text)
        self.is_final = is_final


class ContentFaultError(FileFaultError):
    """The content of a file cannot be sent: it is empty, too large or of another type."""
