"""Column types that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import DateTime, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

UNSTORABLE = "\N{REPLACEMENT CHARACTER}"


class UtcTime(TypeDecorator[datetime]):
    """An aware moment, given back in UTC.

    ``timestamptz`` on PostgreSQL; on SQLite the text ``YYYY-MM-DD HH:MM:SS.ffffff`` in UTC, which
    sorts, and which SQLite's own date functions read. A naive time is a ValueError.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The moment as the dialect stores it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time for the ledger must know its zone: {value!r}")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy calls it so
    ) -> datetime | None:
        """The stored moment, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Any Python text; what a database cannot hold becomes U+FFFD, so that no paid answer is lost.

    PostgreSQL refuses NUL in text, and neither database takes a lone surrogate.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(
        self,
        value: str | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy calls it so
    ) -> str | None:
        """The text as both databases take it."""
        return None if value is None else storable(value)


def storable(text: str) -> str:
    """The text without NUL and lone surrogates."""
    if "\0" in text:
        text = text.replace("\0", UNSTORABLE)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A pair of surrogates is a character written in two halves; utf-16 joins it.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def json_text(value: Any) -> str:
    """JSON that both databases take: NaN and the infinities, which JSON lacks, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in cast("Sequence[Any]", value)]
    return value
