"""Columns of a row's outcome: one declaration for OUTPUT, the ledger, reuse, purge and the reference page.

OUTPUT keeps the input's columns and adds these, with one column per schema field after ``response``.
``row_id`` is not among them: it is the input's id column, or the position of the row. The same
declaration says which column of the ledger's table ``rows`` holds the value, where the value comes
from, whether a reused answer copies it, and with which texts it is purged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["string", "Int64", "Float64", "float64", "boolean", "datetime64[us, UTC]", "object"]
Source = Literal["answer", "attempts", "row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that OUTPUT adds.

    - ``dtype``: its pandas type; ``meaning``: description of its values and of null.
    - ``source``: ``answer`` (written once, from ``answer_field`` of the row's ``Answer``), ``attempts``
      (computed from the row's attempts and their usage) or ``row`` (set by the ledger).
    - ``stored_as``: its column in the ledger's table ``rows``; None if that has the same name.
    - ``field``: the field of the answer's JSON object that it holds; None for all other columns.
    - ``model``: in a run with several models, the one whose answer to the row it holds; else None.
    - ``initial``: its value in a new row, after which it is never null; None for null.
    - ``is_reused``: whether a reused answer copies it from the row that was sent.
    - ``text``: set if it holds text. ``answers`` is removed with the answers, ``messages`` by a purge.
    """

    name: str
    dtype: Dtype
    meaning: str
    source: Source = "row"
    answer_field: str | None = None
    stored_as: str | None = None
    field: str | None = None
    model: str | None = None
    initial: str | int | bool | None = None
    is_reused: bool = False
    text: Literal["answers", "messages"] | None = None

    @property
    def ledger_name(self) -> str:
        """The name of its column in the ledger's table ``rows``."""
        return self.stored_as or self.name


def _tokens(name: str, meaning: str) -> Column:
    return Column(name=name, dtype="Int64", meaning=meaning, source="attempts", is_reused=True)


RESPONSE = Column(
    name="response",
    dtype="string",
    meaning="The answer; null for a row without one. With `--choices` and schemas of other values than "
    "objects: the value, with its own type.",
    source="answer",
    answer_field="text",
    is_reused=True,
    text="answers",
)

SCHEMA_FIELDS = Column(
    name="*a field of the schema*",
    dtype="object",
    meaning="With a schema of objects: the field, with its own type.",
    source="answer",
    answer_field="structured",
    stored_as="structured",
    is_reused=True,
    text="answers",
)
"""The columns of a schema's fields: the ledger stores them as one JSON object."""

AFTER_FIELDS = (
    Column(
        name="status",
        dtype="string",
        meaning="completed, failed, skipped or open.",
        initial="open",
        is_reused=True,
    ),
    Column(
        name="error_type",
        dtype="string",
        meaning="Type of the last error; null without one.",
        is_reused=True,
    ),
    Column(
        name="error_message",
        dtype="string",
        meaning="Message of that error, from the provider or from opencode.",
        is_reused=True,
        text="messages",
    ),
    Column(
        name="waits_until",
        dtype="datetime64[us, UTC]",
        meaning="Earliest time of the next attempt at an open row; null if it waits for no time.",
    ),
    Column(
        name="finish_reason",
        dtype="string",
        meaning="Why the model stopped; null if unknown.",
        source="answer",
        answer_field="finish_reason",
        is_reused=True,
    ),
    Column(
        name="session_id",
        dtype="string",
        meaning="opencode's root session of the last attempt.",
        source="answer",
        answer_field="attempt.session_id",
        is_reused=True,
    ),
    Column(
        name="attempts",
        dtype="Int64",
        meaning="Number of attempts at the row; 0 for a reused answer.",
        source="attempts",
        initial=0,
    ),
    Column(
        name="turns",
        dtype="Int64",
        meaning="Assistant messages of the last attempt.",
        source="answer",
        answer_field="turns",
        is_reused=True,
    ),
    Column(
        name="model_ref",
        dtype="string",
        meaning="`provider/model` that answered.",
        source="answer",
        answer_field="model_ref",
        is_reused=True,
    ),
    _tokens("input_tokens", "Uncached input tokens of all attempts; null if unknown."),
    _tokens("cache_read_tokens", "Input tokens read from the provider's cache."),
    _tokens("cache_write_tokens", "Input tokens written to the provider's cache."),
    _tokens("output_tokens", "Output tokens without reasoning."),
    _tokens("reasoning_tokens", "Reasoning tokens."),
    Column(
        name="cost_usd",
        dtype="float64",
        meaning="Cost of all attempts in USD; null if unknown, never 0 for that.",
        source="attempts",
        stored_as="cost_pico",
        is_reused=True,
    ),
    Column(
        name="cost_source",
        dtype="string",
        meaning="reported, computed or unpriced.",
        source="attempts",
        is_reused=True,
    ),
    Column(
        name="reused",
        dtype="boolean",
        meaning="Whether the answer is copied from an earlier or an equal row. The tokens and the cost are "
        "then those of that row, where they were paid.",
        initial=False,
    ),
    Column(
        name="duration_s",
        dtype="float64",
        meaning="Seconds from the first attempt to the outcome; null if unknown.",
    ),
    Column(
        name="answered_by",
        dtype="string",
        meaning="Person who reviewed the answer; null for an answer of the model.",
        is_reused=True,
    ),
    Column(
        name="reviewed_at",
        dtype="datetime64[us, UTC]",
        meaning="Time of that review.",
        is_reused=True,
    ),
)

