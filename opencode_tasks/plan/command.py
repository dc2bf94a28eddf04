"""Command: a table and options, read and checked before anything is sent, and ready to run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from opencode_tasks.attachments.address import folder_of
from opencode_tasks.domain.json_values import text_in
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.errors import InputError
from opencode_tasks.frames.content import is_encoding
from opencode_tasks.frames.io import InputTable, Output, read_table
from opencode_tasks.frames.output_frame import output_frame
from opencode_tasks.frames.sql import is_sql
from opencode_tasks.frames.validate import has_no_content
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.config import merge
from opencode_tasks.plan.incremental import IncrementalInput
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.option_declarations import RunnerName
from opencode_tasks.plan.option_signatures import OPTIONS, value_faults
from opencode_tasks.plan.options import Options, read_files, with_file_texts
from opencode_tasks.plan.plan import Plan, columns_of
from opencode_tasks.plan.resolver import Resolver, is_block_url
from opencode_tasks.plan.reviewed_examples import as_of, is_reviewed
from opencode_tasks.plan.run_context import RunContext

GIVEN_AS_VALUE = "given as a value"

_FAILURE_LIMIT = re.compile(r"(\d+)|(\d+(?:\.\d+)?)%")
_ALL_PERCENT = 100
_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t"}
# Rows with which writing OUTPUT is tried.
_TRIED_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A checked input, ready to run.

    ``context`` names the run to continue and holds the command that ``resume`` needs. ``max_failed``
    is the number (``N``) or share (``N%``) of rows that may fail, None for no limit. ``min_accuracy`` is the
    share of correct answers that each gold field must reach, None for no limit. ``notes`` say how the input
    was read, and whether OUTPUT is replaced by a table without rows.
    """

    frame: pd.DataFrame
    output: Output
    plan: Plan
    context: RunContext
    max_failed: str | int | None = None
    min_accuracy: float | None = None
    notes: Sequence[str] = ()


