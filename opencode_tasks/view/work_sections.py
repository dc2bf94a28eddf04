"""The work of a row in its workspace as sections of its story."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opencode_tasks.engine.shown_work import ShownWork, shown_work
from opencode_tasks.view.story_parts import Block, Section

MAX_DIFF_LINES = 1000
MAX_OUTPUT_LINES = 25


def work_sections(row: Mapping[str, Any]) -> Iterator[Section]:
    """The sections of a row by its columns in the ledger; none for a row without a workspace or tools."""
    work = shown_work(row, max_lines=MAX_DIFF_LINES, max_output_lines=MAX_OUTPUT_LINES)
    yield Section(title="Work", blocks=list(_work(work)), is_main=True)
    yield Section(title="Diff", blocks=list(_diff(work)), is_main=True)


def _work(work: ShownWork) -> Iterator[Block]:
    if work.facts:
        yield Block(kind="fields", lines=work.facts)
    if work.check_output:
        lines = [("same", line) for line in work.check_output.split("\n")]
        yield Block(kind="code", title="Output of the check", lines=lines)
    if work.artifacts:
        files = [(file.path, f"{file.size}, {file.url}") for file in work.artifacts]
        yield Block(kind="fields", title="Artifacts", lines=files)


def _diff(work: ShownWork) -> Iterator[Block]:
    if work.diff_note:
        yield Block(kind="text", text=work.diff_note)
    if work.diff is not None and work.diff.lines:
        more = f"… {work.diff.more:,} more lines" if work.diff.more else ""
        yield Block(kind="code", text=more, lines=[(line.kind, line.text) for line in work.diff.lines])
