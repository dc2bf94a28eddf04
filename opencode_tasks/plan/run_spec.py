"""RunSpec: what a batch must know about its run, as plain values that cross Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opencode_tasks.domain.attached_file import AttachedFile
from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.max_cost import MAX_INPUT_TOKENS, Price
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.work import WorkspaceRequest, WorkspaceSource, WorkSpec
from opencode_tasks.ledger import ClaimedRow, OpenRow
from opencode_tasks.opencode.backend import BackendName, OpencodeSpec, Request
from opencode_tasks.plan.answer_format import AnswerFormat
from opencode_tasks.telemetry import Carrier

TITLE_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run as its batches see it.

    - ``driver_id``: driver whose batches these are: its stop ends them.
    - ``spec``: how opencode is started.
    - ``secrets_block``: Prefect block (``type/name``) that holds the secrets of ``spec``; None without
      one. An executor that sends the batch elsewhere removes the secrets from ``spec``, and the
      batch reads them from the block.
    - ``unpriced``: models without a price in opencode.
    - ``system``: system text of a row without one of its own, None for that of a named agent.
    - ``answer_format``: what the answers must be; None for text.
    - ``concurrency``: most rows in flight of one batch. ``servers``: opencode servers of the process, if
      the backend uses them.
    - ``gate_id``: gate of the provider, model and credential.
    - ``start``: rows in flight at the gate while nothing is known about the provider's limit.
    - ``rate_limits``: requests and tokens per minute that the provider allows.
    - ``price``: price of the model, None if unknown. ``prices``: price book for computed costs.
    - ``trace``: span of the run, the parent of the spans of its batches.
    - ``has_budget``: whether the run has a cost limit.
    - ``max_row_cost_pico``: cost after which the session of a row is ended before its next step;
      None for no limit.
    - ``drain_s``: time that rows in flight get to end when the run must wait for long.
    - ``log_dir``: folder for traces, None without one.
    - ``lease_s``: time after which the row of a silent worker is free.
    - ``work``: commands in the workspaces of the rows, and what is kept of them; None for rows without one.
    - ``decided_by``: digests of the config that decides the answers, as ``Catalog.decided_by``.
    """

    run_id: str
    driver_id: str
    ledger_url: str = field(repr=False)
    spec: OpencodeSpec = field(repr=False)
    backend: BackendName
    model_ref: str
    unpriced: frozenset[str]
    system: str | None
    variant: str | None
    answer_format: AnswerFormat | None
    limits: RetryLimits
    concurrency: int
    servers: int = 1
    gate_id: str
    start: int
    rate_limits: RateLimits = field(default_factory=RateLimits)
    price: Price | None = None
    prices: PriceBook = field(default_factory=PriceBook)
    trace: Carrier = field(default_factory=dict[str, str])
    has_budget: bool = False
    max_row_cost_pico: int | None = None
    drain_s: float = 60.0
    log_dir: Path | None = None
    lease_s: float = 60.0
    secrets_block: str | None = None
    work: WorkSpec | None = None
    decided_by: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def calls_per_row(self) -> int:
        """Maximum number of model calls of one attempt without tools."""
        repairs = 0 if self.answer_format is None else self.answer_format.max_repairs
        return 1 + repairs + (0 if self.work is None else self.work.check_retries)

    def system_of(self, row: OpenRow) -> str | None:
        """System text of a row; None keeps that of a named agent."""
        return self.system if row.system is None else row.system

    def request(self, claimed: ClaimedRow) -> Request:
        """Request for a claimed row."""
        stored = claimed.row.workspace
        workspace = None
        if stored is not None and self.work is not None:
            workspace = WorkspaceRequest(
                source=WorkspaceSource.from_json(stored),
                setup_command=self.work.setup_command,
                command_limit_s=self.work.command_limit_s,
                sandbox=self.work.sandbox,
            )
        return Request(
            prompt=claimed.row.prompt,
            model_ref=self.model_ref,
            agent=self.spec.agent,
            system=self.system_of(claimed.row),
            variant=self.variant,
            title=f"{self.run_id} {claimed.row.row_id}"[:TITLE_LIMIT],
            max_cost_pico=claimed.remaining_pico,
            prices=self.prices,
            attempt_id=claimed.attempt_id,
            workspace=workspace,
            files=files_of(claimed.row),
        )


def files_of(row: OpenRow) -> tuple[AttachedFile, ...]:
    """The files that are attached to the prompt of a row."""
    return tuple(AttachedFile.from_json(one) for one in row.files or ())


def attempt_cost_limit_pico(
    price: Price, prompt: str, system: str | None, *, calls: int, file_tokens: int = 0
) -> int:
    """Most that one attempt at a prompt can cost without tools, in pico-dollars.

    ``file_tokens`` is the most that its files can have.
    """
    size_bytes = sum(len(text.encode("utf-8", "replace")) for text in (prompt, system or ""))
    # The provider refuses a request that is longer than the context.
    left = max(0, (price.max_input_tokens or MAX_INPUT_TOKENS) - size_bytes)
    return price.max_cost(size_bytes + min(file_tokens, left), calls=calls)