VOTE_COLUMNS = (
    Column(
        name="agreement",
        dtype="float64",
        meaning="With `--votes` or several models: share of the votes with an answer that equal that "
        "of the row, from 0 to 1; the mean over the fields that are voted on. Null without an answer.",
    ),
    Column(
        name="votes",
        dtype="string",
        meaning="With `--votes` or several models: what each vote or model answered, as a JSON list in their "
        "order; null in it for one without an answer. Null for a row without a vote.",
        text="answers",
    ),
    Column(
        name="needs_review",
        dtype="boolean",
        meaning="With `--votes` or several models: whether two answers have as many votes, so that the first "
        "one was taken, or whether the budget left out votes.",
    ),
)
"""The columns that OUTPUT adds if each row has several votes."""

ESCALATED = Column(
    name="escalated",
    dtype="boolean",
    meaning="With `--escalate-to`: whether the answer is that of the stronger model.",
)


def _work(
    name: str, dtype: Dtype, meaning: str, text: Literal["answers"] | None = None, *, is_reused: bool = True
) -> Column:
    return Column(
        name=name,
        dtype=dtype,
        meaning=f"With a workspace: {meaning}",
        source="answer",
        answer_field=f"work.{name}",
        is_reused=is_reused,
        text=text,
    )


WORK_COLUMNS = (
    _work(
        "diff",
        "string",
        "unified diff of the files that the agent changed, as `git apply` reads it, binary files included; "
        "empty without a change. Null if `diff_url` has it; characters that are not UTF-8 are replaced.",
        "answers",
    ),
    _work(
        "diff_url",
        "string",
        "address of the file with the diff, if it is longer than `OPENCODE_TASKS_MAX_DIFF_BYTES` or not "
        "UTF-8; else null. `file://MACHINE/PATH` if it is on the disk of another machine of a Ray cluster.",
        "answers",
    ),
    _work("files_changed", "Int64", "number of files that were added, changed or removed."),
    _work("lines_added", "Int64", "number of added lines of text files."),
    _work("lines_removed", "Int64", "number of removed lines of text files."),
    _work(
        "tools_called",
        "string",
        "names of the tools that the agent and its sub-agents called, as a JSON list in the order of the "
        "first calls.",
    ),
    _work("tools_denied", "string", "names of the tools that permissions denied, as a JSON list."),
    _work(
        "workspace_url",
        "string",
        "address of the workspace after the work, `file://MACHINE/PATH` on another machine of a Ray cluster; "
        "null if it was not kept (`--keep-workspaces`).",
        "answers",
        is_reused=False,
    ),
    _work(
        "check_passed",
        "boolean",
        "whether `--check-command` ended with exit code 0; null if it did not run.",
    ),
    _work("check_output", "string", "last 4,000 characters of the output of that command.", "answers"),
    _work(
        "artifacts",
        "string",
        "files of `--artifact` that were stored, as a JSON list of objects with path, url, size_bytes and "
        "sha256; null without that option.",
        "answers",
    ),
)
"""The columns that OUTPUT adds if the rows have workspaces."""

OUTPUT = (RESPONSE, *AFTER_FIELDS)
"""The columns that OUTPUT always adds, in order; those of a schema follow the first."""

STORED = (RESPONSE, SCHEMA_FIELDS, *AFTER_FIELDS, *VOTE_COLUMNS, ESCALATED, *WORK_COLUMNS)
"""The columns of an outcome as the ledger stores them."""

RESERVED_COLUMNS = (*(column.name for column in OUTPUT), "row_id")
"""Names that neither an input column nor a schema field may have, apart from the id column."""
