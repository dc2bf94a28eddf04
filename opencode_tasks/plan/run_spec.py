"""What a batch must know of its run: plain values that cross Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencode_tasks.domain.answer_schema import schema_instruction
from opencode_tasks.domain.policy import RetryLimits
from opencode_tasks.domain.price_book import PriceBook
from opencode_tasks.domain.prices import Price
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.ledger import ClaimedRow
from opencode_tasks.opencode.backend import DEFAULT_AGENT, BackendName, OpencodeSpec, Request
from opencode_tasks.telemetry import Carrier


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run as its batches see it.

    ``concurrency`` is the most rows in flight of one batch, ``gate_id`` the gate of its provider, model
    and credential, ``start`` the rows in flight at the gate while nothing is known of it, and ``rate_limits``
    what it allows in a minute. ``system`` is the text the user gave, None without one; ``spec.system``
    is what the default agent is given. ``price`` is None where nobody states the model's, ``prices``
    are those to compute costs by. A row's session is ended when the row has cost more than
    ``max_row_cost_pico`` (None: any cost) and would go on. ``drain_s`` is how long rows in flight may
    go on once the run must wait for long. ``trace`` is the run's span, the parent of its batches'.
    ``secrets_block`` is the Prefect block, as ``type/name``, of the secrets that ``spec`` is without:
    they are read where they are used.
    """

    run_id: str
    ledger_url: str = field(repr=False)
    spec: OpencodeSpec = field(repr=False)
    backend: BackendName
    model_ref: str
    unpriced: frozenset[str]
    system: str | None
    variant: str | None
    schema: Mapping[str, Any] | None
    limits: RetryLimits
    concurrency: int
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

    def request(self, claimed: ClaimedRow) -> Request:
        """The request for a row whose attempt is begun."""
        return Request(
            prompt=claimed.row.prompt,
            model_ref=self.model_ref,
            agent=self.spec.agent,
            system=system_text(self.spec, self.system, self.schema),
            variant=self.variant,
            title=f"{self.run_id} {claimed.row.row_id}"[:100],
            max_cost_pico=claimed.remaining_pico,
            attempt_id=claimed.attempt_id,
        )


def system_text(spec: OpencodeSpec, system: str | None, schema: Mapping[str, Any] | None) -> str | None:
    """The system text of every request; None leaves a named agent's own as it is."""
    text = spec.system if spec.agent == DEFAULT_AGENT else system
    if schema is None:
        return text
    return "\n\n".join(filter(None, [text, schema_instruction(schema)]))
