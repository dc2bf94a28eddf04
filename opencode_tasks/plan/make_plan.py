"""Make a plan: check a frame and options, and look up the models in opencode. No provider is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import pandas as pd

from opencode_tasks.domain.answer_schema import check_schema, schema_instruction
from opencode_tasks.domain.fingerprints import fingerprint
from opencode_tasks.domain.work import WorkspaceSource
from opencode_tasks.errors import InputError
from opencode_tasks.frames.validate import check_frame, fault_lines, has_no_content
from opencode_tasks.opencode.backend import DEFAULT_AGENT
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.budget_fault import budget_fault
from opencode_tasks.plan.canary_table import canary_name, canary_options, gold_in, read_canaries, renamed
from opencode_tasks.plan.examples import read_examples
from opencode_tasks.plan.gold import GoldField, gold_cells, gold_fields, value_faults
from opencode_tasks.plan.option_faults import option_faults
from opencode_tasks.plan.options import Options, make_spec
from opencode_tasks.plan.own_prices import own_prices
from opencode_tasks.plan.plan import Canaries, Plan, columns_of
from opencode_tasks.plan.planned_rows import planned_rows
from opencode_tasks.plan.resolver import ResolvedOptions
from opencode_tasks.plan.reviewed_examples import ReviewedExamples, read_reviewed_examples
from opencode_tasks.plan.row_files import ContentIndex, check_model, read_row_files
from opencode_tasks.plan.sandboxes import PROCESS_BACKEND, sandbox_of
from opencode_tasks.plan.system_text import Example, SystemText
from opencode_tasks.plan.workspaces import Workspaces, resolve_workspaces
from opencode_tasks.quality.candidates import Candidate
from opencode_tasks.quality.gold import require_extra


def make_plan(
    frame: pd.DataFrame | None,
    resolved: ResolvedOptions,
    unreadable: Mapping[int, str] | None = None,
    known_workspaces: Sequence[WorkspaceSource] = (),
    known_files: ContentIndex | None = None,
) -> Plan:
    """Check frame and options, and look up the models, agent and variants in opencode.

    A ``frame`` of None means that the input could not be read, ``unreadable`` are the faults of single rows
    that could not, by position. ``known_workspaces`` are those that an earlier start of the run has resolved,
    ``known_files`` those that another plan of the run has read. With ``bad_rows="fail"``, faults of
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
        file_columns=options.file_columns,
        added=columns_of(options),
    )
    faults = option_faults(options)
    workspaces = Workspaces()
    if options.has_workspace and not faults and not checked.faults:
        workspaces, checked = resolve_workspaces(checked, options, known_workspaces)
    files, checked = read_row_files(checked, options, faults, known_files)
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
            checked = check_model(files, checked, options, catalog, faults)
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
    rows = planned_rows(checked, options, spec, catalog, system)
    rows = replace(rows, reviewed=reviewed, workspaces=workspaces, files=files)
    if catalog and (fault := budget_fault(rows, options, catalog, prices)):
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


def _gold(
    frame: pd.DataFrame | None, options: Options, canaries: pd.DataFrame | None, faults: list[str]
) -> list[GoldField]:
    """The fields of INPUT with gold values; adds the faults of these columns and values to ``faults``."""
    if canaries is not None:
        options = replace(options, gold=_gold_of_input(options, frame, canaries))
    has_schema_faults = options.schema is not None and bool(check_schema(options.schema))
    if frame is None or has_no_content(frame) or not options.gold or has_schema_faults:
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
            sources, files = plan.rows.workspaces.used(), plan.rows.files.index
            return make_plan(frame, one, unreadable, sources, files)
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
    limits = options.escalation_limits
    limit = limits.agreement if options.confidence is None else limits.confidence
    yield "votes", str(options.votes)
    yield "escalation", f"{options.escalate_to} {limit:g} {options.confidence}"
    yield from (("model", one.fingerprint) for one in models)
