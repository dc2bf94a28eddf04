"""The fault of a source that cannot become a workspace."""

from __future__ import annotations


class WorkspaceFaultError(Exception):
    """A source cannot be used. Its text is one clause for the user, without the name of the option."""
