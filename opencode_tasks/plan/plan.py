"""Plan: a frame and options, checked, with the key of every row. No provider is called."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from opencode_tasks.domain.answer_schema import check_schema, schema_instruction
from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.fingerprints import KeyOf, fingerprint, number_of_run, row_keys
from opencode_tasks.domain.max_cost import Price
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.records import RowInput
from opencode_tasks.domain.work import WorkspaceSource, WorkSpec
from opencode_tasks.errors import InputError
from opencode_tasks.frames.columns import Column, output_columns
from opencode_tasks.frames.validate import Checked, PromptRow, PromptRows, check_frame, fault_lines
from opencode_tasks.opencode.backend import DEFAULT_AGENT, BackendName, OpencodeSpec
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.gate_id import gate_id
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.canary_table import canary_name, canary_options, gold_in, read_canaries, renamed
from opencode_tasks.plan.examples import read_examples
from opencode_tasks.plan.gold import GoldField, gold_cells, gold_fields, value_faults
from opencode_tasks.plan.option_faults import option_faults
from opencode_tasks.plan.option_signatures import ANNOTATE
from opencode_tasks.plan.options import Options, make_spec
from opencode_tasks.plan.own_prices import own_prices
from opencode_tasks.plan.resolver import ResolvedOptions
from opencode_tasks.plan.reviewed_examples import ReviewedExamples, read_reviewed_examples
from opencode_tasks.plan.run_spec import RunSpec, attempt_cost_limit_pico
from opencode_tasks.plan.sandboxes import PROCESS_BACKEND, sandbox_of
from opencode_tasks.plan.sizes import Sizes
from opencode_tasks.plan.system_text import Example, SystemText
from opencode_tasks.plan.workspaces import Workspaces, resolve_workspaces
from opencode_tasks.quality.candidates import Candidate
from opencode_tasks.quality.gold import require_extra
from opencode_tasks.settings import settings
from opencode_tasks.telemetry import carrier

# The options that are in the key by the prompt, by opencode's answer about them, or by name.
_IN_KEY = {
    *("prompt_column", "template", "system", "system_column", "examples", "schema", "choices", "work_dir"),
    *("model", "variant", "agent", "mcp_server", "opencode_config"),
    *("allow_tool", "deny_tool", "workspace", "workspace_ref", "workspace_template"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRows:
    """Rows of a run in input order. Each iteration renders them again, so that none is kept in memory.

    ``number`` tells the keys of several answers to one prompt apart. ``positions`` are those of the input's
    rows in a part of it, in order; None for all.
    """

    rows: PromptRows
    key_of: KeyOf
    system: SystemText
    reviewed: ReviewedExamples | None = None
    workspaces: Workspaces = field(default_factory=Workspaces)
    number: int = 0
    positions: Sequence[int] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows) if self.positions is None else len(self.positions)

    def __iter__(self) -> Iterator[RowInput]:
        """Rows with their keys. The position of a row of a part is that in the part."""
        for position, row in self._selected():
            if self.reviewed is None:
                own = self.system.of_row(row.prompt, row.system)
            else:
                own = self.reviewed.system_of(row, self.system, self.key_of)
            source = self.workspaces.of(row)
            identity = None if source is None else source.identity
            yield RowInput(
                row_id=row.row_id,
                position=position,
                row_key=self.key_of(row.prompt, own, self.number, identity),
                prompt=row.prompt,
                labels=row.labels,
                system=own,
                workspace=source,
            )

    def _selected(self) -> Iterator[tuple[int, PromptRow]]:
        if self.positions is None:
            yield from ((row.position, row) for row in self.rows)
            return
        wanted = {position: number for number, position in enumerate(self.positions)}
        for row in self.rows:
            if row.position in wanted:
                yield wanted[row.position], row


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


def work_of(options: Options, spec: OpencodeSpec) -> WorkSpec:
    """Commands in the workspaces of a run and what is kept of them, from its options and the settings."""
    artifacts = options.artifacts
    if artifacts is not None and "://" not in artifacts:
        artifacts = str(Path(artifacts).absolute())
    return WorkSpec(
        setup_command=options.setup_command,
        check_command=options.check_command,
        command_limit_s=spec.clocks.tool_s,
        sandbox=spec.sandbox,
        require_check=options.require_check,
        check_retries=options.check_retries,
        artifact_globs=tuple(options.artifact),
        keep=options.keep_workspaces,
        artifacts=artifacts,
        max_diff_bytes=settings().max_diff_bytes,
        host=socket.gethostname(),
    )


def limits_of(options: Options) -> RetryLimits:
    """Retry limits of a run, from its options and the settings."""
    return RetryLimits(
        max_attempts=options.max_attempts,
        max_inline_wait_s=settings().max_inline_wait,
        max_rate_limit_wait_s=settings().max_rate_limit_wait,
        breaker_failures=settings().breaker_failures,
        outage_s=settings().outage,
        max_outage_wait_s=settings().max_outage_wait,
    )


def make_plan(
    frame: pd.DataFrame | None,
    resolved: ResolvedOptions,
    unreadable: Mapping[int, str] | None = None,
    known_workspaces: Sequence[WorkspaceSource] = (),
) -> Plan:
    """Check frame and options, and look up the models, agent and variants in opencode.

    A ``frame`` of None means that the input could not be read, ``unreadable`` are the faults of single rows
    that could not, by position. ``known_workspaces`` are those that an earlier start of the run has resolved.
    With ``bad_rows="fail"``, faults of
    single rows are left in the plan. Raises InputError with every fault, and SetupError if opencode
    cannot be found or started.
    """
    options = resolved.options
    if options.models:
        # The variant of a block is that of its own model.
        options = replace(options, variant=Candidate.of(options.models[0]).variant)
    checked = check_frame(
        pd.DataFrame() if frame is None else frame,
        prompt_column=options.prompt_column,
        template=options.template,
        id_column=options.id_column,
        labels=options.label,
        unreadable=unreadable,
        system_column=options.system_column,
        workspace_column=options.workspace,
        ref_column=options.workspace_ref,
        added=columns_of(options),
    )
    faults = option_faults(options)
    workspaces = Workspaces()
    if options.has_workspace and not faults and not checked.faults:
        workspaces, checked = resolve_workspaces(checked, options, known_workspaces)
    faults += fault_lines(checked) if options.bad_rows == "stop" else checked.faults
    prices, price_faults = own_prices()
    faults += price_faults
    examples: list[Example] = []
    reviewed: ReviewedExamples | None = None
    try:
        examples = read_examples(options, None if frame is None else [*map(str, frame.columns)])
        reviewed = read_reviewed_examples(options, checked.rows)
    except InputError as error:
        faults += error.faults
    canary_frame = _canary_frame(options, faults)
    gold = _gold(frame, options, canary_frame, faults)
    spec, catalog = None, None
    try:
        spec = make_spec(options, resolved.secrets)
        if frame is None or len(frame):
            # An unknown backend is a fault already; the other faults are found with a server.
            backend = options.backend if options.backend in BACKENDS else None
            backend = backend or (PROCESS_BACKEND if options.has_workspace else "server")
            catalog = server_pool.call(server_pool.catalog, spec, options.variant, backend)
            spec = replace(spec, sandbox=sandbox_of(options, spec, catalog))
    except InputError as error:
        faults += error.faults
    canaries = _canaries(resolved, canary_frame, faults)
    if faults:
        raise InputError(tuple(faults))
    assert spec is not None
    needs_process = options.has_workspace or spec.sandbox is not None
    options = replace(options, backend=options.backend or (PROCESS_BACKEND if needs_process else "server"))
    base = spec.system if spec.agent == DEFAULT_AGENT else options.system
    instruction = None if options.schema is None else schema_instruction(options.schema)
    system = SystemText(base=base, examples=examples, instruction=instruction)
    rows = _rows(checked, options, spec, catalog, system)
    rows = replace(rows, reviewed=reviewed, workspaces=workspaces)
    if catalog and (fault := _budget_fault(rows, options, catalog, prices)):
        raise InputError((fault,))
    plan = Plan(
        options=options,
        checked=checked,
        spec=spec,
        catalog=catalog,
        rows=rows,
        fingerprint=fingerprint((row.row_id, row.row_key) for row in rows),
        prices=prices,
        gold=gold,
        ledger_name=resolved.ledger_name,
        secrets_block=resolved.secrets_block,
        canaries=canaries,
    )
    return _with_parts(plan, frame, resolved, unreadable) if options.has_parts else plan


def columns_of(options: Options) -> tuple[Column, ...]:
    """Columns that OUTPUT adds to INPUT; a schema with faults adds none."""
    return output_columns(
        None if check_schema(options.schema) else options.schema,
        options.column_prefix,
        has_votes=options.has_votes,
        has_escalation=options.escalate_to is not None,
        models=options.models,
        has_workspace=options.has_workspace,
    )


def _gold(
    frame: pd.DataFrame | None, options: Options, canaries: pd.DataFrame | None, faults: list[str]
) -> list[GoldField]:
    """The fields of INPUT with gold values; adds the faults of these columns and values to ``faults``."""
    if canaries is not None:
        options = replace(options, gold=_gold_of_input(options, frame, canaries))
    has_schema_faults = options.schema is not None and bool(check_schema(options.schema))
    if frame is None or not options.gold or has_schema_faults:
        return []
    require_extra("--gold")
    try:
        gold = gold_fields(options, [*map(str, frame.columns)])
    except InputError as error:
        faults += error.faults
        return []
    faults += value_faults(frame, gold)
    return gold


def _canary_frame(options: Options, faults: list[str]) -> pd.DataFrame | None:
    """The table of the canaries; None without one, or if it has faults, which are added to ``faults``."""
    if options.canary is None:
        return None
    require_extra("--canary")
    try:
        return read_canaries(options)
    except InputError as error:
        faults += error.faults
        return None


def _canaries(resolved: ResolvedOptions, frame: pd.DataFrame | None, faults: list[str]) -> Canaries | None:
    """The canaries of a run; None without them, or if they have faults that the run has not.

    Those are added to ``faults``.
    """
    if frame is None:
        return None
    options = resolved.options
    own = canary_options(options, [*map(str, frame.columns)])
    try:
        plan = make_plan(frame, replace(resolved, options=own))
    except InputError as error:
        faults += [renamed(fault, options) for fault in error.faults if fault not in faults]
        return None
    rows = [(str(row.position), row.row_key) for row in plan.rows]
    if len({key for _, key in rows}) < len(rows):
        faults.append(f"{canary_name(options)}: two rows have the same prompt; remove one of them")
    cells = [(f"{at} {field}", str(value)) for at, field, value in gold_cells(frame, plan.gold)]
    return Canaries(plan=plan, frame=frame, series=fingerprint([*rows, *cells]))


def _gold_of_input(options: Options, frame: pd.DataFrame | None, canaries: pd.DataFrame) -> Sequence[str]:
    """The values of ``--gold`` for INPUT: a column that only the canaries have is theirs alone."""
    columns = [] if frame is None else [*map(str, frame.columns)]
    in_canaries = gold_in(options.gold, [*map(str, canaries.columns)])
    return [text for text in options.gold if text in gold_in([text], columns) or text not in in_canaries]


def _with_parts(
    plan: Plan,
    frame: pd.DataFrame | None,
    resolved: ResolvedOptions,
    unreadable: Mapping[int, str] | None,
) -> Plan:
    """The plan with those of its models and of the stronger one. Raises InputError with all their faults."""
    options, faults = plan.options, list[str]()
    alone = _alone(options, Candidate(model=options.model or "", variant=options.variant))
    models = [replace(plan, options=alone, gold=())] if options.models else []
    stronger: Plan | None = None

    def planned(name: str, option: str) -> Plan | None:
        try:
            one = replace(resolved, options=_alone(options, Candidate.of(name)))
            return make_plan(frame, one, unreadable, plan.rows.workspaces.used())
        except InputError as error:
            faults.extend(fault.replace("--model:", f"{option}:") for fault in error.faults)
            return None

    others = [planned(name, "--model") for name in options.models[1:]]
    models += [one for one in others if one is not None]
    if options.escalate_to is not None:
        stronger = planned(options.escalate_to, "--escalate-to")
    if faults:
        raise InputError(tuple(dict.fromkeys(faults)))
    identities = chain(((row.row_id, row.row_key) for row in plan.rows), _part_identities(options, models))
    return replace(plan, models=models, stronger=stronger, fingerprint=fingerprint(identities))


def _alone(options: Options, candidate: Candidate) -> Options:
    """The options of a run with one model alone."""
    return replace(
        options,
        model=candidate.model,
        variant=candidate.variant,
        models=(),
        votes=None,
        escalate_to=None,
        escalate_below=None,
        confidence=None,
        gold=(),
        canary=None,
    )


def _part_identities(options: Options, models: Sequence[Plan]) -> Iterator[tuple[str, str]]:
    """Mark of an input beside its rows: the answers that are wanted of each."""
    yield "votes", str(options.votes)
    yield "escalation", f"{options.escalate_to} {options.escalation_limit:g} {options.confidence}"
    yield from (("model", one.fingerprint) for one in models)


def price_in(catalog: Catalog, prices: PriceBook) -> Price | None:
    """Price of the model in opencode, else in the user's price file; None if it is in neither."""
    return catalog.price or prices.price_of(
        catalog.model_ref, catalog.max_output_tokens, catalog.max_input_tokens
    )


