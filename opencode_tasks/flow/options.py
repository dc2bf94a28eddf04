"""What a user asks for, and how opencode is run for it.

No framework is imported here: the command line starts opencode by it while these are being loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    DEFAULT_SYSTEM,
    BackendName,
    Clocks,
    OpencodeSpec,
    Secrets,
)
from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.opencode.config import config_in_force
from opencode_tasks.settings import settings

BadRows = Literal["stop", "fail"]
OnWait = Literal["wait", "sleep", "raise"]
OnBudget = Literal["pause", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asks for, by the names of the command line; None leaves it to the program.

    ``on_wait`` says what becomes of a run that must wait for long: ``wait`` holds the flow until the
    moment, ``sleep`` puts the flow run of a deployment to sleep with no process left (its body runs
    again from the top then), ``raise`` raises RunPausedError. Where a person is needed, ``sleep``
    suspends the flow run and the others raise.

    ``agent`` is an agent of opencode's or the name of an OpenCodeAgent block, ``credentials`` the name
    of an OpenCodeCredentials block. ``mcp_servers`` are names of the config's MCP servers whose tools
    our own agent, the default, may use.

    ``max_cost`` is what the whole run may cost, in USD, and ``max_row_cost`` what one row may:
    its session sends no further request once its steps have cost more. ``on_budget`` says what
    becomes of the rows for which ``max_cost`` is too little: they wait for a person, or are skipped.
    ``series`` names the runs over one growing input that this one belongs to.

    ``concurrency`` is the most rows in flight in the whole run; without it the number is found.
    ``requests_per_minute`` and ``tokens_per_minute`` are what the provider allows, all runs together.
    """

    model: str | None = None
    prompt_column: str = "prompt"
    template: str | None = None
    id_column: str | None = None
    labels: Sequence[str] = ()
    system: str | None = None
    agent: str | None = None
    credentials: str | None = None
    mcp_servers: Sequence[str] = ()
    variant: str | None = None
    schema: Mapping[str, Any] | None = None
    opencode_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    opencode_bin: str | None = None
    work_dir: str | Path | None = None
    log_dir: str | Path | None = None
    batch_size: int | None = None
    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    backend: BackendName = "server"
    timeout: float = 600.0
    max_attempts: int = 3
    bad_rows: BadRows = "stop"
    ledger: str | None = None
    refresh: bool = False
    on_wait: OnWait = "wait"
    max_cost: float | None = None
    max_row_cost: float | None = None
    on_budget: OnBudget = "pause"
    series: str | None = None


def make_spec(options: Options, secrets: Secrets | None = None) -> OpencodeSpec:
    """How opencode is run for these options. Raises SetupError where it is not found."""
    try:
        binary = find_binary(options.opencode_bin or settings().opencode_bin)
    except SetupError as error:
        if options.opencode_bin is None:
            raise
        raise InputError((error.raw_message,)) from None
    return OpencodeSpec(
        binary=binary,
        config=config_in_force(options.opencode_config, os.environ),
        model_ref=options.model,
        system=options.system or DEFAULT_SYSTEM,
        agent=options.agent or DEFAULT_AGENT,
        mcp_servers=tuple(options.mcp_servers),
        secrets=secrets or Secrets(),
        clocks=Clocks.within(options.timeout),
        max_inline_wait_s=settings().max_inline_wait,
        work_dir=Path(options.work_dir).resolve() if options.work_dir else None,
    )
