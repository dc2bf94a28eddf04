"""Start of a run: the one to continue, or a new one with its rows in the ledger."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random

import pandas as pd

from opencode_tasks.domain.money import usd_to_pico
from opencode_tasks.engine.estimates import LIKE, like_parameters
from opencode_tasks.engine.parts import ENDED
from opencode_tasks.engine.pilot import is_pilot_hold
from opencode_tasks.engine.quality import gold_values
from opencode_tasks.engine.run_check import checked_run
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import FLOW_CALL, HAS_REVIEWED_EXAMPLES, MODELS, SYSTEM_TEXT, Ledger
from opencode_tasks.plan.plan import Plan
from opencode_tasks.plan.reviewed_examples import is_reviewed
from opencode_tasks.plan.run_context import RunContext


def _new_run_id() -> str:
    """Id of a new run: its start time, and six characters that make it unique."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run to work on. ``is_approved``: a person has seen its pilot and resumed it."""

    run_id: str
    reused_rows: int = 0
    is_approved: bool = False


def start_or_continue(ledger: Ledger, plan: Plan, frame: pd.DataFrame, context: RunContext) -> StartedRun:
    """The run to work on: the one to resume, that of this flow call, one after its pilot, or a new one."""
    run_id = context.resumed_run_id or context.part_run_id
    if run_id is None and context.flow_call is not None and plan.part is None:
        run_id = ledger.runs.take(context.flow_call, plan.fingerprint)
    if run_id is None and (held := _held_pilot(ledger, plan, context)) is not None:
        max_cost = plan.options.max_cost
        ledger.budgets.set(held, None if max_cost is None else usd_to_pico(max_cost))
        return replace(_continue(ledger, plan, context, held), is_approved=False)
    if run_id is None:
        return _start(ledger, plan, frame, context)
    return _continue(ledger, plan, context, run_id)


def _held_pilot(ledger: Ledger, plan: Plan, context: RunContext) -> str | None:
    """The run that the same command began, if it is on hold after its pilot; None without one.

    A new run would draw further rows for another pilot.
    """
    if plan.options.pilot is None or plan.options.refresh or context.deployment is not None:
        return None
    return ledger.runs.held_pilot(plan.fingerprint, context.command.get("output"))


def _start(ledger: Ledger, plan: Plan, frame: pd.DataFrame, context: RunContext) -> StartedRun:
    # Two processes that begin the same part write the same run.
    run_id = _new_run_id() if plan.part is None else plan.part_id
    reused_rows = _create(ledger, run_id, plan, frame, context)
    if gate := _gate_of(plan):
        ledger.gates.half_open(gate, now=datetime.now(UTC))
    return StartedRun(run_id=run_id, reused_rows=reused_rows)


def _continue(ledger: Ledger, plan: Plan, context: RunContext, run_id: str) -> StartedRun:
    run = checked_run(run_id, ledger.runs.get(run_id))
    if run["input_fingerprint"] != plan.fingerprint:
        fault = (
            f"run {run_id}: the input or its settings have changed since the run began; "
            "run annotate again, which reuses the answers that still fit"
        )
        raise InputError((fault,))
    gate, now = _gate_of(plan), datetime.now(UTC)
    is_by_person = context.resumed_run_id is not None or run["status"] == "paused"
    if gate and is_by_person:
        # A person says that the cause is fixed: one row tests it.
        ledger.gates.half_open(gate, now=now)
    ledger.runs.resume(run_id, by_person_at=now if is_by_person else None)
    if (budget_pico := _new_budget_pico(plan, context, has_ended=run["status"] in ENDED)) is not None:
        ledger.budgets.set(run_id, budget_pico)
    if context.flow_run_id is not None:
        ledger.runs.add_flow_run(run_id, context.flow_run_id)
    # Prefect starts the flow run of a deployment again when a person resumes it; elsewhere it is a retry.
    is_resumed = context.resumed_run_id is not None or plan.options.on_wait == "sleep"
    is_after_pilot = run["status"] == "paused" and is_pilot_hold(run["pause_reason"])
    is_approved = is_resumed and is_after_pilot and ledger.rows.count_open(run_id) == 0
    return StartedRun(run_id=run_id, is_approved=is_approved)