def _budget_fault(rows: PlannedRows, options: Options, catalog: Catalog, prices: PriceBook) -> str | None:
    """Reason why the cost limits do not allow any row to be sent; None if they do."""
    if options.max_cost is None and options.max_row_cost is None:
        return None
    name = "--max-cost" if options.max_row_cost is None else "--max-row-cost"
    price = price_in(catalog, prices)
    provider, model = catalog.model_ref.split("/", 1)
    if price is None:
        entry = f'"provider": {{"{provider}": {{"models": {{"{model}": {{"cost": …}}}}}}}}'
        return (
            f"{name}: no price is known for {catalog.model_ref}, so the cost limit cannot be enforced; "
            f"add the price to the opencode config, in USD per million tokens: {entry}"
        )
    if options.max_cost is None or not rows:
        return None
    calls = 1 if options.schema is None else 1 + options.max_repairs
    smallest_pico = min(
        attempt_cost_limit_pico(price, row.prompt, row.system or rows.system.common, calls=calls)
        for row in rows
    )
    if smallest_pico <= usd_to_pico(options.max_cost):
        return None
    return (
        f"--max-cost: {options.max_cost:g} is too small for any row of {catalog.model_ref}: each may cost "
        f"up to {format_usd(smallest_pico)} or more, with {price.max_output_tokens:,} output tokens; "
        f"raise it, or lower the model's limit.output in the opencode config"
    )


