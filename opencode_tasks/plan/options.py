"""Options of a run after their files are read, and the ``OpencodeSpec`` that they ask for.

No framework is imported here: the command line starts opencode with it while these are loaded.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from opencode_tasks.domain.sandbox import Network, SandboxKind
from opencode_tasks.domain.text import composed
from opencode_tasks.domain.work import KeepWorkspaces, absolute_address
from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    DEFAULT_SYSTEM,
    BackendName,
    Clocks,
    OpencodeSpec,
    Secrets,
)
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.binary import NO_BINARY, find_binary
from opencode_tasks.opencode.config import config_in_force, read_config
from opencode_tasks.plan.answer_format import MAX_REPAIRS, AnswerFormat, answer_format, schema_of
from opencode_tasks.plan.option_declarations import BadRows, OnBudget, OnWait
from opencode_tasks.plan.option_signatures import ANNOTATE, value_faults, with_defaults
from opencode_tasks.quality.candidates import Candidate
from opencode_tasks.settings import settings
from opencode_tasks.system.text_file import read_text_file

MIN_LABELS = 2
LOW_CONFIDENCE = 0.8
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_ATTEMPTS = 3
FILE_TEXTS = ("system", "template")
"""Options whose text ``@FILE`` is the content of a file, and whose text ``@@…`` begins with one ``@``."""


class EscalationLimits(NamedTuple):
    """Limits below which a row is escalated: of the agreement, and of the confidence that a field states.

    ``confidence_field`` None means that no field does.
    """

    agreement: float
    confidence: float
    confidence_field: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a run: those of ``AnnotateOptions`` with the same names and defaults, files read.

    ``schema`` and ``opencode_config`` are JSON objects here; the schema of ``choices`` is in ``schema`` too.
    ``output_type`` is the type from which the schema was made, None for none. ``models`` are the names of
    several models in their order, of which ``model`` and ``variant`` are the first one; empty for one model.
    ``series`` names the runs over one growing input that this run belongs to; None without an incremental
    input. ``table_folder`` is the path or URL of the folder of INPUT, to which paths of files are relative;
    None is the working directory.
    """

    model: str | None = None
    models: Sequence[str] = ()
    prompt_column: str = "prompt"
    template: str | None = None
    id_column: str | None = None
    label: Sequence[str] = ()
    gold: Sequence[str] = ()
    system: str | None = None
    system_column: str | None = None
    file: str | Sequence[str] = ()
    examples: str | None = None
    agent: str | None = None
    credentials: str | None = None
    mcp_server: Sequence[str] = ()
    allow_tool: Sequence[str] = ()
    deny_tool: Sequence[str] = ()
    variant: str | None = None
    schema: Mapping[str, Any] | None = None
    choices: str | Sequence[str] | None = None
    output_type: Any = None
    opencode_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    opencode_bin: str | None = None
    work_dir: str | Path | None = None
    workspace: str | None = None
    workspace_ref: str | None = None
    workspace_template: str | None = None
    setup_command: str | None = None
    check_command: str | None = None
    require_check: bool = False
    check_retries: int = 0
    artifact: Sequence[str] = ()
    keep_workspaces: KeepWorkspaces = "none"
    artifacts: str | None = None
    sandbox: SandboxKind | None = None
    network: Network = "provider"
    allow_host: Sequence[str] = ()
    keys_in_sandbox: bool = False
    sandbox_read: Sequence[str] = ()
    sandbox_env: Sequence[str] = ()
    column_prefix: str | None = None
    log_dir: str | Path | None = None
    batch_size: int | None = None
    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    backend: BackendName | None = None
    timeout: float | None = None
    first_event_timeout: float | None = None
    stall_timeout: float | None = None
    tool_timeout: float | None = None
    max_attempts: int | None = None
    max_repairs: int = MAX_REPAIRS
    bad_rows: BadRows = "stop"
    ledger: str | None = None
    refresh: bool = False
    on_wait: OnWait = "wait"
    max_cost: float | None = None
    max_row_cost: float | None = None
    on_budget: OnBudget = "pause"
    pilot: int | None = None
    votes: int | None = None
    escalate_to: str | None = None
    escalate_below: float | None = None
    confidence: str | None = None
    canary: str | None = None
    series: str | None = None
    table_folder: str | None = None

    @property
    def timeout_in_force(self) -> float:
        """Time limit of one attempt, in seconds."""
        return DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout

    @property
    def max_attempts_in_force(self) -> int:
        """Maximum number of attempts of one row."""
        return DEFAULT_ATTEMPTS if self.max_attempts is None else self.max_attempts

    @property
    def file_columns(self) -> tuple[str, ...]:
        """The columns with the files of a row."""
        return (self.file,) if isinstance(self.file, str) else tuple(self.file)

    @property
    def has_workspace(self) -> bool:
        """Whether the agent of each row works on files of its own."""
        return self.workspace is not None or self.workspace_template is not None

    @property
    def has_parts(self) -> bool:
        """Whether the answers to a row come from several runs."""
        return bool(self.models) or self.votes is not None or self.escalate_to is not None

    @property
    def votes_per_row(self) -> int:
        """The number of answers that a row may have, without that of the stronger model."""
        return len(self.models) or self.votes or 1

    @property
    def has_votes(self) -> bool:
        """Whether a row takes the most frequent one of several answers."""
        return self.votes_per_row > 1

    @property
    def escalation_limits(self) -> EscalationLimits:
        """What sends a row to the stronger model."""
        given = self.escalate_below
        return EscalationLimits(
            agreement=1.0 if given is None else given,
            confidence=LOW_CONFIDENCE if given is None else given,
            confidence_field=self.confidence,
        )

    @property
    def answer_format(self) -> AnswerFormat | None:
        """What the answers must be; None for text."""
        return answer_format(self.schema, self.output_type, self.max_repairs)


