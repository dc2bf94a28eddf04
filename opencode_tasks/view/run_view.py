"""RunView: what the pages must know about a run to show its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.template import template_start
from opencode_tasks.frames.answer_form import AnswerField, AnswerForm, answer_form
from opencode_tasks.ledger import Ledger, system_text_in

# Characters at the start of a template that a list still shows in each row.
LONGEST_START = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as the pages show it. ``system`` is its system text as it is sent, None if not known.

    ``model_ref`` has the names of all models if there are several.
    ``has_agreement`` is whether its rows have votes, and so an agreement. ``prompt_start`` is the text of the
    template with which each prompt begins and which a list leaves out; "" if it is short.
    """

    run_id: str
    model_ref: str | None
    system: str | None
    spent_pico: int
    form: AnswerForm
    has_schema: bool
    label_names: tuple[str, ...]
    has_gold: bool
    has_agreement: bool
    error_types: Sequence[str]
    prompt_start: str = ""

    @property
    def fields(self) -> tuple[AnswerField, ...]:
        """The fields of its answers, at least one."""
        return self.form.fields

    @property
    def is_object(self) -> bool:
        """Whether its answers are objects with these fields."""
        return self.form.is_object


def read_run_view(ledger: Ledger, run_id: str) -> RunView | None:
    """The view of a run; None if there is no such run."""
    found = ledger.row_list
    columns = found.run(run_id)
    if columns is None:
        return None
    return run_view(columns, has_gold=found.has_gold(run_id), error_types=found.error_types(run_id))


def run_view(run: Mapping[str, Any], *, has_gold: bool, error_types: Sequence[str]) -> RunView:
    """The view of a run by its columns in the ledger."""
    parameters = mapping_in(run["parameters"])
    schema = mapping_in(parameters.get("schema")) or None
    start = template_start(text_in(parameters.get("template")) or "")
    return RunView(
        run_id=run["run_id"],
        model_ref=run["model_ref"] or ", ".join(map(str, list_in(parameters.get("models")))) or None,
        system=system_text_in(parameters),
        spent_pico=run["spent_pico"],
        form=answer_form(schema),
        has_schema=schema is not None,
        label_names=tuple(map(str, list_in(parameters.get("labels")))),
        has_gold=has_gold,
        has_agreement=(run["votes"] or 0) > 1,
        error_types=error_types,
        prompt_start=start if len(start) > LONGEST_START else "",
    )