def _new_budget_pico(plan: Plan, context: RunContext, *, has_ended: bool) -> int | None:
    """Budget that a person gave on resume, in pico-dollars; None keeps the budget of the run.

    The option of a flow run that continues is the one with which it started, so it does not count. The
    budget that a person gave a flow run is not that of its calls that have ended.
    """
    if context.resumed_run_id is not None and plan.options.max_cost is not None:
        return usd_to_pico(plan.options.max_cost)
    if plan.part is not None:
        return context.new_budget_pico
    return None if has_ended else context.take_budget()


def _gate_of(plan: Plan) -> str | None:
    """Gate of the rows of the plan; None for an empty plan."""
    return None if plan.catalog is None else plan.gate_id


def _create(ledger: Ledger, run_id: str, plan: Plan, frame: pd.DataFrame, context: RunContext) -> int:
    """Write a new run with its rows; returns the number of rows that reuse an answer already."""
    now = datetime.now(UTC)
    options = plan.options
    ledger.runs.create(
        run_id=run_id,
        parameters={
            "prompt_column": options.prompt_column,
            "template": options.template,
            "id_column": options.id_column,
            "labels": list(options.label),
            "system": options.system,
            # As it is sent, for exports of trajectories.
            SYSTEM_TEXT: plan.rows.system.common,
            HAS_REVIEWED_EXAMPLES: is_reviewed(options.examples),
            "agent": options.agent,
            "variant": options.variant,
            "schema": options.schema,
            "column_prefix": options.column_prefix,
            "escalate_to": options.escalate_to,
            MODELS: list(options.models),
            "has_workspace": options.has_workspace or None,
            LIKE: like_parameters(plan),
            "max_attempts": options.max_attempts_in_force,
            "timeout": options.timeout_in_force,
            "command": dict(context.command),
            "started_by": context.started_by,
            FLOW_CALL: None if context.flow_call is None else context.flow_call.as_json(),
        },
        model_ref=None if options.models else plan.catalog.model_ref if plan.catalog else options.model,
        backend=plan.backend,
        opencode_version=plan.catalog.version if plan.catalog else None,
        deployment=context.deployment,
        flow_run_id=context.flow_run_id,
        input_fingerprint=plan.fingerprint,
        row_count=len(plan.rows),
        refresh=options.refresh,
        series=options.series,
        votes=options.votes_per_row if options.has_parts else None,
        parent_run_id=plan.part.parent_run_id if plan.part else None,
        part=plan.part.number if plan.part else None,
        max_cost_pico=None if options.max_cost is None else usd_to_pico(options.max_cost),
        now=now,
    )
    ledger.rows.add(run_id, context.stop.checked(plan.rows))
    ids = plan.checked.rows.ids(plan.checked.row_faults)
    faults = {ids[position]: ("invalid_input", fault) for position, fault in plan.checked.row_faults.items()}
    ledger.rows.fail(run_id, faults, now=now)
    ledger.gold.add(run_id, context.stop.checked(gold_values(frame, plan)))
    reused_rows = 0
    # The parts of a run with parts draw and reuse rows themselves.
    if options.pilot is not None and not options.has_parts:
        reused_rows = ledger.rows.reuse_answers(run_id, now=now)
        keys = ledger.rows.keys_to_send(run_id)
        if options.pilot < len(keys):
            # The same rows for the same rows without an answer. No secret depends on it.
            drawn = Random(plan.fingerprint).sample(keys, options.pilot)  # noqa: S311
            ledger.rows.hold_back(run_id, drawn, rows_in_run=len(plan.rows))
    ledger.runs.ready(run_id)
    return reused_rows
