"""Plan: a checked input, and how its rows are sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from opencode_tasks.domain.answer_schema import check_schema
from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.fingerprints import fingerprint, number_of_run
from opencode_tasks.domain.max_cost import Price
from opencode_tasks.domain.money import usd_to_pico
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.work import WorkSpec, absolute_address
from opencode_tasks.frames.columns import Column, output_columns
from opencode_tasks.frames.validate import Checked
from opencode_tasks.opencode.backend import BackendName, OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.gate_id import gate_id
from opencode_tasks.plan.gold import GoldField
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.planned_rows import PlannedRows
from opencode_tasks.plan.run_spec import RunSpec
from opencode_tasks.plan.sizes import Sizes
from opencode_tasks.settings import settings
from opencode_tasks.telemetry import carrier


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPart:
    """The part of a run that a plan is for: the run, the number of the part from 1, and its title."""

    parent_run_id: str
    number: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked input, and how its rows are sent. ``catalog`` is None for an empty input.

    ``models`` has the plan of each of several models, which is that of a run with this model alone. The rows
    of the whole plan have the keys of the first one. ``ledger_name`` is what the option of the ledger named,
    None for the one of the settings.
    """

    options: Options
    checked: Checked
    spec: OpencodeSpec
    catalog: Catalog | None
    rows: PlannedRows
    fingerprint: str
    prices: PriceBook
    gold: Sequence[GoldField] = ()
    ledger_name: str | None = None
    secrets_block: str | None = None
    part: PlanPart | None = None
    models: Sequence[Plan] = ()
    stronger: Plan | None = None
    canaries: Canaries | None = None

    @property
    def model_ref(self) -> str:
        """Resolved model; empty for an empty input without a model."""
        return self.catalog.model_ref if self.catalog else self.options.model or ""

    @property
    def part_id(self) -> str:
        """Id of the run of the part that the plan is for."""
        assert self.part is not None
        return f"{self.part.parent_run_id}-{self.part.number}-{self.fingerprint[:6]}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns that OUTPUT adds to INPUT."""
        return columns_of(self.options)

    def of_part(
        self, part: PlanPart, positions: Sequence[int], *, number: int, max_cost: float | None
    ) -> Plan:
        """The plan for a part of the run: the rows at these positions, with the keys of answer ``number``."""
        rows = replace(self.rows, number=number, positions=positions)
        return replace(
            self,
            options=replace(
                self.options,
                votes=None,
                models=(),
                escalate_to=None,
                gold=(),
                series=None,
                max_cost=max_cost,
                pilot=None,
            ),
            canaries=None,
            checked=Checked(),
            rows=rows,
            fingerprint=fingerprint((row.row_id, row.row_key) for row in rows),
            gold=(),
            part=part,
            models=(),
        )

    def of_canaries(self, part: PlanPart, *, max_cost: float | None) -> Plan:
        """The plan of canaries for a run: no other run has the keys of its rows, so that none is reused."""
        rows = replace(self.rows, number=number_of_run(part.parent_run_id))
        return replace(
            self,
            options=replace(self.options, max_cost=max_cost),
            rows=rows,
            fingerprint=fingerprint((row.row_id, row.row_key) for row in rows),
            part=part,
        )

    @property
    def backend(self) -> BackendName:
        """The way in which opencode runs for the rows."""
        assert self.options.backend is not None
        return self.options.backend

    @property
    def ledger_url(self) -> str:
        """URL of the ledger of the run."""
        assert self.options.ledger is not None
        return self.options.ledger

    @property
    def gate_id(self) -> str:
        """Gate of the rows, for the credential that they use now. Not for an empty input."""
        assert self.catalog is not None
        return gate_id(self.catalog.model_ref, self.spec, os.environ, self.catalog.key_variables)

    def run_spec(
        self, run_id: str, driver_id: str, ledger_url: str, sizes: Sizes, *, has_budget: bool
    ) -> RunSpec:
        """The RunSpec for the batches of a driver of a run of this plan."""
        assert self.catalog is not None
        options = self.options
        return RunSpec(
            run_id=run_id,
            driver_id=driver_id,
            ledger_url=ledger_url,
            spec=self.spec,
            secrets_block=self.secrets_block,
            backend=self.backend,
            model_ref=self.catalog.model_ref,
            unpriced=self.catalog.unpriced,
            system=self.rows.system.common,
            variant=options.variant,
            answer_format=options.answer_format,
            limits=limits_of(options),
            gate_id=self.gate_id,
            concurrency=sizes.concurrency_per_batch,
            servers=sizes.servers,
            start=sizes.start,
            rate_limits=RateLimits(
                requests_per_minute=options.requests_per_minute, tokens_per_minute=options.tokens_per_minute
            ),
            price=price_in(self.catalog, self.prices),
            prices=replace(self.prices, configured=self.catalog.prices),
            trace=carrier(),
            has_budget=has_budget,
            max_row_cost_pico=None if options.max_row_cost is None else usd_to_pico(options.max_row_cost),
            drain_s=settings().drain,
            log_dir=Path(options.log_dir) if options.log_dir else None,
            lease_s=settings().lease,
            work=work_of(options, self.spec) if options.has_workspace else None,
            decided_by=self.catalog.decided_by,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Canaries:
    """The canaries of a run: their plan and their table.

    ``series`` is equal for the runs whose canaries can be compared: those with the same prompts, gold values,
    model and settings.
    """

    plan: Plan
    frame: pd.DataFrame
    series: str


def columns_of(options: Options) -> tuple[Column, ...]:
    """Columns that OUTPUT adds to INPUT; a schema with faults adds none."""
    return output_columns(
        None if check_schema(options.schema) else options.schema,
        options.column_prefix,
        has_votes=options.has_votes,
        has_escalation=options.escalate_to is not None,
        # A model that is named twice is a fault of its own.
        models=tuple(dict.fromkeys(options.models)),
        has_workspace=options.has_workspace,
    )


def work_of(options: Options, spec: OpencodeSpec) -> WorkSpec:
    """Commands in the workspaces of a run and what is kept of them, from its options and the settings."""
    return WorkSpec(
        setup_command=options.setup_command,
        check_command=options.check_command,
        command_limit_s=spec.clocks.tool_s,
        sandbox=spec.sandbox,
        require_check=options.require_check,
        check_retries=options.check_retries,
        artifact_globs=tuple(options.artifact),
        keep=options.keep_workspaces,
        artifacts=absolute_address(options.artifacts),
        max_diff_bytes=settings().max_diff_bytes,
        host=socket.gethostname(),
    )


def limits_of(options: Options) -> RetryLimits:
    """Retry limits of a run, from its options and the settings."""
    return RetryLimits(
        max_attempts=options.max_attempts_in_force,
        max_inline_wait_s=settings().max_inline_wait,
        max_rate_limit_wait_s=settings().max_rate_limit_wait,
        breaker_failures=settings().breaker_failures,
        outage_s=settings().outage,
        max_outage_wait_s=settings().max_outage_wait,
    )


def price_in(catalog: Catalog, prices: PriceBook) -> Price | None:
    """Price of the model in opencode, else in the user's price file; None if it is in neither."""
    return catalog.price or prices.price_of(
        catalog.model_ref, catalog.max_output_tokens, catalog.max_input_tokens
    )
