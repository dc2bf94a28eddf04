"""The face that both ways of driving opencode share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from opencode_tasks.errors import Clock
from opencode_tasks.records import InnerRetry, RemoteTool, Session

BackendName = Literal["server", "cli", "null"]
DEFAULT_AGENT = "opencode-tasks"
DEFAULT_SYSTEM = "You are a helpful assistant."
# Opencode itself may be silent for 30 s between two of its retries.
DEFAULT_STALL_S = 120.0
# Without the plugin a longer inner wait than this is ended by us.
LONGEST_INNER_WAIT_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Limits in seconds: to the provider's first sign, between two signs, and for all of it."""

    first_event_s: float = 300.0
    stall_s: float = DEFAULT_STALL_S
    total_s: float = 600.0

    @classmethod
    def within(cls, total_s: float) -> Clocks:
        """The default clocks, none of them beyond ``total_s``."""
        return cls(first_event_s=min(300.0, total_s), stall_s=min(DEFAULT_STALL_S, total_s), total_s=total_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What opencode is given beside the user's own logins; never shown, written down or logged.

    ``api_keys`` by provider id win over a login of the user's store, ``environment`` by variable
    over the process's own.
    """

    api_keys: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpencodeSpec:
    """How to run opencode: what two rows must share to share a server.

    ``config`` is the user's opencode config; ``work_dir`` None means one fixed empty folder.
    ``tools`` are MCP servers by their place, ``mcp_servers`` names of those in ``config``: our own
    agent may use the tools of both. ``use_plugin=False`` leaves the plugin out and shows how the
    event stream alone serves. ``max_steps`` is the most model calls of one prompt, sub-agents included;
    None means the setting.
    """

    binary: Path
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model_ref: str | None = None
    system: str = DEFAULT_SYSTEM
    agent: str = DEFAULT_AGENT
    tools: tuple[RemoteTool, ...] = ()
    mcp_servers: tuple[str, ...] = ()
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    clocks: Clocks = field(default_factory=Clocks)
    max_inline_wait_s: float = 60.0
    work_dir: Path | None = None
    extra_cli_args: tuple[str, ...] = ()
    use_plugin: bool = True
    max_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to send. ``session_id`` goes on in that session; None opens a new one.

    ``max_cost_pico`` is the most that the session, its children included, may have cost before it sends
    a further model request; None means no limit. ``attempt_id`` is kept on disk beside the session until
    the session is recorded: it identifies the session's attempt if this process dies.
    """

    prompt: str
    model_ref: str | None
    agent: str = DEFAULT_AGENT
    system: str | None = None
    variant: str | None = None
    title: str = "opencode-tasks"
    session_id: str | None = None
    max_cost_pico: int | None = None
    attempt_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Why we ended a session ourselves: a clock, an inner wait that was too long, its cost, or its end.

    ``finish`` is the finish reason of a step without a tool call after which opencode repeated its request.
    """

    clock: Clock | None = None
    seconds: float | None = None
    wait: InnerRetry | None = None
    cap_pico: int | None = None
    spent_pico: int | None = None
    finish: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """What came of a request; nothing is judged yet.

    ``sessions`` holds the root first, whole conversations; ``error`` is opencode's structured
    error where it stands in no message; ``fault`` is ours, where opencode gave no end at all.
    ``usage_known`` is False where a step may have been sold
    that no message reports.
    """

    session_id: str | None
    sessions: Sequence[Session] = ()
    error: Mapping[str, Any] | None = None
    fault: str = ""
    stopped: Stopped | None = None
    inner_retries: Sequence[InnerRetry] = ()
    denied_tools: tuple[str, ...] = ()
    stream_text: str = ""
    exit_code: int = 0
    stderr: str = ""
    events: Sequence[Mapping[str, Any]] = ()
    usage_known: bool = True
    notes: tuple[str, ...] = ()


OnSession = Callable[[str], None]


class Backend(Protocol):
    """A way of driving opencode. Safe for many requests at once on one event loop."""

    name: BackendName
    unpriced: frozenset[str]

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        """Send a prompt and wait for the end; ``on_session`` is called once its session is known."""
        ...

    def data_dir(self, session_id: str | None) -> Path | None:
        """Opencode's data folder that holds (or will hold) the session."""
        ...

    def seen(self, session_id: str) -> list[Session]:
        """What is known so far of a session that was cut short, and of its children."""
        ...

    def recorded(self, session_id: str) -> None:
        """Say that a session is recorded elsewhere and may be forgotten."""
        ...
