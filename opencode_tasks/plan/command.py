"""Reading and checking a table and all that is asked for it, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_schema import check_schema
from opencode_tasks.engine.run import OnRunEvent
from opencode_tasks.errors import InputError
from opencode_tasks.frames.columns import output_columns
from opencode_tasks.frames.io import Output, read_input
from opencode_tasks.frames.sql import is_sql
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.config import merge
from opencode_tasks.orchestration.block_urls import database_place, is_block, ledger_place
from opencode_tasks.plan.declaration import RunnerName
from opencode_tasks.plan.failure_limit import allowed_failures
from opencode_tasks.plan.incremental import IncrementalInput
from opencode_tasks.plan.option_table import OPTIONS, value_faults
from opencode_tasks.plan.options import Options, read_opencode_config, read_schema
from opencode_tasks.plan.plan import Plan, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A checked input, ready to run; ``on_event`` is told how the run goes.

    ``command`` is what ``resume`` needs to prepare it again, ``run_id`` the run that it goes on with.
    """

    frame: pd.DataFrame
    output: Output
    plan: Plan
    command: Mapping[str, Any]
    max_failed: str | int | None = None
    run_id: str | None = None
    on_event: OnRunEvent | None = None


def prepare(
    source: str,
    target: str,
    *,
    limit: int | None = None,
    runner: RunnerName | None = None,
    ray_address: str | None = None,
    base_config: Mapping[str, Any],
    run_id: str | None = None,
    **options: Any,
) -> PreparedRun:
    """Read and check all there is to check, before anything is spent.

    ``schema`` and ``opencode_config`` may be file names; ``base_config`` lies under the latter.
    ``run_id`` names a run of the ledger to go on with. ``runner`` and ``ray_address`` are only noted.
    Raises InputError with every fault found.
    """
    values = {"input": source, "output": target, "limit": limit, "runner": runner, "ray_address": ray_address}
    values |= options
    if wrong := value_faults(values):
        raise InputError(tuple(wrong))
    command = command_of(values)
    faults: list[str] = []
    schema, config, output = None, dict(base_config), Output(name=target)
    frame: pd.DataFrame | None = None
    plan: Plan | None = None
    with _Noted(faults):
        schema = read_schema(options.pop("schema", None))
    with _Noted(faults):
        config = merge(base_config, read_opencode_config(options.pop("opencode_config", None)))
    if limit is not None and limit < 0:
        faults.append(f"--limit: {limit} is below 0")
    incremental = IncrementalInput.of(source, options.pop("incremental", None))
    with _Noted(faults):
        output = _output(target, incremental, options)
    with _Noted(faults):
        # Which rows are taken is known only once it is known which are new.
        frame = read_input(source, database=output.database, limit=None if incremental else limit)
    faults += output.faults(source, None if frame is None else _output_names(frame, schema))
    max_failed = options.pop("max_failed", None)
    with _Noted(faults):
        allowed_failures(max_failed, 0)
    series = incremental.series if incremental else None
    wanted = Options(series=series, schema=schema, opencode_config=config, **options)
    with Ledger.open(ledger_place(wanted.ledger)) as ledger:
        if incremental is not None and frame is not None:
            frame = incremental.rows(frame, ledger, run_id=run_id, limit=limit, refresh=wanted.refresh)
    with _Noted(faults):
        plan = make_plan(frame, wanted)
    if faults or plan is None or frame is None:
        raise InputError(tuple(dict.fromkeys(faults)))
    return PreparedRun(
        frame=frame,
        output=output,
        plan=plan,
        command=command,
        run_id=run_id,
        max_failed=max_failed,
    )


@dataclass(frozen=True, slots=True)
class _Noted:
    """Goes on after an InputError, its faults noted: all are told at once."""

    faults: list[str]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.faults.extend(error.faults)
        return isinstance(error, InputError)


def _output(target: str, incremental: IncrementalInput | None, options: dict[str, Any]) -> Output:
    """Where answers go; what says so is taken out of the options, and the series' key is the id."""
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
        database=database_place(database),
        key=options.get("id_column"),
        partition_by=tuple(partition_by),
        grows=incremental is not None,
    )


GIVEN_AS_VALUE = "given as a value"


def command_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the ledger keeps them for ``resume``: paths in full, and no secret.

    A config that was given as a value can hold one; that there was one is kept.
    """
    kept = {name: value for name, value in options.items() if OPTIONS[name].info.is_saved}
    if is_block(options.get("database")):
        kept["database"] = options["database"]
    for name in [name for name in kept if OPTIONS[name].info.is_path]:
        value = kept[name]
        if isinstance(value, str | Path) and "://" not in str(value) and not is_sql(str(value)):
            kept[name] = str(Path(value).absolute())
        elif isinstance(value, Mapping) and name == "opencode_config":
            kept[name] = {GIVEN_AS_VALUE: True}
    return kept


def _output_names(frame: pd.DataFrame, schema: Any) -> Sequence[str]:
    """The columns that OUTPUT will have; a schema with faults adds none."""
    usable = schema if schema is not None and not check_schema(schema) else None
    return [*map(str, frame.columns), *(column.name for column in output_columns(usable))]
