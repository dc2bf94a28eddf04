"""System text of a row: what the user gave, examples, and the instruction for the format of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_HEADING = "Examples of prompts, each with its answer:"


class Example(NamedTuple):
    """A prompt with its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemText:
    """The system texts of a run.

    ``base`` is the system text of a row without one of its own; None is that of a named agent.
    ``instruction`` says how the answer must look; None for text.
    """

    base: str | None
    examples: Sequence[Example] = ()
    instruction: str | None = None

    @property
    def common(self) -> str | None:
        """The system text of most rows; None keeps that of a named agent."""
        return self._text(self.base, self.examples)

    def of_row(self, prompt: str, own: str | None, nearest: Sequence[Example] = ()) -> str | None:
        """The system text of a row that differs from the common one; None if it does not.

        ``own`` is the row's text in place of ``base``, ``nearest`` are further examples for this row. A row
        that is an example does not get its answer.
        """
        examples = [example for example in (*self.examples, *nearest) if example.prompt != prompt]
        if own is None and len(examples) == len(self.examples):
            return None
        text = self._text(self.base if own is None else own, examples) or ""
        return None if text == self.common else text

    def _text(self, base: str | None, examples: Sequence[Example]) -> str | None:
        parts = [base, _examples_text(examples), self.instruction]
        return base if not any(parts[1:]) else "\n\n".join(filter(None, parts))


def _examples_text(examples: Sequence[Example]) -> str | None:
    if not examples:
        return None
    return "\n\n".join([_HEADING, *(f"Prompt:\n{one.prompt}\n\nAnswer:\n{one.answer}" for one in examples)])
