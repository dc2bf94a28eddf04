"""Review files of Label Studio: tasks with predictions, the labelling config, and exported annotations.

The formats are those of https://labelstud.io/guide/predictions and https://labelstud.io/guide/export (JSON).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.frames.answer_form import AnswerField
from opencode_tasks.frames.review_task import Judgement, ReviewTask
from opencode_tasks.ledger.column_types import REPLACEMENT

PROMPT, NOTE = "prompt", "note"
# Characters that XML cannot hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def tasks_json(tasks: Sequence[ReviewTask], fields: Sequence[AnswerField]) -> list[dict[str, Any]]:
    """The tasks with the answers of the model as predictions."""
    return [_task(task, fields) for task in tasks]


def labelling_config(fields: Sequence[AnswerField]) -> str:
    """The labelling config of a project for the tasks."""
    prompt = _own_name(PROMPT, fields)
    lines = ["<View>", f"  <Text name={_quoted(prompt)} value={_quoted(f'${PROMPT}')}/>"]
    for field in fields:
        tag = f"name={_quoted(field.name)} toName={_quoted(prompt)}"
        lines.append(f"  <Header value={_quoted(field.name)}/>")
        if field.choices:
            choices = [f"    <Choice value={_quoted(choice)}/>" for choice in field.choices]
            lines += [f'  <Choices {tag} choice="single" showInline="true">', *choices, "  </Choices>"]
        else:
            lines.append(f'  <TextArea {tag} maxSubmissions="1" editable="true" rows="4"/>')
    note = f"name={_quoted(_own_name(NOTE, fields))} toName={_quoted(prompt)}"
    lines.append(f'  <TextArea {note} maxSubmissions="1" editable="true" placeholder="Note"/>')
    return "\n".join([*lines, "</View>", ""])


def is_label_studio(record: Mapping[str, Any]) -> bool:
    """Whether a record of a JSON file is a task of Label Studio."""
    return isinstance(record.get("data"), Mapping)


def judgement_in(record: Mapping[str, Any], fields: Sequence[AnswerField]) -> Judgement:
    """The judgement in a task: its annotations that were not skipped, which must agree."""
    data = mapping_in(record.get("data"))
    found = [mapping_in(one) for one in list_in(record.get("annotations"))]
    annotations = [one for one in found if not one.get("was_cancelled")]
    results = [_results(one, fields) for one in annotations]
    last = annotations[-1] if annotations else mapping_in(None)
    texts = results[-1] if results else None
    is_random = data.get("random")
    return Judgement(
        row_id=str(data.get("row_id", "")),
        run_id=text_in(data.get("run_id")),
        row_key=text_in(data.get("row_key")),
        texts=texts,
        answered_by=_annotator(last.get("completed_by")),
        note=_text_of(last, _own_name(NOTE, fields)),
        is_random=is_random if isinstance(is_random, bool) else None,
        fault="its annotations differ; keep one of them" if any(one != texts for one in results) else None,
    )


def _task(task: ReviewTask, fields: Sequence[AnswerField]) -> dict[str, Any]:
    data = {
        "run_id": task.run_id,
        "row_id": task.row_id,
        "row_key": task.row_key,
        PROMPT: task.prompt,
        "random": task.is_random,
        **task.remarks,
    }
    result = [
        _region(field, text, _own_name(PROMPT, fields))
        for field in fields
        if (text := task.texts.get(field.name)) is not None
    ]
    if not result:
        return {"data": data}
    score = {} if task.score is None else {"score": task.score}
    return {"data": data, "predictions": [{"model_version": task.model_ref or "", **score, "result": result}]}


def _region(field: AnswerField, text: str, prompt: str) -> dict[str, Any]:
    kind, key = ("choices", "choices") if field.choices else ("textarea", "text")
    shown = _xml_text(text) if field.choices else text
    return {
        "id": f"answer-{field.name}",
        "from_name": _xml_text(field.name),
        "to_name": prompt,
        "type": kind,
        "value": {key: [shown]},
    }


def _results(annotation: Mapping[str, Any], fields: Sequence[AnswerField]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for field in fields:
        text = _text_of(annotation, _xml_text(field.name))
        originals = {_xml_text(choice): choice for choice in field.choices}
        texts[field.name] = text if text is None else originals.get(text, text)
    return texts


def _text_of(annotation: Mapping[str, Any], name: str) -> str | None:
    """The text of a control in an annotation; None without one."""
    for region in map(mapping_in, list_in(annotation.get("result"))):
        if region.get("from_name") != name:
            continue
        value = mapping_in(region.get("value"))
        text = value.get("choices", value.get("text"))
        parts = [part for part in (list_in(text) or [text]) if isinstance(part, str)]
        return "\n".join(parts) if parts else None
    return None


def _annotator(completed_by: Any) -> str | None:
    """The person of an annotation: the e-mail address if the export has it, else the number of the user."""
    email = text_in(mapping_in(completed_by).get("email"))
    number = mapping_in(completed_by).get("id", completed_by)
    return email or (None if number is None or isinstance(number, Mapping) else str(number))


def _own_name(name: str, fields: Sequence[AnswerField]) -> str:
    """The name of a tag that is no field: no field has it."""
    return name if name not in {field.name for field in fields} else _own_name(f"_{name}", fields)


def _xml_text(text: str) -> str:
    return _NOT_XML.sub(REPLACEMENT, text)


def _quoted(text: str) -> str:
    return quoteattr(_xml_text(text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
