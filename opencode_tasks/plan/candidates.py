"""Candidates of a choice: the input's rows with known answers, and the plan of each model over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pandas as pd

from opencode_tasks.attachments.address import folder_of
from opencode_tasks.errors import InputError
from opencode_tasks.frames.io import read_table
from opencode_tasks.opencode.config import merge
from opencode_tasks.plan.command import Collected, text_options
from opencode_tasks.plan.gold import GoldField, gold_fields
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.option_signatures import value_faults
from opencode_tasks.plan.options import Options, read_files, with_file_texts
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.resolver import Resolver
from opencode_tasks.plan.row_files import ContentIndex
from opencode_tasks.quality.candidates import Candidate

MIN_CANDIDATES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """A checked input of a choice: its table, its gold fields, and the options of each candidate.

    ``files`` are the attached files that its plans have read.
    """

    frame: pd.DataFrame
    gold: Sequence[GoldField]
    candidates: Sequence[Candidate]
    options: Options
    resolver: Resolver
    files: ContentIndex = field(default_factory=ContentIndex)

    def rows_at(self, positions: Sequence[int]) -> pd.DataFrame:
        """The rows of the table at these positions."""
        return cast("pd.DataFrame", self.frame.iloc[list(positions)])

    def plan_of(self, candidate: Candidate, frame: pd.DataFrame, max_cost: float | None) -> Plan:
        """The plan of a candidate over a part of the table, with the most that it may cost in USD.

        Raises InputError and SetupError.
        """
        options = replace(self.options, model=candidate.model, variant=candidate.variant, max_cost=None)
        plan = make_plan(frame, self.resolver.options(options), known_files=self.files)
        # The limit may be used up: then the run is on hold, unless all its answers are in the ledger.
        return replace(plan, options=replace(plan.options, max_cost=max_cost))

    def check(self, candidate: Candidate, frame: pd.DataFrame) -> None:
        """Check a candidate over all rows, with the limit of the command. Raises as ``plan_of`` does."""
        options = replace(self.options, model=candidate.model, variant=candidate.variant)
        make_plan(frame, self.resolver.options(options), known_files=self.files)

    @property
    def task(self) -> Mapping[str, str]:
        """The task of the models, for people: a text by the name of its option."""
        options = self.options
        choices = options.choices if isinstance(options.choices, str) else None
        found = {
            "template": options.template,
            "prompt column": None if options.template is not None else options.prompt_column,
            "system": options.system,
            "system column": options.system_column,
            "files": ", ".join(options.file_columns) or None,
            "choices": choices,
            "schema": None
            if choices is not None or options.schema is None
            else json.dumps(options.schema, ensure_ascii=False, indent=2),
            "known answers": ", ".join(options.gold),
            "votes": None if options.votes is None else str(options.votes),
        }
        return {name: text for name, text in found.items() if text is not None}

    @property
    def ledger_url(self) -> str:
        """URL of the ledger."""
        return self.resolver.ledger_url(self.options.ledger)


def read_choices(
    source: str,
    models: Sequence[str],
    *,
    target: float,
    resolver: Resolver,
    base_config: Mapping[str, Any],
    **values: Any,
) -> Choices:
    """Read and check the input and the options of a choice. Raises InputError with every fault."""
    options = with_file_texts(values)
    faults = value_faults(options)
    if faults:
        raise InputError(tuple(faults))
    faults += read_files(options)
    options["opencode_config"] = merge(base_config, options["opencode_config"] or {})
    faults += _model_faults(models)
    if not 0 < target <= 1:
        faults.append(f"--target: {target:g} is not a share above 0 and up to 1")
    if not options["gold"]:
        faults.append("--gold: name the column with the known correct answers")
    frame, gold = pd.DataFrame(), list[GoldField]()
    with Collected(faults):
        frame = read_table(
            source,
            database=resolver.database_url(options.pop("database", None)),
            limit=None,
            keeps_bad_rows=False,
            **text_options({name: options.pop(name, None) for name in ("encoding", "delimiter")}),
        ).frame
        gold = gold_fields(Options(**options), [*map(str, frame.columns)])
    if faults:
        raise InputError(tuple(faults))
    return Choices(
        frame=frame,
        gold=gold,
        candidates=[Candidate.of(name) for name in models],
        options=Options(table_folder=folder_of(source), **options),
        resolver=resolver,
    )


def _model_faults(models: Sequence[str]) -> list[str]:
    faults = [f"--model: {name!r} is named twice" for name in dict.fromkeys(models) if models.count(name) > 1]
    if len(models) < MIN_CANDIDATES:
        faults.append("--model: name at least two models, each with its own --model PROVIDER/MODEL[#VARIANT]")
    return faults
