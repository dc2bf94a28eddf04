"""HTML of the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from opencode_tasks.ledger.column_types import storable
from opencode_tasks.ledger.progress import ROW_STATUSES
from opencode_tasks.reports.html import html_environment
from opencode_tasks.view.correction import MAX_KEYS
from opencode_tasks.view.list_query import FIELD, LABEL, ListQuery
from opencode_tasks.view.row_cells import list_columns
from opencode_tasks.view.row_story import RowStory
from opencode_tasks.view.run_view import RunView

SEEN = "seen"
STYLE, SCRIPT = "view.css", "view.js"


def asset(name: str) -> str:
    """The text of a file in the folder ``assets``."""
    return files("opencode_tasks.view").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return html_environment("opencode_tasks.view")


@dataclass(frozen=True, slots=True)
class Listed:
    """The ``place`` of a row in a list, from 0, and the places and ids of the rows before and after it.

    ``is_found`` is False if the row is not near its place in the address: if the filters do not select it any
    more, the row after it has taken its place.
    """

    place: int
    before: tuple[int, str] | None
    after: tuple[int, str] | None
    is_found: bool = True


def list_page(
    run: RunView,
    query: ListQuery,
    *,
    lines: Sequence[tuple[str, Sequence[str]]],
    total: int,
    counts: Mapping[str, Any],
    export: Mapping[str, Any] | None = None,
) -> str:
    """The list of the rows of a run; a line is the id of a row and its cells.

    ``counts`` are those of ``ledger.row_list``. ``export`` has the texts that the page of an export
    contains; its script fills the table. None for a page of the server.
    """
    return _render(
        "list.html",
        run=run,
        query=query,
        columns=list_columns(run),
        lines=lines,
        total=total,
        counts=counts,
        version=version_of(counts),
        is_live=export is None and is_live(counts),
        first=query.span.start + 1,
        last=query.span.start + len(lines),
        is_last=query.span.stop >= total,
        export=export,
    )


def version_of(counts: Mapping[str, Any]) -> str:
    """A text that differs if the counts or the state of a row differ."""
    return " ".join(str(value) for value in counts.values())


def seen_of(state: Mapping[str, Any]) -> str:
    """A text that differs if a row got another answer: hidden in the forms of its page."""
    return f"{state['status']} {state['reviewed_at'] or ''}"


def is_live(counts: Mapping[str, Any]) -> bool:
    """Whether rows of the run may change without a person."""
    return bool(counts["open"]) or counts["status"] == "running"


def is_open(state: Mapping[str, Any]) -> bool:
    """Whether a row may change without a person, by ``ledger.row_list.state``."""
    return state["status"] == "open"


def row_page(
    run: RunView,
    query: ListQuery,
    story: RowStory,
    *,
    listed: Listed,
    total: int,
    source_link: str | None,
    form: Mapping[str, Any],
    state: Mapping[str, Any],
) -> str:
    """A row with its whole story, in a list of ``total`` rows.

    ``state`` is that of ``ledger.row_list``, read before the story.

    ``form`` has ``inputs`` (those of ``correction.inputs``), ``note``, ``faults``, ``by``, ``token``,
    ``done``, the id of the row that was reviewed last, and ``seen`` and ``done_seen``, by ``seen_of``.
    ``unreviewed_at_end`` is the number of rows of the list without a review if no row comes after ``done``,
    else None.
    """
    return _render(
        "row.html",
        run=run,
        query=query,
        story=story,
        listed=listed,
        total=total,
        source_link=source_link,
        form=form,
        version=version_of(state),
        is_live=is_open(state),
        export=None,
    )


def message_page(title: str, message: str) -> str:
    """A page with one message."""
    return _render("message.html", title=title, message=message, export=None)


def _pairs(values: Sequence[str]) -> list[tuple[str, str]]:
    """Values of a list that are also their names for people."""
    return [(value, value) for value in values]


def _render(name: str, **content: Any) -> str:
    names = {"FIELD": FIELD, "LABEL": LABEL, "MAX_KEYS": MAX_KEYS, "SEEN": SEEN, "STATUSES": ROW_STATUSES}
    page = _environment().get_template(name).render(**names, pairs=_pairs, **content)
    # JSON may contain lone surrogates, which UTF-8 does not have.
    return storable(page)
