"""Examples for the model from reviews: for each row the answers of persons to the most similar prompts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import batches
from opencode_tasks.frames.validate import PromptRow, PromptRows
from opencode_tasks.ledger import Ledger, ReviewedPrompt
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.system_text import Example, SystemText
from opencode_tasks.quality.gold import require_extra
from opencode_tasks.quality.nearest import NearestTexts

REVIEWED = "reviewed"
"""Value of ``--examples`` for examples from reviews."""

EXAMPLES_PER_ROW = 5
MAX_REVIEWS = 5000
_NONE = -1


def is_reviewed(examples: str | None) -> bool:
    """Whether the examples of a run come from reviews."""
    return examples is not None and examples.partition("@")[0] == REVIEWED


def as_of(examples: str, now: datetime) -> str:
    """The value of ``--examples`` with the time until which reviews count.

    The rows of a resumed run have the same examples as before.
    """
    return examples if "@" in examples else f"{examples}@{now.isoformat()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedExamples:
    """Reviewed prompts, and by the position of a row the indices of those that are its examples.

    ``by_prompt`` has all reviews of a prompt: they may be of rows with other models and system texts.
    """

    reviews: Sequence[ReviewedPrompt]
    indices: array[int]
    by_prompt: Mapping[str, Sequence[ReviewedPrompt]]

    def system_of(
        self, row: PromptRow, system: SystemText, key_of: Callable[[str, str | None], str]
    ) -> str | None:
        """The system text of a row if it differs from the common one.

        A row that a person answered keeps its system text, so that it takes that answer.
        """
        for own in self.by_prompt.get(row.prompt, ()):
            if key_of(row.prompt, own.system) == own.row_key:
                return own.system
        at = row.position * EXAMPLES_PER_ROW
        chosen = [self.reviews[index] for index in self.indices[at : at + EXAMPLES_PER_ROW] if index != _NONE]
        return system.of_row(row.prompt, row.system, [Example(one.prompt, one.response) for one in chosen])


def read_reviewed_examples(options: Options, rows: PromptRows) -> ReviewedExamples | None:
    """The examples of these rows if ``--examples`` is ``reviewed``, else None.

    Reviews count if their runs had the same schema and the same template or prompt column. Raises InputError
    if there is none, and SetupError without the extra ``quality``.
    """
    if options.examples is None or not is_reviewed(options.examples):
        return None
    require_extra(f"--examples {REVIEWED}")
    assert options.ledger is not None
    until = _time_in(options.examples)
    with Ledger.open(options.ledger) as ledger:
        found = ledger.ended_rows.reviewed(lambda parameters: _is_like(parameters, options), until=until)
    if not found:
        fault = "no person has answered rows with this template and schema (see: opencode-tasks review)"
        raise InputError((f"--examples {REVIEWED}: {fault}",))
    by_prompt: dict[str, list[ReviewedPrompt]] = {}
    for one in found:
        by_prompt.setdefault(one.prompt, []).append(one)
    reviews = [of_prompt[0] for of_prompt in islice(by_prompt.values(), MAX_REVIEWS)]
    nearest = NearestTexts([one.prompt for one in reviews])
    indices = array("i")
    for chunk in batches(rows):
        # One more, since the prompt of the row itself is no example.
        similar_to = nearest.of([row.prompt for row in chunk], EXAMPLES_PER_ROW + 1)
        for row, similar in zip(chunk, similar_to, strict=True):
            others = [at for at in similar if reviews[at].prompt != row.prompt][:EXAMPLES_PER_ROW]
            indices.extend([*others, *[_NONE] * (EXAMPLES_PER_ROW - len(others))])
    return ReviewedExamples(reviews=reviews, indices=indices, by_prompt=by_prompt)


def _time_in(examples: str) -> datetime:
    _, _, text = examples.partition("@")
    if not text:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError((f"--examples {examples}: {text!r} is no time",)) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _is_like(parameters: Mapping[str, Any], options: Options) -> bool:
    """Whether a run with these saved parameters asked the same question."""
    if parameters.get("schema") != options.schema or parameters.get("template") != options.template:
        return False
    return options.template is not None or parameters.get("prompt_column") == options.prompt_column
