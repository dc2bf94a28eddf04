"""The page of a run as files, to read without a server and without a network.

The browser loads the list with the page, and the stories of rows by ``<script>`` when they are opened: from
``file://`` it may not load data in another way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger, RowFilter, RowOrder
from opencode_tasks.view.list_query import LABEL, PAGE_ROWS, read_query
from opencode_tasks.view.pages import SCRIPT, STYLE, asset, list_page
from opencode_tasks.view.row_cells import WRONG, cells, list_columns
from opencode_tasks.view.row_story import RowStory, row_story
from opencode_tasks.view.run_view import RunView, read_run_view

INDEX, DATA = "index.html", "data"
MARK = '<meta name="generator" content="opencode-tasks view">'
DATA_FILE = re.compile(r"(rows|stories)-\d+\.js")
ROWS_PER_FILE = 5000
ROWS_PER_QUERY = 200
# A file of stories has at most this many rows, and ends with the row that makes it larger than this.
STORIES_PER_FILE = 200
STORIES_FILE_CHARS = 1_000_000


def export_rows(ledger: Ledger, run_id: str, folder: Path) -> int:
    """Write the rows of a run to a folder; returns their number.

    An earlier export there is replaced. Raises InputError if the folder has other files.
    """
    _prepare(folder)
    run = read_run_view(ledger, run_id)
    assert run is not None
    writer = _Writer(folder / DATA)
    for line, story in _rows(ledger, run):
        writer.add(line, story)
    writer.close()
    _write(folder / INDEX, _index(ledger, run, writer.row_files))
    return writer.count


def _prepare(folder: Path) -> None:
    index, data = folder / INDEX, folder / DATA
    if folder.exists() and not folder.is_dir():
        raise InputError((f"--export: {folder} is a file; name a folder",))
    if folder.is_dir() and any(folder.iterdir()):
        is_export = index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")[:2000]
        if not is_export:
            raise InputError((f"--export: {folder} has other files; name a new folder or an empty one",))
    data.mkdir(parents=True, exist_ok=True)
    # A stop in the middle leaves this page, and the next export may replace it.
    _write(index, [f"<!doctype html>{MARK}<p>This export is not complete.\n"])
    for file in data.iterdir():
        if DATA_FILE.fullmatch(file.name):
            file.unlink()


def _rows(ledger: Ledger, run: RunView) -> Iterator[tuple[list[Any], RowStory]]:
    """Each row as cells, cost and labels, and its story."""
    columns = list_columns(run)
    found = ledger.row_list
    every = found.ids(run.run_id, RowFilter(), RowOrder(), range(found.count(run.run_id, RowFilter())))
    for start in range(0, len(every), ROWS_PER_QUERY):
        ids = every[start : start + ROWS_PER_QUERY]
        details, reviews = ledger.results.rows(run.run_id, ids), found.reviews(run.run_id, ids)
        for line in found.lines(run.run_id, ids, run.prompt_start):
            row_id = line["row_id"]
            story = row_story(details[row_id], line["gold"], reviews.get(row_id, []), run)
            labels = mapping_in(details[row_id]["row"]["labels"])
            shown = [labels.get(name, "") for name in run.label_names]
            yield [cells(line, columns), pico_to_usd(line["cost_pico"]), shown], story


class _Writer:
    """Writes rows and stories to files of bounded sizes; a row has the number of the file of its story."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[str] = []
        self._stories: list[str] = []
        self._story_chars = 0
        self._story_files = 0
        self.row_files = 0
        self.count = 0

    def add(self, line: list[Any], story: RowStory) -> None:
        self._rows.append(_json([*line, self._story_files]))
        text = f"{self.count}:{_json(story)}"
        self._stories.append(text)
        self._story_chars += len(text)
        self.count += 1
        if len(self._rows) == ROWS_PER_FILE:
            self._end_rows()
        if len(self._stories) == STORIES_PER_FILE or self._story_chars > STORIES_FILE_CHARS:
            self._end_stories()

    def close(self) -> None:
        self._end_rows()
        self._end_stories()

    def _end_rows(self) -> None:
        if self._rows:
            path = self._folder / f"rows-{self.row_files}.js"
            _write(path, ["(globalThis.viewRows ??= []).push(\n", ",\n".join(self._rows), "\n);\n"])
            self.row_files += 1
            self._rows = []

    def _end_stories(self) -> None:
        if self._stories:
            number = self._story_files
            path = self._folder / f"stories-{number}.js"
            _write(path, [f"viewStories({number}, {{\n", ",\n".join(self._stories), "\n});\n"])
            self._story_files += 1
            self._stories, self._story_chars = [], 0


def _index(ledger: Ledger, run: RunView, row_files: int) -> list[str]:
    style, script = asset(STYLE), asset(SCRIPT)
    columns = list_columns(run)
    facts = {
        "columns": [
            {name: getattr(one, name) for name in ("name", "title", "kind", "sort")} for one in columns
        ],
        "labels": run.label_names,
        "label": LABEL,
        "wrong": WRONG,
        "page_rows": PAGE_ROWS,
        "searched": [at for at, one in enumerate(columns) if one.field or one.name in ("row_id", "prompt")],
    }
    export = {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)} 'self' file:; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "scripts": [f"{DATA}/rows-{number}.js" for number in range(row_files)],
        "facts": json.dumps(facts),
    }
    counts = ledger.row_list.counts(run.run_id)
    return [list_page(run, read_query({}, run), lines=[], total=0, counts=counts, export=export)]


def _hash(text: str) -> str:
    """The source expression of a Content-Security-Policy that allows this style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that is also JavaScript and that contains no tag."""
    return json.dumps(value, default=_fields).replace("<", "\\u003c")


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass as a JSON object; ``dataclasses.asdict`` would copy all texts."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


def _write(path: Path, parts: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)
