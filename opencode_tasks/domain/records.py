"""The plain values that travel between the parts of the library and across Ray.

Unknown is None, never 0. Money is an integer number of pico-dollars (1e-12 USD), since one token
can cost less than a micro-dollar and sums must be exact. Times are aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

CostSource = Literal["reported", "computed", "unpriced"]
RowStatus = Literal["open", "completed", "failed", "skipped"]

TOKEN_COLUMNS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Disjoint token counts and what they cost; a None field is unknown.

    ``input_tokens`` excludes cache reads and writes, ``output_tokens`` excludes reasoning.
    """

    input_tokens: int | None = 0
    cache_read_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    output_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    cost_pico: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model call, the grain of usage; ``step_id`` is opencode's part id, unique in its session.

    ``usage.cost_pico`` is what ``cost_source`` says: opencode's report, else what the tokens cost by
    the prices of ``price_source``, which is ``cost_computed_pico`` in any case (None: no such price).
    """

    step_id: str
    session_id: str
    message_id: str
    model_ref: str
    agent: str
    usage: Usage
    cost_source: CostSource
    finish_reason: str | None
    ended_at: datetime | None
    cost_computed_pico: int | None = None
    price_source: str | None = None

    @property
    def cost_reported_pico(self) -> int | None:
        """What opencode says that the step cost; None where it does not know."""
        return self.usage.cost_pico if self.cost_source == "reported" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerRetry:
    """A retry that opencode made by itself inside an attempt; ``next_at`` is when it asked again."""

    session_id: str
    number: int
    message: str
    next_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An opencode session, root (``parent_id`` None) or child, in the shape of its export.

    ``messages`` is opencode's list of ``{"info": …, "parts": […]}``, oldest first.
    """

    session_id: str
    parent_id: str | None
    messages: Sequence[Mapping[str, Any]]
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """What one execution of a row left behind, whether it succeeded or not.

    ``sessions`` has the root first; empty where no session is known. ``usage_known`` is False
    where something may have been bought that no step reports (a time-out, a cut stream).
    """

    session_id: str | None = None
    sessions: Sequence[Session] = ()
    inner_retries: Sequence[InnerRetry] = ()
    usage_known: bool = True
    exit_code: int = -1
    stderr: str = ""
    events: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    @property
    def steps(self) -> list[Step]:
        """The steps of all sessions, root first."""
        return [step for session in self.sessions for step in session.steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A row's answer; ``structured`` is the value that fits the row's schema, None without one."""

    text: str
    structured: Any
    finish_reason: str | None
    turns: int
    model_ref: str
    attempt: AttemptRecord


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What ``OpenCodeLLM.prompt`` gives back; ``stream_result`` is the trace, or the raw events."""

    result: str
    returncode: int
    stderr: str
    stream_result: str
    success: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTool:
    """A remote MCP server that the agent may use, at ``http://{hostname}:{port}/{name}/mcp``."""

    name: str
    hostname: str
    port: int = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInput:
    """A row as it enters a run: ``position`` from 0 in the input, ``prompt`` rendered."""

    row_id: str
    position: int
    row_key: str
    prompt: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
