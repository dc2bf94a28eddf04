"""Estimates of a run: before it starts from earlier runs or from its texts, and after its pilot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import Any, NamedTuple

from opencode_tasks.domain.answer_shape import longest_answer_bytes
from opencode_tasks.domain.records import TOKEN_COLUMNS, RowInput
from opencode_tasks.domain.usage import total_of
from opencode_tasks.engine.further_votes import further_votes
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.backend import DEFAULT_AGENT
from opencode_tasks.plan.plan import Plan, price_in
from opencode_tasks.quality.estimate import (
    EndedRow,
    Estimate,
    EstimateSource,
    added,
    covered_s,
    estimate_rows,
    spanned,
)
from opencode_tasks.quality.text_estimate import SentText, estimate_texts
from opencode_tasks.quality.votes import first_votes

SHOWN_PROMPTS = 3
MAX_ENDED_ROWS = 2000
INPUT_COLUMNS = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
# Name under which a run saves its ``like_parameters``.
LIKE = "like"
# How far the rows in flight on average may be from those of the rows that ended.
_IN_FLIGHT_FACTORS = (0.75, 1.5)


class RowToSend(NamedTuple):
    """A row that a run would send: its position, and the length of its texts.

    ``bytes`` includes its text files. ``has_media``: it has images or PDF files, whose tokens are unknown.
    """

    position: int
    chars: int
    bytes: int
    has_media: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Rows of a plan by the effect of a run on them, and an estimate of those that are sent.

    ``send`` are the rows to send, one of each key, and ``first`` the first of them. ``reused`` rows have an
    answer in the ledger, ``equal`` rows get the answer of another row of the run, ``invalid`` rows fail
    without being sent. With votes, a row counts once for each vote without which no answer can have a
    majority, and ``further`` are the most votes that may follow, as far as the known answers decide it.
    ``canaries`` are sent beside the rows. ``estimate`` includes them, and is None if nothing is sent or
    nothing is known about the rows. ``models`` has the forecast of each of several models, and the others are
    their sums. ``media_rows`` of the rows to send have images or PDF files.
    """

    send: Sequence[RowToSend]
    first: Sequence[RowInput]
    reused: int
    equal: int
    invalid: int
    further: Sequence[RowToSend]
    estimate: Estimate | None
    canaries: int = 0
    models: Sequence[Forecast] = ()
    media_rows: int = 0


def forecast(ledger: Ledger, plan: Plan) -> Forecast:
    """Sort the rows of a plan as a run would do it now, and estimate those to send."""
    if plan.models:
        return _forecast_of_models([forecast(ledger, one) for one in plan.models])
    faulty = plan.checked.row_faults
    by_key: dict[str, RowToSend] = {}
    counts: dict[str, int] = {}
    # The keys of the first votes, of each row that equals no earlier one.
    firsts: dict[int, list[str]] = {}
    votes = plan.options.votes or 1
    for number in range(first_votes(votes)):
        for row in replace(plan.rows, number=number):
            if row.position in faulty:
                continue
            counts[row.row_key] = counts.get(row.row_key, 0) + 1
            if row.row_key not in by_key:
                by_key[row.row_key] = _to_send(row)
                firsts.setdefault(row.position, []).append(row.row_key)
    answered = ledger.ended_rows.answered([*by_key], refresh=plan.options.refresh)
    send = [row for key, row in by_key.items() if key not in answered]
    reused = sum(counts[key] for key in answered)
    more = further_votes(ledger, plan, firsts, answered) if votes > first_votes(votes) else {}
    of_rows = {row.position: row for row in by_key.values()}
    further = [of_rows[position] for position, count in more.items() for _ in range(count)]
    canaries = [] if plan.canaries is None else [_to_send(row) for row in plan.canaries.plan.rows]
    # The plan of an empty input has no model.
    priced = plan if plan.catalog is not None or plan.canaries is None else plan.canaries.plan
    to_send = [*canaries, *send]
    return Forecast(
        send=send,
        first=_rows_at(plan, [*dict.fromkeys(row.position for row in send)][:SHOWN_PROMPTS]),
        reused=reused,
        equal=sum(counts.values()) - reused - len(send),
        invalid=len(faulty),
        further=further,
        estimate=spanned(_estimate(ledger, priced, to_send), _estimate(ledger, priced, [*to_send, *further])),
        canaries=len(canaries),
        media_rows=sum(row.has_media for row in send),
    )