def prepare(
    source: str,
    target: str,
    *,
    resolver: Resolver,
    base_config: Mapping[str, Any],
    limit: int | None = None,
    runner: RunnerName | None = None,
    ray_address: str | None = None,
    run_id: str | None = None,
    flow_run_id: str | None = None,
    **options: Any,
) -> PreparedRun:
    """Read and check the input and all options. No provider is called.

    ``schema`` and ``opencode_config`` may be file names; ``base_config`` lies under the latter.
    ``run_id`` names a run of the ledger to resume, ``flow_run_id`` the flow run that may have started
    one. ``runner`` and ``ray_address`` are kept for ``resume``. Raises InputError with every fault.
    """
    values = {"input": source, "output": target, "limit": limit, "runner": runner, "ray_address": ray_address}
    options = with_file_texts(options)
    values |= options
    if wrong := value_faults(values):
        raise InputError(tuple(wrong))
    if is_reviewed(options.get("examples")):
        options["examples"] = values["examples"] = _dated_examples(options, resolver, flow_run_id)
    command = command_of(values)
    faults: list[str] = []
    output = Output(name=target)
    table: InputTable | None = None
    plan: Plan | None = None
    faults += read_files(options)
    options["opencode_config"] = merge(base_config, options["opencode_config"] or {})
    if limit is not None and limit < 0:
        faults.append(f"--limit: {limit} is below 0")
        limit = 0
    incremental = IncrementalInput.of(source, options.pop("incremental", None))
    with Collected(faults):
        output = _output(target, incremental, options, resolver)
    reading = {name: options.pop(name, None) for name in ("encoding", "delimiter")}
    with Collected(faults):
        # The limit of an incremental input counts new rows, which are not known yet.
        table = read_table(
            source,
            database=output.database,
            limit=None if incremental or limit is None else min(limit, sys.maxsize),
            keeps_bad_rows=options.get("bad_rows") == "fail",
            **text_options(reading),
        )
    max_failed, min_accuracy = options.pop("max_failed", None), options.pop("min_accuracy", None)
    series = incremental.series if incremental else None
    wanted = Options(series=series, table_folder=folder_of(source), **options)
    faults += _output_faults(output, source, table, wanted)
    with Collected(faults):
        allowed_failures(max_failed, 0)
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        faults.append(f"--min-accuracy: {min_accuracy:g} is not a share from 0 to 1")
    if min_accuracy is not None and not wanted.gold:
        faults.append("--min-accuracy: no accuracy is measured without --gold COLUMN")
    with Ledger.open(resolver.ledger_url(wanted.ledger)) as ledger:
        if incremental is not None and table is not None:
            table = incremental.rows(
                table, ledger, run_id=run_id, limit=limit, refresh=wanted.refresh, flow_run_id=flow_run_id
            )
        # The branches of the run may have moved since its first start.
        known = ledger.rows.workspaces(run_id, flow_run_id) if wanted.has_workspace else []
    with Collected(faults):
        frame, unread = (None, None) if table is None else (table.frame, table.row_faults)
        plan = make_plan(frame, resolver.options(wanted), unread, known)
    has_columns = table is None or not has_no_content(table.frame)
    is_measured = min_accuracy is not None and bool(wanted.gold) and has_columns
    if plan is not None and is_measured and not plan.gold:
        faults.append("--min-accuracy: INPUT has none of the columns of --gold, and it is not about canaries")
    if faults or plan is None or table is None:
        raise InputError(tuple(dict.fromkeys(faults)))
    notes = [*table.notes]
    if not len(table.frame) and output.replaces_file():
        notes.append(f"OUTPUT {target}: INPUT has no rows, so the file is replaced by a table without rows")
    return PreparedRun(
        frame=table.frame,
        output=output,
        plan=plan,
        context=RunContext(resumed_run_id=run_id, command=command),
        max_failed=max_failed,
        min_accuracy=min_accuracy,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class Collected:
    """Context that collects the faults of an InputError and suppresses it, to report all at once."""

    faults: list[str]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.faults.extend(error.faults)
        return isinstance(error, InputError)


def _output(
    target: str, incremental: IncrementalInput | None, options: dict[str, Any], resolver: Resolver
) -> Output:
    """Where OUTPUT is written. Takes its options out of ``options``; the key of a series is the row id."""
    partition_by, database = options.pop("partition_by", ()), options.pop("database", None)
    if incremental is not None:
        if options.get("id_column") not in (None, incremental.key):
            fault = (
                f"--incremental: {incremental.key} is the row id, but --id-column is {options['id_column']}"
            )
            raise InputError((fault,))
        options["id_column"] = incremental.key
    return Output(
        name=target,
        database=resolver.database_url(database),
        key=options.get("id_column"),
        prefix=options.get("column_prefix") or "",
        partition_by=tuple(partition_by),
        grows=incremental is not None,
    )


def _dated_examples(options: Mapping[str, Any], resolver: Resolver, flow_run_id: str | None) -> str:
    """``--examples reviewed`` with the time until which reviews count; a flow run keeps that of its start."""
    saved: str | None = None
    if flow_run_id is not None:
        with Ledger.open(resolver.ledger_url(options.get("ledger"))) as ledger:
            saved = text_in(ledger.runs.saved_command(flow_run_id).get("examples"))
    return saved if saved and is_reviewed(saved) else as_of(options["examples"], datetime.now(UTC))


def command_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the ledger keeps them for ``resume``: absolute paths, and no secret.

    A config that was given as a value can hold a secret: only the fact that there was one is kept. A secret
    in a URL is replaced by ``***``.
    """
    kept = {name: value for name, value in options.items() if OPTIONS[name].info.is_saved}
    if is_block_url(options.get("database")):
        kept["database"] = options["database"]
    for name in [name for name in kept if OPTIONS[name].info.is_path]:
        value = kept[name]
        if name == "examples" and is_reviewed(value):
            continue
        if isinstance(value, str | Path) and "://" not in str(value) and not is_sql(str(value)):
            kept[name] = str(Path(value).absolute())
        elif isinstance(value, Mapping) and name == "opencode_config":
            kept[name] = {GIVEN_AS_VALUE: True}
        elif isinstance(value, str):
            kept[name] = without_url_secrets(value)
    return kept


def allowed_failures(max_failed: str | int | None, rows: int) -> int | None:
    """Number of ``rows`` that may fail: ``N``, or ``N%`` of them rounded down; None for no limit.

    Raises InputError for any other text.
    """
    if max_failed is None:
        return None
    found = _FAILURE_LIMIT.fullmatch(str(max_failed).strip())
    percent = Fraction(found[2]) if found and found[2] else None
    if not found or (percent is not None and percent > _ALL_PERCENT):
        raise InputError(
            (f"--max-failed: {max_failed!r} is neither a number of rows nor a percentage like 5%",)
        )
    return int(found[1]) if percent is None else int(percent * rows / _ALL_PERCENT)


def text_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Encoding and delimiter of INPUT, from the options; the delimiter ``tab`` becomes the character.

    Raises InputError if one is not valid.
    """
    encoding, delimiter = values.get("encoding"), values.get("delimiter")
    faults: list[str] = []
    if encoding is not None and not is_encoding(encoding):
        faults.append(f"--encoding: {encoding!r} is not an encoding; examples are utf-8, cp1252 and utf-16")
    if delimiter is not None:
        delimiter = _DELIMITER_NAMES.get(str(delimiter).lower(), str(delimiter))
        if len(delimiter) != 1 or delimiter in '"\r\n':
            faults.append(f"--delimiter: {delimiter!r} is not a single character, such as ; or tab")
    if faults:
        raise InputError(tuple(faults))
    return {"encoding": encoding, "delimiter": delimiter}


def _output_faults(output: Output, source: str, table: InputTable | None, options: Options) -> list[str]:
    """Reasons why OUTPUT cannot be written; a schema with faults adds no columns."""
    if table is None or has_no_content(table.frame):
        # The columns of INPUT are unknown.
        return output.faults(source, None)
    added = columns_of(options)
    names = [*map(str, table.frame.columns), *(column.name for column in added)]
    first = table.frame.head(_TRIED_ROWS)
    sample = output_frame(first, [dict[str, Any]()] * len(first), added)
    sample.attrs = first.attrs
    return output.faults(source, names, sample)
