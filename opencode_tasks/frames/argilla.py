"""Review files of Argilla: records with suggestions, and records with responses, as ``Dataset`` exports them.

The format is that of ``argilla.Record.to_dict`` and ``from_dict`` (2.8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.frames.answer_form import AnswerField, value_text
from opencode_tasks.frames.review_task import Judgement, ReviewTask

# Argilla refuses agents with other characters or with more, and scores outside of 0 to 1.
_NOT_AGENT = re.compile(r"[^a-zA-Z0-9\-_:./\s]")
MAX_AGENT_CHARS = 200
# Names of questions and fields have these characters alone.
_NOT_NAME = re.compile(r"[^a-z0-9_-]+")


def records_json(tasks: Sequence[ReviewTask], fields: Sequence[AnswerField]) -> list[dict[str, Any]]:
    """The records with the answers of the model as suggestions."""
    names = question_names(fields)
    return [
        {
            "id": f"{task.run_id}/{task.row_id}",
            "fields": {"prompt": task.prompt},
            "metadata": {
                "run_id": task.run_id,
                "row_id": task.row_id,
                "row_key": task.row_key,
                "random": str(task.is_random).lower(),
                **task.remarks,
            },
            "suggestions": {
                names[name]: {"value": text, "score": _score(task.score), "agent": _agent(task.model_ref)}
                for name, text in task.texts.items()
                if text is not None
            },
            "responses": {},
            "vectors": {},
            "status": "pending",
        }
        for task in tasks
    ]


def _agent(model_ref: str | None) -> str | None:
    return None if not model_ref else _NOT_AGENT.sub("_", model_ref)[:MAX_AGENT_CHARS]


def _score(score: float | None) -> float | None:
    return score if score is not None and 0 <= score <= 1 else None


def question_names(fields: Sequence[AnswerField]) -> dict[str, str]:
    """The names of the questions by the names of the fields."""
    names: dict[str, str] = {}
    for field in fields:
        plain = _NOT_NAME.sub("_", field.name.lower()).strip("_") or "answer"
        while plain in names.values():
            plain += "_"
        names[field.name] = plain
    return names


def is_argilla(record: Mapping[str, Any]) -> bool:
    """Whether a record of a JSON file is one of Argilla."""
    return isinstance(record.get("fields"), Mapping) and "responses" in record


def judgement_in(record: Mapping[str, Any], fields: Sequence[AnswerField]) -> Judgement:
    """The judgement in a record: the responses of all persons, which must agree.

    Exported responses do not say whether they are drafts or discarded, the record does: it is pending then.
    """
    metadata = mapping_in(record.get("metadata"))
    responses = mapping_in(record.get("responses"))
    by_user: dict[str, dict[str, str | None]] = {}
    for name, question in question_names(fields).items():
        for response in map(mapping_in, list_in(responses.get(question))):
            texts = by_user.setdefault(str(response.get("user_id")), {field.name: None for field in fields})
            texts[name] = value_text(response.get("value"))
    if record.get("status") == "pending":
        by_user.clear()
    users = [*by_user]
    texts = by_user[users[-1]] if users else None
    is_random = metadata.get("random")
    return Judgement(
        row_id=str(metadata.get("row_id", "")),
        run_id=text_in(metadata.get("run_id")),
        row_key=text_in(metadata.get("row_key")),
        texts=texts,
        answered_by=users[-1] if users else None,
        is_random=None if is_random is None else str(is_random).lower() == "true",
        fault="its responses differ; keep one of them"
        if any(one != texts for one in by_user.values())
        else None,
    )