def _to_send(row: RowInput) -> RowToSend:
    texts = (row.prompt, row.system or "")
    in_files = sum(file.size_bytes for file in row.files if file.kind == "text")
    return RowToSend(
        row.position,
        sum(map(len, texts)),
        sum(map(_bytes, texts)) + in_files,
        has_media=any(file.kind != "text" for file in row.files),
    )


def _forecast_of_models(models: Sequence[Forecast]) -> Forecast:
    """The forecast of a run that asks several models."""
    firsts = {row.position: row for one in models for row in one.first}
    return Forecast(
        send=[row for one in models for row in one.send],
        first=[firsts[position] for position in sorted(firsts)][:SHOWN_PROMPTS],
        reused=sum(one.reused for one in models),
        equal=sum(one.equal for one in models),
        invalid=models[0].invalid,
        further=(),
        estimate=added([one.estimate for one in models if one.send]),
        models=models,
        media_rows=sum(one.media_rows for one in models),
    )


def estimate_rest(
    ledger: Ledger, plan: Plan, run_id: str, chars: Sequence[int], *, concurrency: int
) -> Estimate | None:
    """Estimate of rows with texts of these lengths after the pilot of a run.

    They come from the rows of the pilot, or from those of like runs if too few rows of the pilot have ended;
    None if these are too few as well. In a run with parts, a row has used what all its answers used, and no
    other run is like it. Up to ``concurrency`` rows will be in flight.
    """
    if plan.options.has_parts:
        answers = ledger.ended_rows.of_parts(run_id)
        return _estimate_from(_whole_rows(answers), answers, chars, "pilot", most_in_flight=concurrency)
    found = _from_rows(ledger, [run_id], chars, "pilot", most_in_flight=concurrency)
    return found or _from_rows(ledger, _like_runs(ledger, plan), chars, "ledger", most_in_flight=concurrency)


def like_parameters(plan: Plan) -> dict[str, Any]:
    """The saved parameters of a run that must be equal for its rows to be examples of others.

    The digest stands for everything that decides an answer except the prompt.
    """
    options = plan.options
    return {
        "template": options.template,
        "prompt_column": None if options.template is not None else options.prompt_column,
        "settings_digest": plan.rows.key_of("", None),
        # Absent without files, so that runs of earlier versions stay examples.
        **({"files": list(options.file_columns)} if options.file_columns else {}),
    }


def _estimate(ledger: Ledger, plan: Plan, send: Sequence[RowToSend]) -> Estimate | None:
    """Estimate from rows of like runs if enough of them ended, else from the texts."""
    if plan.catalog is None or not send:
        return None
    options = plan.options
    estimate = _from_rows(ledger, _like_runs(ledger, plan), [row.chars for row in send], "ledger")
    if estimate is not None:
        return estimate
    common = plan.rows.system.common or ""
    return estimate_texts(
        [SentText(row.chars + len(common), row.bytes + _bytes(common)) for row in send],
        price_in(plan.catalog, plan.prices),
        calls=1 if options.schema is None else 1 + options.max_repairs,
        answer_bytes=_longest_answer(plan),
        may_reason=plan.catalog.may_reason,
    )


def _longest_answer(plan: Plan) -> int | None:
    """Bytes of the longest valid answer; None if it is unknown, or if an agent may write more than it."""
    spec, schema = plan.spec, plan.options.schema
    has_tools = bool(spec.tools or spec.mcp_servers or spec.allowed_tools) or plan.options.has_workspace
    if schema is None or has_tools or spec.agent != DEFAULT_AGENT:
        return None
    return longest_answer_bytes(schema)


