"""Outcome of a row: the values of its columns, from an answer or from an error. No database here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from opencode_tasks.domain.columns import STORED
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger.usage import count_turns

MESSAGE_LIMIT = 4000

_READERS = {column.ledger_name: attrgetter(column.answer_field) for column in STORED if column.answer_field}
ANSWER_COLUMNS = tuple(_READERS)
"""The columns of ``rows`` with the source ``answer``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Final record of a row.

    ``values`` has the columns with the source ``answer``; a missing one is null. In a failed row
    ``response`` is the partial text.
    """

    status: Literal["completed", "failed"]
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error_type: str | None = None
    error_message: str | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The outcome as columns of ``rows``."""
        return {
            "status": self.status,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "waits_until": None,
            **{name: self.values.get(name) for name in ANSWER_COLUMNS},
        }


def completed(answer: Answer) -> Outcome:
    """The outcome of a row with an answer."""
    return Outcome(status="completed", values={name: read(answer) for name, read in _READERS.items()})


def failed(error: OpenCodeError, record: AttemptRecord) -> Outcome:
    """The outcome of a row whose last attempt ended with this error and this record."""
    root = next((session for session in record.sessions if session.parent_id is None), None)
    last_step = root.steps[-1] if root is not None and root.steps else None
    return Outcome(
        status="failed",
        error_type=error.error_type,
        error_message=message_of(error),
        values={
            "response": _partial_text(error),
            "finish_reason": None if last_step is None else last_step.finish_reason,
            "session_id": record.session_id,
            "turns": None if root is None or not root.messages else count_turns(root.messages),
            "model_ref": None if last_step is None else last_step.model_ref,
        },
    )


def message_of(error: OpenCodeError) -> str:
    """The provider's message, cut at ``MESSAGE_LIMIT`` characters."""
    return (error.raw_message or str(error))[:MESSAGE_LIMIT]


def _partial_text(error: OpenCodeError) -> str | None:
    """The text before the error; None without one."""
    return (error.partial_text or None) if error.reaction.keeps_partial_text else None