def _no_key(prompt: str, own: str | None = None, number: int = 0, workspace: str | None = None) -> str:
    """The key of a row of an empty input, which has none."""
    del own, number, workspace
    return prompt


def _rows(
    checked: Checked, options: Options, spec: OpencodeSpec, catalog: Catalog | None, system: SystemText
) -> PlannedRows:
    if catalog is None:
        return PlannedRows(rows=Checked().rows, key_of=_no_key, system=system)
    key_of = row_keys(
        system=system.common or "",
        model_ref=catalog.model_ref,
        agent=spec.agent,
        agent_config=catalog.agent_config,
        tools=[*spec.tools, *spec.mcp_servers],
        schema=options.schema,
        variant=options.variant,
        settings={
            **catalog.settings,
            "work_dir": os.fspath(options.work_dir) if options.work_dir else None,
            **_tool_settings(spec),
            **_other_deciding_options(options),
        },
    )
    return PlannedRows(rows=checked.rows, key_of=key_of, system=system)


def _tool_settings(spec: OpencodeSpec) -> dict[str, Any]:
    """The tools that options name; absent without any, so that stored answers keep their keys."""
    named = {"allow_tool": spec.allowed_tools, "deny_tool": spec.denied_tools}
    return {name: tools for name, tools in named.items() if tools}


def _other_deciding_options(options: Options) -> dict[str, Any]:
    """The options that decide the answer and are not in the key otherwise.

    One with its default is absent, so that a new option does not change the keys of stored answers.
    """
    values = {
        name: getattr(options, name)
        for name, option in ANNOTATE.items()
        if option.info.decides_answer and name not in _IN_KEY
    }
    return {name: value for name, value in values.items() if not ANNOTATE[name].is_default(value)}
