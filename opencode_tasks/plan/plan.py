"""From a frame and options to a job and its rows, every fault found before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pandas as pd

from opencode_tasks.domain.answer_schema import check_schema
from opencode_tasks.domain.fingerprints import fingerprint, row_keys
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.price_book import PriceBook
from opencode_tasks.domain.prices import Price
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.records import RowInput
from opencode_tasks.engine.reservations import most_it_can_cost
from opencode_tasks.errors import InputError
from opencode_tasks.frames.validate import Checked, PromptRows, check_frame, fault_lines
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    BackendName,
    OpencodeSpec,
    Secrets,
)
from opencode_tasks.opencode.backends import BACKENDS
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.gate_id import gate_id
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.orchestration.block_options import with_blocks
from opencode_tasks.plan.options import BadRows, OnBudget, Options, make_spec
from opencode_tasks.plan.own_prices import own_prices
from opencode_tasks.plan.run_spec import RunSpec, system_text
from opencode_tasks.settings import settings
from opencode_tasks.telemetry import carrier

# More than a signed 64-bit number of pico-dollars can hold.
MAX_USD = 9_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRows:
    """The rows of a run in input order, each made when it is come to, again and again."""

    rows: PromptRows
    key_of: Callable[[str], str]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[RowInput]:
        """The rows with their keys."""
        for row in self.rows:
            yield RowInput(
                row_id=row.row_id,
                position=row.position,
                row_key=self.key_of(row.prompt),
                prompt=row.prompt,
                labels=row.labels,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked input and what its rows will be sent with. ``catalog`` is None for an empty input."""

    options: Options
    checked: Checked
    spec: OpencodeSpec
    catalog: Catalog | None
    rows: PlannedRows
    fingerprint: str
    prices: PriceBook
    secrets_block: str | None = None

    @property
    def model_ref(self) -> str:
        """The resolved model; empty for an empty input without one."""
        return self.catalog.model_ref if self.catalog else self.options.model or ""

    @property
    def ledger_url(self) -> str:
        """The ledger that the run is kept in."""
        assert self.options.ledger is not None
        return self.options.ledger

    def run_spec(
        self, run_id: str, ledger_url: str, concurrency: int, *, start: int, has_budget: bool
    ) -> RunSpec:
        """The job of a run of this plan; ``concurrency`` is that of one batch, ``start`` of the gate."""
        assert self.catalog is not None
        options = self.options
        return RunSpec(
            run_id=run_id,
            ledger_url=ledger_url,
            spec=replace(self.spec, secrets=Secrets()),
            secrets_block=self.secrets_block,
            backend=options.backend,
            model_ref=self.catalog.model_ref,
            unpriced=self.catalog.unpriced,
            system=options.system,
            variant=options.variant,
            schema=options.schema,
            limits=limits_of(options),
            gate_id=gate_id(self.catalog.model_ref, self.spec, os.environ),
            concurrency=concurrency,
            start=start,
            rate_limits=RateLimits(
                requests_per_minute=options.requests_per_minute, tokens_per_minute=options.tokens_per_minute
            ),
            price=price_in(self.catalog, self.prices),
            prices=self.prices,
            trace=carrier(),
            has_budget=has_budget,
            max_row_cost_pico=None if options.max_row_cost is None else usd_to_pico(options.max_row_cost),
            drain_s=settings().drain,
            log_dir=Path(options.log_dir) if options.log_dir else None,
            lease_s=settings().lease,
        )


def limits_of(options: Options) -> RetryLimits:
    """The limits of a run: its options, and the settings for what they do not tell."""
    return RetryLimits(
        max_attempts=options.max_attempts,
        max_inline_wait_s=settings().max_inline_wait,
        max_rate_limit_wait_s=settings().max_rate_limit_wait,
        breaker_failures=settings().breaker_failures,
    )


def make_plan(frame: pd.DataFrame | None, options: Options) -> Plan:
    """Check frame and options and ask opencode for model, agent and variant.

    Raises InputError with every fault found (with ``bad_rows="fail"``, faults of single rows are
    left to the plan; a ``frame`` of None, one that could not be read, has none), SetupError where
    opencode cannot be found or started. No provider is called.
    """
    options, secrets, secrets_block = with_blocks(options)
    checked = check_frame(
        pd.DataFrame() if frame is None else frame,
        prompt_column=options.prompt_column,
        template=options.template,
        id_column=options.id_column,
        labels=options.label,
        schema=options.schema if not check_schema(options.schema) else None,
    )
    faults = option_faults(options)
    faults += fault_lines(checked) if options.bad_rows == "stop" else checked.faults
    prices, price_faults = own_prices()
    faults += price_faults
    spec, catalog = None, None
    try:
        spec = make_spec(options, secrets)
        if frame is None or len(frame):
            # An unknown backend is a fault already; the other faults are found with a server.
            backend = options.backend if options.backend in BACKENDS else "server"
            catalog = server_pool.call(server_pool.catalog, spec, options.variant, backend)
    except InputError as error:
        faults += error.faults
    if faults:
        raise InputError(tuple(faults))
    assert spec is not None
    rows = _rows(checked, options, spec, catalog)
    if catalog and (fault := _budget_fault(rows, options, spec, catalog, prices)):
        raise InputError((fault,))
    return Plan(
        options=options,
        checked=checked,
        spec=spec,
        catalog=catalog,
        rows=rows,
        fingerprint=fingerprint((row.row_id, row.row_key) for row in rows),
        prices=prices,
        secrets_block=secrets_block,
    )


