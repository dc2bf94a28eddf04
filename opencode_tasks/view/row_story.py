"""The whole story of a row as sections of texts, fields and tables, which templates and scripts show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opencode_tasks.domain.columns import WORK_COLUMNS
from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.records import TOKEN_COLUMNS
from opencode_tasks.engine.shown_files import file_facts, stored_files
from opencode_tasks.frames.answer_form import field_title, value_text
from opencode_tasks.outcomes.session_messages import message_model, prompt_text, repair_ids
from opencode_tasks.outcomes.trace import trace_blocks
from opencode_tasks.view.row_cells import field_text
from opencode_tasks.view.run_view import RunView
from opencode_tasks.view.story_parts import Block, Section
from opencode_tasks.view.work_sections import work_sections

ATTEMPT_TITLES = ("attempt", "result", "error", "message", "started (UTC)", "ended (UTC)", "notes", "cost")
VOTE_TITLES = ("answer of", "result", "answer", "error", "model", "cost", "run")
REVIEW_TITLES = ("time (UTC)", "person", "answer", "note", "answer before", "counts")
CALL_TITLES = (
    *("call ended (UTC)", "model", "input", "cache read", "cache write", "output", "reasoning"),
    *("cost", "source of the cost", "finish", "session"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStory:
    """The story of a row.

    ``is_reviewed``: a review of this row counts. ``note`` is that of this review. ``source`` is the run and
    the row whose answer it reuses; None for an answer of its own.
    """

    row_id: str
    status: str
    answered_by: str | None
    is_reviewed: bool
    note: str
    source: tuple[str, str] | None
    sections: Sequence[Section]


def row_story(
    found: Mapping[str, Any],
    gold: Sequence[Mapping[str, Any]],
    reviews: Sequence[Mapping[str, Any]],
    run: RunView,
) -> RowStory:
    """The story of a row, from ``ledger.results.row``, its gold values and the answers of persons to it."""
    row = found["row"]
    current = next((one for one in reviews if one["reviewed_at"] == row["reviewed_at"]), None)
    is_reused = row["reused"] and row["source_run_id"] is not None
    return RowStory(
        row_id=row["row_id"],
        status=row["status"],
        answered_by=row["answered_by"],
        source=(row["source_run_id"], row["source_row_id"]) if is_reused else None,
        is_reviewed=current is not None,
        note="" if current is None else current["note"] or "",
        sections=[section for section in _sections(found, gold, reviews, run) if section.blocks],
    )


def _sections(
    found: Mapping[str, Any],
    gold: Sequence[Mapping[str, Any]],
    reviews: Sequence[Mapping[str, Any]],
    run: RunView,
) -> Iterator[Section]:
    row = found["row"]
    yield Section(title="Prompt", blocks=_text(row["prompt"]), is_main=True)
    yield Section(title="Files", blocks=_files(row), is_main=True)
    person = row["answered_by"]
    title = "Answer" if person is None else f"Answer of {person}"
    yield Section(title=title, blocks=_answer(row, run), is_main=True)
    if (answer := _answer_of_model(reviews, row)) is not None:
        yield Section(title="Answer of the model", blocks=_answer(answer, run), is_main=True)
    yield Section(title="Error", blocks=_text(row["error_message"]), is_main=True)
    yield Section(
        title="Gold",
        blocks=_pairs({field_title(one["field"]): _gold_text(one) for one in gold}),
        is_main=True,
    )
    yield from work_sections(row)
    yield Section(title="Votes", blocks=_table(VOTE_TITLES, _votes(found["votes"])))
    yield Section(title="Reviews", blocks=_table(REVIEW_TITLES, _reviews(reviews, row)))
    yield Section(title="System text", blocks=_text(row["system"] or run.system))
    yield Section(title="Labels", blocks=_pairs(mapping_in(row["labels"])))
    yield Section(title="Attempts", blocks=_table(ATTEMPT_TITLES, _attempts(found)))
    yield Section(title="Model calls", blocks=_table(CALL_TITLES, _calls(found)))
    for session in found["sessions"]:
        kind = "Session" if session["parent_id"] is None else "Session of a sub-agent"
        title = f"{kind} {session['session_id']}"
        yield Section(title=title, blocks=list(_session(session["messages"] or [])), is_folded=True)
    yield Section(title="Columns", blocks=_pairs(_columns(row)), is_folded=True)


def _files(row: Mapping[str, Any]) -> list[Block]:
    lines = file_facts(stored_files(row))
    return [Block(kind="fields", lines=lines)] if lines else []


def _answer(row: Mapping[str, Any], run: RunView) -> list[Block]:
    if not run.is_object or row["structured"] is None:
        return _text(field_text(row, run.fields[0]) if not run.is_object else row["response"])
    named = [one.name for one in run.fields]
    fields = mapping_in(row["structured"])
    order = [*(name for name in named if name in fields), *(name for name in fields if name not in named)]
    return _pairs({name: fields[name] for name in order})


def _answer_of_model(
    reviews: Sequence[Mapping[str, Any]], row: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The answer of the model that the review of a row replaced; None if that is not known."""
    for one in reviews:
        if one["reviewed_at"] == row["reviewed_at"] and one["previous_answered_by"] is None:
            return {name: one[f"previous_{name}"] for name in ("response", "structured")}
    return None