def _rows_at(plan: Plan, positions: Sequence[int]) -> list[RowInput]:
    wanted, found = set(positions), list[RowInput]()
    for row in plan.rows:
        if row.position in wanted:
            found.append(row)
        if len(found) == len(wanted):
            break
    return found


def _like_runs(ledger: Ledger, plan: Plan) -> list[str]:
    return ledger.ended_rows.like_runs(plan.model_ref, {LIKE: like_parameters(plan)})


def _from_rows(
    ledger: Ledger,
    run_ids: Sequence[str],
    chars: Sequence[int],
    source: EstimateSource,
    *,
    most_in_flight: int | None = None,
) -> Estimate | None:
    found = ledger.ended_rows.of_runs(run_ids, MAX_ENDED_ROWS)
    return _estimate_from(found, found, chars, source, most_in_flight=most_in_flight)


def _whole_rows(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the sums of all their answers, in which those of earlier runs count as nothing.

    Rows with answers of earlier runs alone are left out, and those whose answers the budget did not cover.
    """
    whole: list[dict[str, Any]] = []
    for _, of_row in groupby(answers, itemgetter("row_id")):
        found = [*of_row]
        sent = [answer for answer in found if not answer["reused"]]
        if not sent or any(answer["status"] == "skipped" for answer in found):
            continue
        names = (*TOKEN_COLUMNS, "cost_pico", "duration_s")
        status = "completed" if any(one["status"] == "completed" for one in found) else "failed"
        sums = {name: total_of(answer[name] for answer in sent) for name in names}
        whole.append({**found[0], **sums, "status": status})
    # Not the first ones, whose order may be that of the input. No secret depends on it.
    return whole if len(whole) <= MAX_ENDED_ROWS else Random(0).sample(whole, MAX_ENDED_ROWS)  # noqa: S311


def _estimate_from(
    rows: Sequence[Mapping[str, Any]],
    in_time: Sequence[Mapping[str, Any]],
    chars: Sequence[int],
    source: EstimateSource,
    *,
    most_in_flight: int | None,
) -> Estimate | None:
    """Estimate from rows that ended; None if they are too few, or if none of them has an answer.

    ``in_time`` have the times of answers.
    """
    if not any(row["status"] == "completed" for row in rows):
        return None
    ended = [_ended(row) for row in rows]
    if any(row.prompt_chars < 0 for row in ended):
        # Prompts that are not kept have no length.
        ended = [replace(row, prompt_chars=0) for row in ended]
    in_flight = _in_flight(in_time, most_in_flight)
    estimate = estimate_rows(chars, ended, source=source, in_flight=in_flight)
    return estimate if estimate.is_known else None


def _in_flight(rows: Sequence[Mapping[str, Any]], most: int | None) -> tuple[float, float] | None:
    """The fewest and the most rows in flight on average, from the times of rows that ended.

    Times in which no row was in flight do not count, such as those between two runs. ``most`` is known of the
    rows to come.
    """
    times = [
        (row["started_at"].timestamp(), row["completed_at"].timestamp())
        for row in rows
        if row["started_at"] is not None and row["completed_at"] is not None
    ]
    elapsed_s = covered_s(times)
    if not elapsed_s:
        return None
    average = sum(last - first for first, last in times) / elapsed_s
    low, high = _IN_FLIGHT_FACTORS
    return average * low, max(average * high, most or 0)


def _ended(row: Mapping[str, Any]) -> EndedRow:
    tokens = {name: row[name] for name in TOKEN_COLUMNS}
    return EndedRow(
        prompt_chars=-1 if row["prompt_chars"] is None else row["prompt_chars"],
        input_tokens=total_of(tokens[name] for name in INPUT_COLUMNS),
        output_tokens=total_of(tokens[name] for name in TOKEN_COLUMNS if name not in INPUT_COLUMNS),
        cost_pico=row["cost_pico"],
        duration_s=row["duration_s"],
    )


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
