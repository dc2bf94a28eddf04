"""The plain values that travel between the parts of the library and across Ray.

Unknown is None, never 0. Money is an integer number of pico-dollars (1e-12 USD), since one token
can cost less than a micro-dollar and sums must be exact. Times are aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from opencode_tasks.domain.attached_file import AttachedFile
from opencode_tasks.domain.sandbox import RelayCount
from opencode_tasks.domain.work import WorkResult, WorkspaceSource

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
    """Disjoint token counts and their cost. A field is None if its value is unknown.

    Attributes:
        input_tokens: Input tokens without cache reads and writes.
        cache_read_tokens: Input tokens that the provider read from its cache.
        cache_write_tokens: Input tokens that the provider wrote to its cache.
        output_tokens: Output tokens without reasoning.
        reasoning_tokens: Output tokens of the reasoning.
        cost_pico: Cost in pico-dollars (1e-12 US dollars).

    Examples:
        >>> from opencode_tasks import Usage
        >>> usage = Usage(input_tokens=180, output_tokens=6, cost_pico=210_000_000)
        >>> usage.cost_pico / 1e12
        0.00021
    """

    input_tokens: int | None = 0
    cache_read_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    output_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    cost_pico: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model call, the unit of usage.

    Attributes:
        step_id: opencode's id of the step, unique in its session.
        session_id: Session of the step, root or child.
        message_id: opencode's id of the message that the step belongs to.
        model_ref: Model as ``provider/model``.
        agent: Name of opencode's agent.
        usage: Tokens of the call, and its cost by ``cost_source``.
        cost_source: ``reported``: opencode reports the cost. ``computed``: it is computed from the tokens and
            the prices of ``price_source``. ``unpriced``: the cost is unknown.
        finish_reason: Reason for which the call ended, in the provider's word; None if it is unknown.
        ended_at: Time of the end (aware UTC); None if it is unknown.
        cost_computed_pico: Cost by the prices of ``price_source`` in pico-dollars, also if opencode reports a
            cost; None if no price is known.
        price_source: Source of these prices; None if no price is known.

    Examples:
        >>> from opencode_tasks import Step, Usage
        >>> step = Step(
        ...     step_id="prt_1",
        ...     session_id="ses_1",
        ...     message_id="msg_1",
        ...     model_ref="anthropic/claude-haiku-4-5",
        ...     agent="opencode-tasks",
        ...     usage=Usage(input_tokens=180, output_tokens=6, cost_pico=210_000_000),
        ...     cost_source="reported",
        ...     finish_reason="stop",
        ...     ended_at=None,
        ... )
        >>> step.cost_reported_pico
        210000000
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
        """Cost of the step in pico-dollars as opencode reports it; None if it reports none."""
        return self.usage.cost_pico if self.cost_source == "reported" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerRetry:
    """A retry that opencode made inside an attempt.

    Attributes:
        session_id: Session in which opencode retried.
        number: Number of the retry in its session, from 1.
        message: Message of the failure that opencode retried.
        next_at: Time of the next request (aware UTC); None if it is unknown.

    Examples:
        >>> from opencode_tasks import InnerRetry
        >>> retry = InnerRetry(session_id="ses_1", number=1, message="Overloaded", next_at=None)
        >>> retry.message
        'Overloaded'
    """

    session_id: str
    number: int
    message: str
    next_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An opencode session in the shape of its export.

    Attributes:
        session_id: opencode's id of the session, ``ses_…``.
        parent_id: Session that started this one as a sub-agent; None for a root session.
        messages: opencode's messages, each ``{"info": …, "parts": […]}``, oldest first.
        steps: Model calls of the session, without those of child sessions.

    Examples:
        >>> from opencode_tasks import Session
        >>> root = Session(session_id="ses_1", parent_id=None, messages=[])
        >>> child = Session(session_id="ses_2", parent_id="ses_1", messages=[])
        >>> [session.session_id for session in (root, child) if session.parent_id is None]
        ['ses_1']
    """

    session_id: str
    parent_id: str | None
    messages: Sequence[Mapping[str, Any]]
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """Data of one execution of a row, whether it succeeded or not.

    Attributes:
        session_id: The root session; None if no session is known.
        sessions: Root session first, then its children; empty if no session is known.
        inner_retries: Retries that opencode made inside the attempt.
        usage_known: False if the provider may charge for a call that no step reports, for example after a
            timeout or a cut stream.
        exit_code: Exit code of opencode; -1 if no process ended.
        stderr: Text that opencode wrote to stderr.
        events: Events that opencode wrote to stdout; empty with the backend ``server``.
        notes: Lines for the log, for example that the plugin was not loaded.
        relay: Requests that left the sandbox; None without one.

    Examples:
        >>> from opencode_tasks import AttemptRecord
        >>> record = AttemptRecord(usage_known=False)
        >>> record.session_id is None and record.steps == []
        True
    """

    session_id: str | None = None
    sessions: Sequence[Session] = ()
    inner_retries: Sequence[InnerRetry] = ()
    usage_known: bool = True
    exit_code: int = -1
    stderr: str = ""
    events: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    relay: RelayCount | None = None

    @property
    def steps(self) -> list[Step]:
        """The steps of all sessions, root first."""
        return [step for session in self.sessions for step in session.steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer of a row.

    Attributes:
        text: Text of the last assistant message that has any.
        structured: Value that fits the JSON schema of the row; None without a schema.
        finish_reason: Reason for which the answer ended, in the provider's word; None if it is unknown.
        turns: Number of assistant messages.
        model_ref: Model as ``provider/model``.
        attempt: Sessions, steps and usage of the attempt.
        work: Changes of the workspace of the row; without values for a row without a workspace.

    Examples:
        >>> from opencode_tasks import Answer, AttemptRecord
        >>> answer = Answer(
        ...     text='{"label": "positive"}',
        ...     structured={"label": "positive"},
        ...     finish_reason="stop",
        ...     turns=1,
        ...     model_ref="anthropic/claude-haiku-4-5",
        ...     attempt=AttemptRecord(),
        ... )
        >>> answer.structured["label"]
        'positive'
    """

    text: str
    structured: Any
    finish_reason: str | None
    turns: int
    model_ref: str
    attempt: AttemptRecord
    work: WorkResult = field(default_factory=WorkResult)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Result of ``OpenCodeLLM.prompt``.

    Attributes:
        result: Text of the answer; "" without an answer.
        returncode: 0 with an answer, else the exit code of opencode; -1 if no process ended.
        stderr: Text that opencode wrote to stderr; without an answer also the last cause.
        stream_result: Readable trace of the sessions; without an answer raw events, one JSON object a line.
        success: Whether there is an answer.

    Examples:
        >>> from opencode_tasks import QueryResult
        >>> answer = QueryResult("yes", 0, "", "[Response] yes", success=True)
        >>> answer.result if answer.success else answer.stderr
        'yes'
    """

    result: str
    returncode: int
    stderr: str
    stream_result: str
    success: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTool:
    """A remote MCP server whose tools the agent may use, at ``http://{hostname}:{port}/{name}/mcp``.

    Attributes:
        name: Name of the server, a part of its URL.
        hostname: Host on which the server listens.
        port: Port on which the server listens.

    Examples:
        >>> from opencode_tasks import RemoteTool
        >>> RemoteTool(name="weather", hostname="tools.example.com")
        RemoteTool(name='weather', hostname='tools.example.com', port=8000)
    """

    name: str
    hostname: str
    port: int = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInput:
    """A row as it enters a run: ``position`` from 0 in the input, ``prompt`` rendered.

    ``system`` is its system text if it differs from that of the run, else None. ``workspace`` is the source
    of the files with which the agent works, None without one. ``files`` are attached to the prompt.
    """

    row_id: str
    position: int
    row_key: str
    prompt: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    system: str | None = None
    workspace: WorkspaceSource | None = None
    files: tuple[AttachedFile, ...] = ()