def _gold_text(value: Mapping[str, Any]) -> str:
    verdict = {
        True: " (the answer of the model is equal)",
        False: " (the answer of the model differs)",
        None: "",
    }[value["is_correct"]]
    return (value_text(value["value"]) or "") + verdict


def _reviews(reviews: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Iterator[list[str]]:
    for one in reviews:
        yield [
            _time(one["reviewed_at"]),
            one["answered_by"],
            one["response"] or "",
            one["note"] or "",
            one["previous_response"] or "",
            "yes" if one["reviewed_at"] == row["reviewed_at"] else "undone" if one["undone_at"] else "no",
        ]


def _votes(votes: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for vote in votes:
        yield [
            vote["title"],
            f"{vote['status']}, reused" if vote["reused"] else vote["status"],
            vote["response"] or "",
            vote["error_message"] or "",
            vote["model_ref"] or "",
            format_usd(vote["cost_pico"]),
            vote["run_id"],
        ]


def _attempts(found: Mapping[str, Any]) -> Iterator[list[str]]:
    for attempt in found["attempts"]:
        steps = [step for step in found["usage"] if step["attempt_id"] == attempt["attempt_id"]]
        retries = [one for one in found["inner_retries"] if one["attempt_id"] == attempt["attempt_id"]]
        yield [
            str(attempt["attempt"]),
            attempt["status"],
            attempt["error_type"] or "",
            attempt["error_message"] or "",
            _time(attempt["started_at"]),
            _time(attempt["ended_at"]),
            "\n".join([*_begin(attempt), *_waits(attempt), *(_retry(one) for one in retries)]),
            _cost([step["cost_pico"] for step in steps], is_known=attempt["usage_known"]),
        ]


def _begin(attempt: Mapping[str, Any]) -> list[str]:
    """How an attempt after the first one began, if that is known."""
    if attempt["continues"] is not None:
        return [f"continued the session of attempt {attempt['continues']}"]
    return [f"began anew: {attempt['begins_anew']}"] if attempt["begins_anew"] is not None else []


def _waits(attempt: Mapping[str, Any]) -> list[str]:
    waits: list[str] = []
    if attempt["retry_after_s"] is not None:
        waits.append(f"the provider asked for {attempt['retry_after_s']:g} s")
    if attempt["reset_time"] is not None:
        waits.append(f"limit until {_time(attempt['reset_time'])}")
    return waits


def _retry(retry: Mapping[str, Any]) -> str:
    at = f" at {_time(retry['next_at'])}" if retry["next_at"] else ""
    return f"retry {retry['number']} inside of the attempt{at}: {retry['message'] or ''}"


def _cost(costs: Sequence[int | None], *, is_known: bool) -> str:
    known = [cost for cost in costs if cost is not None]
    if len(known) == len(costs) and is_known:
        return format_usd(sum(known))
    return f"{format_usd(sum(known))} + unknown" if known else "unknown"


def _calls(found: Mapping[str, Any]) -> Iterator[list[str]]:
    repairs = {key for session in found["sessions"] for key in repair_ids(session["messages"] or [])}
    for step in found["usage"]:
        is_repair = step["message_id"] in repairs
        yield [
            _time(step["ended_at"]),
            f"{step['model_ref'] or 'unknown'}{' (repair)' if is_repair else ''}",
            *("unknown" if step[name] is None else f"{step[name]:,}" for name in TOKEN_COLUMNS),
            format_usd(step["cost_pico"]),
            step["cost_source"],
            step["finish_reason"] or "",
            step["session_id"],
        ]


def _session(messages: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    for message in messages:
        info = mapping_in(message.get("info"))
        if info.get("role") == "user":
            yield Block(kind="text", title="User", text=prompt_text([message]))
            continue
        for block in trace_blocks(message):
            yield Block(kind="text", title=block.title, text=_indented(block.text))
        if info.get("error"):
            yield Block(kind="text", title=f"Error of {message_model(info)}", text=_json(info["error"]))


def _columns(row: Mapping[str, Any]) -> dict[str, str]:
    shown = (
        *("prompt", "system", "files", "response", "structured", "labels", "run_id", "row_id"),
        *(column.ledger_name for column in WORK_COLUMNS),
    )
    values = {name: value for name, value in row.items() if name not in shown and value is not None}
    return {
        name.removesuffix("_pico"): format_usd(value)
        if name.endswith("_pico")
        else _time(value)
        if isinstance(value, datetime)
        else value_text(value) or ""
        for name, value in values.items()
    }


def _text(text: str | None) -> list[Block]:
    return [Block(kind="text", text=text)] if text else []


def _pairs(values: Mapping[str, Any]) -> list[Block]:
    lines = [(str(name), value_text(value) or "") for name, value in values.items()]
    return [Block(kind="fields", lines=lines)] if lines else []


def _table(titles: Sequence[str], lines: Iterator[list[str]]) -> list[Block]:
    found = list(lines)
    return [Block(kind="table", lines=[titles, *found])] if found else []


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def _indented(text: str) -> str:
    """A JSON object in several lines; another text as it is."""
    if not text.startswith("{"):
        return text
    try:
        return _json(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
