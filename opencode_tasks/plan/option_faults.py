"""Faults of the options of a run alone, before the input and opencode are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from opencode_tasks.domain.answer_schema import check_schema
from opencode_tasks.domain.answer_shape import shape_of
from opencode_tasks.domain.sandbox import Network, SandboxKind
from opencode_tasks.domain.text import none_of
from opencode_tasks.domain.work import KeepWorkspaces
from opencode_tasks.opencode.backend import DEFAULT_AGENT
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.tool_names import permission_of
from opencode_tasks.plan.option_signatures import ANNOTATE
from opencode_tasks.plan.options import BadRows, OnBudget, Options
from opencode_tasks.plan.reviewed_examples import is_reviewed
from opencode_tasks.plan.sandboxes import PROCESS_BACKEND, sandbox_faults
from opencode_tasks.settings import MAX_SECONDS

# More than a signed 64-bit number of pico-dollars can hold.
MAX_USD = 9_000_000
MIN_VOTES = 2
MAX_VOTES = 99


def option_faults(options: Options) -> list[str]:
    """Faults of the options alone, one line each."""
    faults = check_schema(options.schema) if options.schema is not None else []
    counts = {
        "batch-size": options.batch_size,
        "concurrency": options.concurrency,
        "requests-per-minute": options.requests_per_minute,
        "tokens-per-minute": options.tokens_per_minute,
        "max-attempts": options.max_attempts,
        "pilot": options.pilot,
    }
    for name, value in counts.items():
        if value is not None and value < 1:
            faults.append(f"--{name}: {value} is not at least 1")
    faults += _vote_faults(options)
    if options.canary is not None and options.models:
        faults.append("--canary: measures one model; run it with a single --model")
    if options.canary is not None and is_reviewed(options.examples):
        faults.append(
            "--canary: not with --examples reviewed, whose examples change from run to run; canaries need "
            "the same prompts in all runs"
        )
    if options.max_repairs < 0:
        faults.append(f"--max-repairs: {options.max_repairs} is below 0")
    faults += _clock_faults(options)
    for name, cost in (("max-cost", options.max_cost), ("max-row-cost", options.max_row_cost)):
        if cost is not None and not 0 < cost < MAX_USD:
            faults.append(f"--{name}: {cost:g} is not an amount of USD above 0 and below {MAX_USD:,}")
    if options.work_dir is not None and not Path(options.work_dir).is_dir():
        faults.append(f"--work-dir: there is no folder {options.work_dir}")
    if options.log_dir is not None and not Path(options.log_dir).is_dir():
        faults.append(f"--log-dir: there is no folder {options.log_dir}")
    faults += _tool_faults(options) + _workspace_faults(options) + sandbox_faults(options)
    return faults + _choice_faults(options)


def _workspace_faults(options: Options) -> list[str]:
    """Faults of the options of workspaces alone."""
    if not options.has_workspace:
        return [
            f"{option.flag}: there are no workspaces without --workspace COLUMN"
            for name, option in ANNOTATE.items()
            if option.info.group == "Workspace" and not option.is_default(getattr(options, name))
        ]
    faults = _check_faults(options)
    if options.workspace is not None and options.workspace_template is not None:
        faults.append("--workspace and --workspace-template: each names the files of a row; give one of them")
    if options.workspace_template is not None and options.workspace_ref is not None:
        faults.append("--workspace-ref: write the ref of --workspace-template after an @")
    if options.work_dir is not None:
        faults.append("--work-dir: the agent works in the workspace of its row; remove one of the options")
    if options.backend not in (None, PROCESS_BACKEND):
        faults.append(
            f"--workspace: the backend {options.backend} makes no workspaces; leave --backend out, which "
            f"chooses {PROCESS_BACKEND}"
        )
    if options.agent in (None, DEFAULT_AGENT) and not options.allow_tool and not options.mcp_server:
        faults.append(
            "--workspace: the agent has no tool that reads or changes files; give it some, for example with "
            "--allow-tool read --allow-tool edit, or name an agent with tools by --agent"
        )
    return faults


def _tool_faults(options: Options) -> list[str]:
    """Faults of the tools that options name, as far as opencode need not be asked."""
    faults = [
        f"--{name}: the name of a tool is empty"
        for name, tools in (("allow-tool", options.allow_tool), ("deny-tool", options.deny_tool))
        if not all(tool.strip() for tool in tools)
    ]
    denied = {permission_of(tool) for tool in options.deny_tool}
    if both := [tool for tool in options.allow_tool if permission_of(tool) in denied]:
        faults.append(f"--allow-tool and --deny-tool: both name {both[0]}; remove one of them")
    if options.allow_tool and options.agent not in (None, DEFAULT_AGENT):
        faults.append(
            f"--allow-tool: the agent {options.agent!r} has the tools of its entry in the config; name them "
            "there"
        )
    return faults


def _check_faults(options: Options) -> list[str]:
    """Faults of the check command, and of the patterns of files."""
    faults = [
        f"--artifact: {pattern!r} is not a pattern of files in the workspace, such as dist/*.whl"
        for pattern in options.artifact
        if not pattern.strip() or pattern.startswith("/") or ".." in Path(pattern).parts
    ]
    for name in ("setup-command", "check-command"):
        command = getattr(options, name.replace("-", "_"))
        if command is not None and not command.strip():
            faults.append(f"--{name}: the command is empty")
    if options.check_retries < 0:
        faults.append(f"--check-retries: {options.check_retries} is below 0")
    if options.check_command is None:
        given = {"require-check": options.require_check, "check-retries": options.check_retries}
        faults += [f"--{name}: nothing is checked without --check-command" for name in given if given[name]]
    return faults


def _vote_faults(options: Options) -> list[str]:
    """Faults of the number of votes, and of the escalation to a stronger model."""
    faults: list[str] = []
    if options.votes is not None and not MIN_VOTES <= options.votes <= MAX_VOTES:
        faults.append(f"--votes: {options.votes} is not a number from {MIN_VOTES} to {MAX_VOTES}")
    if options.escalate_below is not None and not 0 < options.escalate_below <= 1:
        faults.append(f"--escalate-below: {options.escalate_below:g} is not a share above 0 and up to 1")
    if options.escalate_to is None:
        faults += [
            f"--{name}: nothing is escalated without --escalate-to PROVIDER/MODEL"
            for name, value in (
                ("escalate-below", options.escalate_below),
                ("confidence", options.confidence),
            )
            if value is not None
        ]
    elif not options.models and options.votes is None and options.confidence is None:
        faults.append("--escalate-to: say which rows: give --votes N, several models, or --confidence FIELD")
    return faults + _confidence_faults(options)


def _confidence_faults(options: Options) -> list[str]:
    if options.confidence is None or (options.schema is not None and check_schema(options.schema)):
        return []
    fields = shape_of(options.schema or {}).fields
    if options.confidence not in fields:
        listed = ", ".join(fields) or "no fields"
        return [f"--confidence: the answer has no field {options.confidence!r}; it has {listed}"]
    types = fields[options.confidence]
    if types is not None and not types & {"number", "integer"}:
        found = f"{options.confidence!r} is no number ({', '.join(sorted(types))})"
        return [f"--confidence: the field {found}; name one in which the model states a number from 0 to 1"]
    return []


def _clock_faults(options: Options) -> list[str]:
    """Faults of the time limits of an attempt."""
    parts = {
        "first-event-timeout": options.first_event_timeout,
        "stall-timeout": options.stall_timeout,
        "tool-timeout": options.tool_timeout,
    }
    limits = {"timeout": options.timeout_in_force} | {
        n: value for n, value in parts.items() if value is not None
    }
    faults = [
        f"--{name}: {value:g} is not a number of seconds above 0 and up to {MAX_SECONDS:,.0f}"
        for name, value in limits.items()
        if not 0 < value <= MAX_SECONDS
    ]
    if faults:
        return faults
    return [
        f"--{name}: {value:g} is longer than the whole attempt; set --timeout to at least {value:g}"
        for name, value in limits.items()
        if value > options.timeout_in_force
    ]


def _choice_faults(options: Options) -> list[str]:
    """Faults of options with a closed list of values."""
    choices = {
        "backend": (options.backend, tuple(BACKENDS)),
        "sandbox": (options.sandbox, get_args(SandboxKind)),
        "network": (options.network, get_args(Network)),
        "bad-rows": (options.bad_rows, get_args(BadRows)),
        "on-budget": (options.on_budget, get_args(OnBudget)),
        "keep-workspaces": (options.keep_workspaces, get_args(KeepWorkspaces)),
    }
    return [
        f"--{name}: {none_of(value, known)}"
        for name, (value, known) in choices.items()
        if value is not None and value not in known
    ]