def make_options(keywords: Mapping[str, Any], output_type: Any = None) -> Options:
    """Options from the keywords of ``annotate()``, the files that they name read.

    Raises TypeError for an unknown keyword, and InputError with a line for each value that is not
    allowed and each file that cannot be read.
    """
    values = with_file_texts(with_defaults(keywords, ANNOTATE))
    if faults := [*value_faults(values), *read_files(values, output_type)]:
        raise InputError(tuple(faults))
    return Options(**values, output_type=output_type)


def read_files(values: dict[str, Any], output_type: Any = None) -> list[str]:
    """Replace the options that name files by what these hold; return a line for each fault.

    ``model`` is read too, by ``read_models``. ``schema`` is the schema of ``choices`` or of ``output_type``
    if these are given.
    """
    faults = read_models(values)
    if values.get("system") is not None and values.get("system_column") is not None:
        faults.append("--system and --system-column: each is the system text of the rows; give one of them")
    readers: dict[str, Callable[[Any], Any]] = {
        "schema": lambda schema: answer_schema(schema, values.get("choices"), output_type),
        "opencode_config": read_opencode_config,
        **dict.fromkeys(FILE_TEXTS, _literal),
    }
    for name, read in readers.items():
        if value_faults({option: values.get(option) for option in (name, "choices")}):
            continue
        try:
            values[name] = read(values.get(name))
        except InputError as error:
            faults.extend(error.faults)
            values[name] = None
    return faults


