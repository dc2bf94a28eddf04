"""Columns of a row that an outcome or a wait writes. No database here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from opencode_tasks.domain.columns import STORED, WORK_COLUMNS
from opencode_tasks.domain.records import Answer, AttemptRecord
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger.usage import count_turns

MESSAGE_LIMIT = 4000

_READERS = {column.ledger_name: attrgetter(column.answer_field) for column in STORED if column.answer_field}
_WORK_NAMES = tuple(column.ledger_name for column in WORK_COLUMNS)
ANSWER_COLUMNS = tuple(_READERS)
"""The columns of ``rows`` with the source ``answer``."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """Columns of ``rows`` that change in an open row. It is final if the row gets a status."""

    columns: Mapping[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether the row is finished."""
        return "status" in self.columns


def completed(answer: Answer) -> RowChange:
    """The outcome of a row with an answer."""
    return _final("completed", None, None, {name: read(answer) for name, read in _READERS.items()})


def imported(text: str, *, session_id: str, turns: int, model_ref: str | None) -> RowChange:
    """The outcome of a session that opencode ran outside this library."""
    values = {"response": text, "session_id": session_id, "turns": turns, "model_ref": model_ref}
    return _final("completed", None, None, values)


def failed(error: OpenCodeError, record: AttemptRecord) -> RowChange:
    """The outcome of a row whose last attempt ended with this error and this record.

    Its ``response`` is the partial text.
    """
    root = next((session for session in record.sessions if session.parent_id is None), None)
    last_step = root.steps[-1] if root is not None and root.steps else None
    values = {
        "response": _partial_text(error),
        "finish_reason": None if last_step is None else last_step.finish_reason,
        "session_id": record.session_id,
        "turns": None if root is None or not root.messages else count_turns(root.messages),
        "model_ref": None if last_step is None else last_step.model_ref,
        **{name: getattr(error.work, name) for name in _WORK_NAMES},
    }
    return _final("failed", error.error_type, message_of(error), values)


def failed_unsent(error_type: str, error_message: str) -> RowChange:
    """The outcome of a row that fails without the end of an attempt."""
    return _final("failed", error_type, error_message, {})


def waiting(error: OpenCodeError, until: datetime | None) -> RowChange:
    """An open row with its error waits until a time (None: until a person acts)."""
    return RowChange(
        {"error_type": error.error_type, "error_message": message_of(error), "waits_until": until}
    )


def message_of(error: OpenCodeError) -> str:
    """The provider's message, cut at ``MESSAGE_LIMIT`` characters."""
    return (error.raw_message or str(error))[:MESSAGE_LIMIT]


def _final(
    status: str, error_type: str | None, error_message: str | None, values: Mapping[str, Any]
) -> RowChange:
    columns = {name: values.get(name) for name in ANSWER_COLUMNS}
    # An outcome without a session keeps the one of an earlier attempt, and its model.
    kept = [name for name in ("session_id", "model_ref") if columns[name] is None]
    return RowChange(
        {
            "status": status,
            "error_type": error_type,
            "error_message": error_message,
            "waits_until": None,
            **{name: value for name, value in columns.items() if name not in kept},
        }
    )


def _partial_text(error: OpenCodeError) -> str | None:
    """The text before the error; None without one."""
    return (error.partial_text or None) if error.reaction.keeps_partial_text else None