def price_in(catalog: Catalog, prices: PriceBook) -> Price | None:
    """The model's price as opencode states it, else the user's own; None where nobody does."""
    return catalog.price or prices.price_of(catalog.model_ref, catalog.most_output_tokens)


def _budget_fault(
    rows: PlannedRows, options: Options, spec: OpencodeSpec, catalog: Catalog, prices: PriceBook
) -> str | None:
    """Why no row could ever be sent under the caps on cost; None where one can."""
    if options.max_cost is None and options.max_row_cost is None:
        return None
    # A session's cost is watched by what opencode reports, so a row needs its price there.
    name = "--max-cost" if options.max_row_cost is None else "--max-row-cost"
    price = price_in(catalog, prices) if options.max_row_cost is None else catalog.price
    provider, model = catalog.model_ref.split("/", 1)
    if price is None:
        where = f'"provider": {{"{provider}": {{"models": {{"{model}": {{"cost": …}}}}}}}}'
        return (
            f"{name}: nobody states the price of {catalog.model_ref}, so its cost cannot be held; "
            f"state it in the opencode config, in USD per million tokens: {where}"
        )
    if options.max_cost is None or not rows:
        return None
    least = min(
        most_it_can_cost(price, row.prompt, spec=spec, system=options.system, schema=options.schema)
        for row in rows
    )
    if least <= usd_to_pico(options.max_cost):
        return None
    return (
        f"--max-cost: {options.max_cost:g} is too little for any row: each may cost up to "
        f"{format_usd(least)} or more, with {price.most_output_tokens:,} output tokens; raise it, or "
        f"lower the model's limit.output in the opencode config"
    )


def option_faults(options: Options) -> list[str]:
    """The faults of options by themselves, one line each."""
    faults = check_schema(options.schema) if options.schema is not None else []
    counts = {
        "batch-size": options.batch_size,
        "concurrency": options.concurrency,
        "requests-per-minute": options.requests_per_minute,
        "tokens-per-minute": options.tokens_per_minute,
        "max-attempts": options.max_attempts,
    }
    for name, value in counts.items():
        if value is not None and value < 1:
            faults.append(f"--{name}: {value} is not at least 1")
    if not options.timeout > 0:
        faults.append(f"--timeout: {options.timeout:g} is not above 0")
    for name, cost in (("max-cost", options.max_cost), ("max-row-cost", options.max_row_cost)):
        if cost is not None and not (0 < cost < MAX_USD):
            faults.append(f"--{name}: {cost:g} is not an amount of USD above 0")
    if options.work_dir is not None and not Path(options.work_dir).is_dir():
        faults.append(f"--work-dir: there is no folder {options.work_dir}")
    if options.log_dir is not None and not Path(options.log_dir).is_dir():
        faults.append(f"--log-dir: there is no folder {options.log_dir}")
    return faults + _choice_faults(options)


def _choice_faults(options: Options) -> list[str]:
    """The faults of options that have only some values."""
    choices = {
        "backend": (options.backend, get_args(BackendName)),
        "bad-rows": (options.bad_rows, get_args(BadRows)),
        "on-budget": (options.on_budget, get_args(OnBudget)),
    }
    faults = [
        f"--{name}: {chosen!r} is none of {', '.join(known)}"
        for name, (chosen, known) in choices.items()
        if chosen not in known
    ]
    kind = BACKENDS.get(options.backend)
    if kind is not None and kind.catalog is not None and options.model is not None:
        faults.append(f"--model: the {options.backend} backend uses no model; remove the option")
    return faults


def _rows(checked: Checked, options: Options, spec: OpencodeSpec, catalog: Catalog | None) -> PlannedRows:
    if catalog is None:
        return PlannedRows(rows=Checked().rows, key_of=str)
    agent_config = dict(catalog.agent_config)
    if spec.agent == DEFAULT_AGENT:
        agent_config.pop("prompt", None)
    key_of = row_keys(
        system=system_text(spec, options.system, options.schema) or "",
        model_ref=catalog.model_ref,
        agent=spec.agent,
        agent_config=agent_config,
        tools=[*spec.tools, *spec.mcp_servers],
        schema=options.schema,
        variant=options.variant,
        settings={
            **catalog.settings,
            "work_dir": os.fspath(options.work_dir) if options.work_dir else None,
        },
    )
    return PlannedRows(rows=checked.rows, key_of=key_of)
