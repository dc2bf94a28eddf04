"""The web application: a list of rows, a page for each row, and reviews."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from opencode_tasks.engine.review import PersonAnswer, record_reviews, undo_review
from opencode_tasks.errors import InputError, OpenCodeTasksError
from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.column_types import storable
from opencode_tasks.view.access import REFUSED, TOKEN, Access, is_token
from opencode_tasks.view.correction import answer_of, entered_answer, inputs
from opencode_tasks.view.list_query import MAX_PAGE, PAGE_ROWS, ListQuery, read_query
from opencode_tasks.view.pages import (
    SCRIPT,
    SEEN,
    STYLE,
    Listed,
    asset,
    is_live,
    is_open,
    list_page,
    message_page,
    row_page,
    seen_of,
    version_of,
)
from opencode_tasks.view.row_cells import cells, list_columns
from opencode_tasks.view.row_story import row_story
from opencode_tasks.view.run_view import RunView, read_run_view

MAX_FORM_BYTES = 10 * 1024 * 1024
MAX_FIELDS = 1000
# Rows before and after the place of a row at which it is looked for: reviews may have removed some.
NEARBY = 3
MEDIA_TYPES = {STYLE: "text/css", SCRIPT: "text/javascript"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """Content of the pages: a run of the ledger, and ``by``, the name under which reviews are written.

    ``token``, ``code`` and ``port`` are those of ``Access``.
    """

    run_id: str
    by: str
    token: str
    code: str
    port: int


class MissingError(LookupError):
    """The address names a run or a row that the ledger does not have."""


def view_app(ledger: Ledger, options: ViewOptions) -> ASGIApp:
    """The application; it answers only requests that ``Access`` lets pass."""
    pages = Pages(ledger, options)
    routes = [
        Route("/", _reads(pages.list)),
        Route("/row", _reads(pages.row)),
        Route("/counts", _reads(pages.counts)),
        Route("/review", _writes(pages.review, options.token), methods=["POST"]),
        Route("/undo", _writes(pages.undo, options.token), methods=["POST"]),
        *(Route(f"/{name}", _asset(name)) for name in MEDIA_TYPES),
    ]
    return Access(Starlette(routes=routes), token=options.token, code=options.code, port=options.port)


class Pages:
    """The answers to requests, from the ledger as it is now."""

    def __init__(self, ledger: Ledger, options: ViewOptions) -> None:
        self._ledger = ledger
        self._options = options

    def list(self, params: Mapping[str, str]) -> Response:
        """A page of the list."""
        run, query = self._query(params)
        found = self._ledger.row_list
        total = found.count(run.run_id, query.wanted)
        # Rows may have gone from the list since its address was written.
        query = replace(query, page=max(1, min(query.page, -(-total // PAGE_ROWS))))
        ids = found.ids(run.run_id, query.wanted, query.order, query.span)
        columns = list_columns(run)
        shown = found.lines(run.run_id, ids, run.prompt_start)
        lines = [(line["row_id"], cells(line, columns)) for line in shown]
        return HTMLResponse(list_page(run, query, lines=lines, total=total, counts=found.counts(run.run_id)))

    def counts(self, params: Mapping[str, str]) -> Response:
        """The version of the list, or of a row with ``id``, which an open page asks for."""
        row_id = params.get("id")
        if row_id is not None:
            state = self._ledger.row_list.state(self._run_id(params), row_id)
            return JSONResponse({"version": version_of(state), "is_live": is_open(state)})
        counts = self._ledger.row_list.counts(self._run_id(params))
        return JSONResponse({"version": version_of(counts), "is_live": is_live(counts)})

    def row(self, params: Mapping[str, str]) -> Response:
        """A row with its whole story and the form for a review."""
        return self._row_page(params, {}, ())

    def review(self, form: Mapping[str, str]) -> Response:
        """Write a review and go to the next row; show the row again if the answer does not fit."""
        params = _place(form)
        run, query = self._query(params)
        row = self._row(run, params)["row"]
        answer, faults = entered_answer(row, run, form)
        # A form that was sent twice has been written.
        if row["answered_by"] != self._options.by or answer != answer_of(row, run):
            faults = self._changes(run, row, form) or faults
        if not faults:
            faults = self._record(run, row["row_id"], answer, form.get("note", "").strip() or None)
        if faults:
            return self._row_page(params, form, faults)
        listed = self._neighbours(run, query, row["row_id"], _number(params.get("at")))
        place, after = listed.place, listed.after
        # The place after a row that the filters do not select any more is its own.
        target = {"id": row["row_id"], "at": place} if after is None else {"id": after[1], "at": after[0]}
        return _see(query.link("/row", **target, done=row["row_id"]))

    def undo(self, form: Mapping[str, str]) -> Response:
        """Undo the last review of a row and show it."""
        params = _place(form)
        run, query = self._query(params)
        row = self._row(run, params)["row"]
        row_id = row["row_id"]
        if faults := self._changes(run, row, form):
            return self._row_page(params, {}, faults)
        undo_review(self._ledger, run.run_id, row_id)
        return _see(query.link("/row", id=row_id, at=params["at"]))

    def _record(self, run: RunView, row_id: str, answer: Any, note: str | None) -> tuple[str, ...]:
        given = PersonAnswer(row_id=row_id, answer=answer, answered_by=self._options.by, note=note)
        try:
            return tuple(record_reviews(self._ledger, run.run_id, [given]))
        except InputError as error:
            return error.faults

    def _changes(self, run: RunView, row: Mapping[str, Any], form: Mapping[str, str]) -> tuple[str, ...]:
        """A line if the row is not as the page showed it from which a form was sent."""
        state = self._ledger.row_list.state(run.run_id, row["row_id"])
        if form.get(SEEN, seen_of(state)) == seen_of(state):
            return ()
        person = row["answered_by"]
        what = (
            f"{person} has reviewed this row" if person else f"this row has changed: it is {state['status']}"
        )
        return (f"{what} meanwhile; look at its answer before you confirm or undo",)

    def _row_page(
        self, params: Mapping[str, str], entered: Mapping[str, str], faults: tuple[str, ...]
    ) -> Response:
        run, query = self._query(params)
        state = self._ledger.row_list.state(run.run_id, params.get("id", ""))
        found = self._row(run, params)
        row = found["row"]
        gold = self._ledger.row_list.gold(run.run_id, [row["row_id"]]).get(row["row_id"], [])
        reviews = self._ledger.row_list.reviews(run.run_id, [row["row_id"]]).get(row["row_id"], [])
        story = row_story(found, gold, reviews, run)
        listed = self._neighbours(run, query, row["row_id"], _number(params.get("at")))
        done = params.get("done") or None
        form = {
            "inputs": inputs(row, run, entered),
            "note": entered.get("note", story.note),
            "faults": faults,
            "by": self._options.by,
            "token": self._options.token,
            "seen": seen_of(state),
            "done": done,
            "unreviewed_at_end": self._unreviewed(run, query) if done == row["row_id"] else None,
            "done_seen": done and seen_of(self._ledger.row_list.state(run.run_id, done)),
        }
        page = row_page(
            run,
            query,
            story,
            listed=listed,
            total=self._ledger.row_list.count(run.run_id, query.wanted),
            source_link=self._source_link(story.source),
            form=form,
            state=state,
        )
        return HTMLResponse(page, status_code=400 if faults else 200)

    def _unreviewed(self, run: RunView, query: ListQuery) -> int:
        """The number of rows of a list that have no review."""
        if query.wanted.is_reviewed:
            return 0
        return self._ledger.row_list.count(run.run_id, replace(query.wanted, is_reviewed=False))

    def _neighbours(self, run: RunView, query: ListQuery, row_id: str, place: int) -> Listed:
        """The place of a row in the list. ``place`` is where it was."""
        span = range(max(0, place - NEARBY), place + NEARBY + 1)
        ids = self._ledger.row_list.ids(run.run_id, query.wanted, query.order, span)
        places = {one: span.start + at for at, one in enumerate(ids)}
        here = places.get(row_id)
        by_place = {at: (at, one) for one, at in places.items()}
        if here is None:
            return Listed(place, by_place.get(place - 1), by_place.get(place), is_found=False)
        return Listed(here, by_place.get(here - 1), by_place.get(here + 1))

    def _source_link(self, source: tuple[str, str] | None) -> str | None:
        if source is None or self._ledger.row_list.run(source[0]) is None:
            return None
        run_id, row_id = source
        run, query = self._query({"run": run_id})
        return query.link("/row", id=row_id, run=None if run.run_id == self._options.run_id else run_id)

    def _query(self, params: Mapping[str, str]) -> tuple[RunView, ListQuery]:
        run_id = self._run_id(params)
        run = read_run_view(self._ledger, run_id)
        if run is None:
            raise MissingError(f"There is no run {run_id} in this ledger.")
        return run, read_query(params, run)

    def _run_id(self, params: Mapping[str, str]) -> str:
        return params.get("run") or self._options.run_id

    def _row(self, run: RunView, params: Mapping[str, str]) -> dict[str, Any]:
        row_id = params.get("id", "")
        found = self._ledger.results.row(run.run_id, row_id)
        if found is None:
            raise MissingError(f"There is no row {row_id!r} in run {run.run_id}.")
        return found


def _place(form: Mapping[str, str]) -> dict[str, str]:
    """The parameters of the page that sent a form."""
    query = dict(parse_qsl(form.get("query", "").removeprefix("?"), max_num_fields=MAX_FIELDS))
    return query | {"id": query.get("id", ""), "at": str(_number(query.get("at")))}


def _number(text: str | None) -> int:
    is_number = text is not None and text.isascii() and text.isdigit()
    return min(int(text[:12]), MAX_PAGE) if text is not None and is_number else 0


def _see(address: str) -> Response:
    return RedirectResponse(address, status_code=303)


def _reads(answer: Callable[[Mapping[str, str]], Response]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        params = {name: storable(value) for name, value in request.query_params.items()}
        return await run_in_threadpool(_answered, answer, params)

    return endpoint


def _writes(answer: Callable[[Mapping[str, str]], Response], token: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return PlainTextResponse("The form is too large.\n", status_code=413)
        # A form of a browser is UTF-8.
        try:
            pairs = parse_qsl(
                body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS
            )
        except ValueError:
            return PlainTextResponse("The form has too many fields.\n", status_code=413)
        form = {name: storable(value) for name, value in pairs}
        if not is_token(form.get(TOKEN, ""), token):
            return PlainTextResponse(REFUSED, status_code=403)
        return await run_in_threadpool(_answered, answer, form)

    return endpoint


def _answered(answer: Callable[[Mapping[str, str]], Response], params: Mapping[str, str]) -> Response:
    try:
        return answer(params)
    except MissingError as error:
        return HTMLResponse(message_page("Not found", str(error)), status_code=404)
    except OpenCodeTasksError as error:
        return HTMLResponse(message_page("The ledger does not answer", str(error)), status_code=503)


def _asset(name: str) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return Response(asset(name), media_type=MEDIA_TYPES[name])

    return endpoint
