"""Review export: a file of the rows of a run whose answers a person should look at."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.engine.quality import answer_in, has_answer
from opencode_tasks.engine.review import schema_of
from opencode_tasks.engine.review_gold import differs, gold_text, known_values
from opencode_tasks.errors import InputError
from opencode_tasks.frames.answer_form import AnswerField, AnswerForm, answer_form
from opencode_tasks.frames.argilla import records_json
from opencode_tasks.frames.columns import RESPONSE
from opencode_tasks.frames.label_studio import labelling_config, tasks_json
from opencode_tasks.frames.review_table import review_frame
from opencode_tasks.frames.review_task import ReviewTask
from opencode_tasks.frames.write_file import encoded, file_faults, write_bytes
from opencode_tasks.ledger import Ledger
from opencode_tasks.quality.review_sample import Candidate, choose, confidence_in, reason_for

ReviewFormat = Literal["labelstudio", "argilla", "csv", "xlsx"]
# The suffix of each format. The first format with the suffix of a name is its default.
SUFFIXES: Mapping[ReviewFormat, str] = {
    "labelstudio": ".json",
    "argilla": ".json",
    "csv": ".csv",
    "xlsx": ".xlsx",
}
CONFIG_SUFFIX = ".config.xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewExport:
    """A finished export: the files, and the number of rows, drawn at random, without an answer and left out.

    Rows are left out since a person has answered them, or since a row with the same prompt stands for them.
    """

    files: Sequence[str]
    rows: int
    drawn: int
    unanswered: int
    reviewed: int
    equal: int


def export_review(
    ledger: Ledger,
    run_id: str,
    target: str,
    *,
    file_format: ReviewFormat | None = None,
    limit: int | None = None,
    share: float = 0.2,
    seed: int = 0,
) -> ReviewExport:
    """Write rows of a run for a review: the least certain ones first, then ``share`` of them at random.

    Rows that need a review and rows without an answer are the first ones, then rows whose answer differs from
    a gold value.
    ``file_format`` None is that of the suffix of ``target``. The same ``seed`` draws the same rows. Raises
    InputError if the run does not exist or has no prompts, or if the target cannot be written.
    """
    chosen = _format_of(target, file_format)
    faults = file_faults(target)
    if limit is not None and limit < 1:
        faults.append(f"--limit: {limit} is not at least 1")
    if not 0 <= share <= 1:
        faults.append(f"--random: {share:g} is not a share from 0 to 1")
    if faults:
        raise InputError(tuple(faults))
    schema = schema_of(ledger, run_id)
    form = answer_form(schema)
    prompts = ledger.results.prompts(run_id)
    outcomes = ledger.results.outcomes(run_id)
    if outcomes and not prompts:
        raise InputError((f"run {run_id}: its prompts were removed, so nobody can review its answers",))
    unreviewed = [one for one in outcomes if one["answered_by"] is None and one["row_id"] in prompts]
    by_key: dict[str, Mapping[str, Any]] = {}
    for one in unreviewed:
        by_key.setdefault(one["row_key"], one)
    rows = {one["position"]: one for one in by_key.values()}
    gold = known_values(ledger, run_id, unreviewed, schema)
    first, drawn = choose(
        [_candidate(one, gold, schema) for one in rows.values()],
        limit=limit,
        share=share,
        seed=f"{run_id}/{seed}",
    )
    tasks = [
        _task(
            run_id,
            rows[one.position],
            one,
            prompts,
            form=form,
            schema=schema,
            gold=gold.get(rows[one.position]["row_key"], {}),
            is_random=is_random,
        )
        for part, is_random in ((first, False), (drawn, True))
        for one in part
    ]
    return ReviewExport(
        files=_write(tasks, form.fields, target, chosen),
        rows=len(tasks),
        drawn=len(drawn),
        unanswered=sum(not task.texts for task in tasks),
        reviewed=sum(one["answered_by"] is not None for one in outcomes),
        equal=len(unreviewed) - len(by_key),
    )


def _format_of(target: str, wanted: ReviewFormat | None) -> ReviewFormat:
    """The format of a file. Raises InputError if its suffix does not fit."""
    for name in get_args(ReviewFormat) if wanted is None else (wanted,):
        found: ReviewFormat = name
        if target.lower().endswith(SUFFIXES[found]):
            return found
    if wanted is not None:
        raise InputError((f"--format {wanted}: the name of the file must end with {SUFFIXES[wanted]}",))
    listed = ", ".join(dict.fromkeys(SUFFIXES.values()))
    raise InputError((f"OUTPUT {target}: unknown suffix; use {listed}",))


def _candidate(
    outcome: Mapping[str, Any], gold: Mapping[str, Mapping[str, Any]], schema: Mapping[str, Any] | None
) -> Candidate:
    # Only runs with several answers for each row have an agreement.
    agreement = outcome.get("agreement")
    return Candidate(
        position=outcome["position"],
        has_answer=has_answer(outcome["status"], outcome["response"]),
        needs_review=bool(outcome.get("needs_review")),
        agreement=None if agreement is None else float(agreement),
        confidence=confidence_in(mapping_in(outcome["structured"])),
        differs=differs(outcome, gold.get(outcome["row_key"], {}), schema),
    )


def _task(
    run_id: str,
    outcome: Mapping[str, Any],
    candidate: Candidate,
    prompts: Mapping[str, str],
    *,
    form: AnswerForm,
    schema: Mapping[str, Any] | None,
    gold: Mapping[str, Any],
    is_random: bool,
) -> ReviewTask:
    answer = answer_in(outcome["response"], outcome["structured"], RESPONSE.name, schema)
    return ReviewTask(
        run_id=run_id,
        row_id=outcome["row_id"],
        row_key=outcome["row_key"],
        prompt=prompts[outcome["row_id"]],
        texts=form.texts(answer) if candidate.has_answer else {},
        score=candidate.score,
        model_ref=outcome["model_ref"],
        is_random=is_random,
        reason=reason_for(candidate, is_random=is_random),
        agreement=candidate.agreement,
        gold=gold_text(gold),
    )


def _write(
    tasks: Sequence[ReviewTask], fields: Sequence[AnswerField], target: str, file_format: ReviewFormat
) -> list[str]:
    """Write the file, and that of the labelling config; returns their names."""
    match file_format:
        case "labelstudio":
            config = target[: -len(SUFFIXES[file_format])] + CONFIG_SUFFIX
            write_bytes(_json(tasks_json(tasks, fields)), target)
            write_bytes(labelling_config(fields).encode(), config)
            return [target, config]
        case "argilla":
            write_bytes(_json(records_json(tasks, fields)), target)
        case "csv" | "xlsx":
            frame = review_frame(tasks, fields, protects_cells=file_format == "csv")
            # Without the mark, Excel on Windows reads UTF-8 in another encoding.
            mark = codecs.BOM_UTF8 if file_format == "csv" else b""
            write_bytes(mark + encoded(frame, file_format), target)
    return [target]


def _json(records: Sequence[Mapping[str, Any]]) -> bytes:
    # ASCII: a text may hold half a pair of surrogates.
    return json.dumps(records, indent=1).encode()
