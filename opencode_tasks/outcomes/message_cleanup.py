"""Messages of providers and libraries, made presentable for one line of a terminal. Pure."""

from __future__ import annotations

import re

from opencode_tasks.domain.text import shorten
from opencode_tasks.outcomes.error_message import error_message

LIMIT = 300
# SQLAlchemy adds the statement, its parameters and a link to its message.
_SQL_DETAILS = re.compile(r"\s*(\[SQL:|\(Background on this error).*", re.DOTALL)
_DRIVER = re.compile(r"^\((?:\w+\.)+\w+\)\s*")


def presentable(message: str, limit: int = LIMIT) -> str:
    """The message in one line of at most ``limit`` characters, cut at a word with ``…``.

    A page of HTML becomes its title and size, a JSON object the message in it; see ``error_message``.
    """
    return shorten(error_message(_without_sql(message)) or "(no message)", limit)


def one_line(text: str) -> str:
    """The text in one line, without the statement and the driver that SQLAlchemy adds to a message."""
    return " ".join(_without_sql(text).split())


def _without_sql(text: str) -> str:
    return _DRIVER.sub("", _SQL_DETAILS.sub("", text))