def read_models(values: dict[str, Any]) -> list[str]:
    """Replace ``model`` by the first model and its variant, and set ``models``; return a line for each fault.

    ``PROVIDER/MODEL#VARIANT`` names a variant. ``models`` is empty for one model.
    """
    given: str | Sequence[str] | None = values.get("model")
    variant: str | None = values.get("variant")
    values["models"] = ()
    if given is None or value_faults({"model": given}):
        return []
    names = [given] if isinstance(given, str) else list(given)
    values["models"] = tuple(names) if len(names) > 1 else ()
    first = Candidate.of(names[0]) if names else None
    values["model"] = None if first is None else first.model
    if first is not None and first.variant is not None:
        values["variant"] = first.variant
    faults = [
        f"--model: {name} is given twice; for several answers of one model use --votes"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if len(names) > 1 and variant is not None:
        named = f"{names[0]}#{variant}"
        faults.append(f"--variant: with several models, write it after each name: --model {named}")
    elif variant is not None and first is not None and first.variant not in (None, variant):
        faults.append(f"--variant: --model {names[0]} names another one; give one of them")
    if len(names) > 1 and values.get("votes") is not None:
        faults.append("--votes: not with several models, each of which answers a row once; leave it out")
    return faults


def with_file_texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the content of the files that ``@FILE`` names, in a form that names no file.

    So a file is read once, and ``resume`` has its text. Raises InputError for each file that cannot be read.
    """
    found, faults = dict(values), list[str]()
    for name in FILE_TEXTS:
        value = found.get(name)
        if not isinstance(value, str) or not value.startswith("@") or value.startswith("@@"):
            continue
        try:
            text = _read_text(f"--{name}", value[1:])
        except InputError as error:
            faults.extend(error.faults)
        else:
            found[name] = f"@{text}" if text.startswith("@") else text
    if faults:
        raise InputError(tuple(faults))
    return found


def _literal(text: str | None) -> str | None:
    return text[1:] if text is not None and text.startswith("@@") else text


def _read_text(option: str, name: str) -> str:
    advice = "write @@ for a text that begins with @"
    try:
        text = read_text_file(name)
    except OSError as error:
        raise InputError((f"{option}: cannot read the file {name!r}: {error.strerror}; {advice}",)) from None
    except ValueError:
        raise InputError((f"{option}: the file {name!r} is not text in UTF-8; {advice}",)) from None
    if "\0" in text:
        raise InputError((f"{option}: the file {name!r} contains a NUL character",))
    return text


def answer_schema(
    schema: str | Mapping[str, Any] | None, choices: str | Sequence[str] | None, output_type: Any = None
) -> Any:
    """The schema that one of three options gives, as its JSON value; None without any.

    Raises InputError if two of them are given, or if the given one is not valid.
    """
    given = {"--schema": schema, "--choices": choices, "output_type": output_type}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError((f"{' and '.join(names)}: each says what the answer is; give one of them",))
    if choices is not None:
        return choices_schema(choices)
    return read_schema(schema) if output_type is None else schema_of(output_type)


def choices_schema(choices: str | Sequence[str]) -> dict[str, Any]:
    """The schema of an answer that is one of several labels; a text is a line of CSV.

    Raises InputError if there are fewer than two labels, an empty one, or one twice, or for a quotation mark
    without its pair.
    """
    labels = [label.strip() for label in (_csv_cells(choices) if isinstance(choices, str) else choices)]
    faults: list[str] = []
    if not all(labels):
        faults.append("--choices: a label is empty; write them as positive,negative")
    if len(set(map(composed, labels))) < len(labels):
        faults.append("--choices: a label is named twice")
    if len(labels) < MIN_LABELS and not faults:
        words = labels[0].split() if labels else []
        example = ",".join(words) if len(words) > 1 else "positive,negative"
        faults.append(
            f"--choices: {labels[0] if labels else ''!r} is one label; name at least two, with commas "
            f"between them: --choices {shlex.quote(example)}"
        )
    if faults:
        raise InputError(tuple(faults))
    return {"type": "string", "enum": labels}


def _csv_cells(choices: str) -> list[str]:
    if '"' not in choices:
        return choices.split(",")
    try:
        return next(csv.reader([choices.strip()], skipinitialspace=True, strict=True))
    except csv.Error:
        fault = (
            f"--choices: {choices!r} has a label in quotation marks that does not end with one; "
            'write a label with a comma as "Food, drinks"'
        )
        raise InputError((fault,)) from None


def read_schema(value: str | Mapping[str, Any] | None) -> Any:
    """A schema given as itself or as the name of a JSON file: its JSON value, or None for None.

    Raises InputError if the file cannot be read or is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(read_text_file(value))
    except OSError as error:
        raise InputError((f"--schema: cannot read {value}: {error.strerror}",)) from None
    except ValueError as error:
        raise InputError((f"--schema: {value} is not JSON: {str(error).splitlines()[0]}",)) from None


def read_opencode_config(value: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """An opencode config given as itself or as the name of a file. Raises InputError if it cannot be read."""
    return read_config(Path(value), "--opencode-config") if isinstance(value, str) else dict(value or {})


def make_spec(options: Options, secrets: Secrets | None = None) -> OpencodeSpec:
    """The way to run opencode for these options.

    Raises InputError if the binary that the options name is not usable, SetupError if none is found.
    """
    return OpencodeSpec(
        binary=_binary(options),
        config=config_in_force(options.opencode_config, os.environ),
        model_ref=options.model,
        system=options.system or DEFAULT_SYSTEM,
        agent=options.agent or DEFAULT_AGENT,
        mcp_servers=tuple(options.mcp_server),
        allowed_tools=tuple(sorted(set(options.allow_tool))),
        denied_tools=tuple(sorted(set(options.deny_tool))),
        secrets=secrets or Secrets(),
        clocks=make_clocks(
            options.timeout,
            options.first_event_timeout,
            options.stall_timeout,
            options.tool_timeout,
        ),
        max_inline_wait_s=settings().max_inline_wait,
        work_dir=Path(options.work_dir).resolve() if options.work_dir else None,
        kept_sessions=absolute_address(settings().kept_sessions),
    )


def _binary(options: Options) -> Path:
    kind = None if options.backend is None else BACKENDS.get(options.backend)
    if kind is not None and not kind.runs_opencode and options.opencode_bin is None:
        return NO_BINARY
    try:
        return find_binary(options.opencode_bin or settings().opencode_bin)
    except SetupError as error:
        if options.opencode_bin is None:
            raise
        raise InputError((error.raw_message,)) from None


def make_clocks(
    timeout: float | None,
    first_event_timeout: float | None,
    stall_timeout: float | None,
    tool_timeout: float | None,
) -> Clocks:
    """The clocks for these options, in seconds. An option of None takes its setting or default."""
    known = settings()
    first, stall, tool = known.first_event_timeout, known.stall_timeout, known.tool_timeout
    return Clocks.within(
        DEFAULT_TIMEOUT_S if timeout is None else timeout,
        first_event_s=first if first_event_timeout is None else first_event_timeout,
        stall_s=stall if stall_timeout is None else stall_timeout,
        tool_s=tool if tool_timeout is None else tool_timeout,
    )
