"""Protocol of a backend (a way to run opencode), and the values that describe what it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from opencode_tasks.domain.attached_file import AttachedFile
from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.records import RemoteTool, Session
from opencode_tasks.domain.sandbox import SandboxSpec
from opencode_tasks.domain.work import WorkspaceRequest
from opencode_tasks.outcomes.backend_result import SessionResult

# Each name has a row in ``backend_table.py``.
BackendName = Literal["server", "cli", "null"]
BACKEND_SUMMARIES: Mapping[BackendName, str] = {
    "server": "one long-running server",
    "cli": "one process for each row",
    "null": "the answer is the prompt; for measurements",
}
DEFAULT_AGENT = "opencode-tasks"
DEFAULT_SYSTEM = "You are a helpful assistant."
# The prompt that continues a session. The plugin removes it where the interrupted request can be repeated.
CONTINUATION = "Your work was interrupted. Continue it, and do not repeat what is done."
# Longest inner wait that is left to opencode if the plugin is not loaded.
MAX_INNER_WAIT_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Time limits of a request, in seconds. Only the limit of the whole request has a default.

    A model on a slow machine can need minutes for its first token, and a model that reasons can be
    silent for minutes in the middle of an answer. Shorter limits detect a dead connection earlier.

    Attributes:
        first_event_s: Limit until the provider's first sign of an answer. Infinity sets no limit.
        stall_s: Limit between two signs while no tool runs. Infinity sets no limit.
        tool_s: Limit of one call of a tool. Infinity sets no limit.
        total_s: Limit of the whole request.

    Examples:
        >>> from opencode_tasks import Clocks, OpenCodeLLM
        >>> llm = OpenCodeLLM(clocks=Clocks(first_event_s=30, stall_s=60, total_s=300))
        >>> Clocks.within(90, stall_s=60)
        Clocks(first_event_s=90, stall_s=60, tool_s=90, total_s=90)
    """

    first_event_s: float = math.inf
    stall_s: float = math.inf
    tool_s: float = math.inf
    total_s: float = 600.0

    @classmethod
    def within(
        cls,
        total_s: float,
        *,
        first_event_s: float | None = None,
        stall_s: float | None = None,
        tool_s: float | None = None,
    ) -> Clocks:
        """The limits, none of them longer than ``total_s``.

        Args:
            total_s: Limit of the whole request in seconds.
            first_event_s: Limit until the first sign of an answer in seconds; None is ``total_s``.
            stall_s: Limit between two signs in seconds; None is ``total_s``.
            tool_s: Limit of one call of a tool in seconds; None is ``total_s``.
        """
        limits = (total_s if limit is None else limit for limit in (first_event_s, stall_s, tool_s))
        first, stall, tool = (min(limit, total_s) for limit in limits)
        return cls(first_event_s=first, stall_s=stall, tool_s=tool, total_s=total_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Credentials that opencode gets in addition to the user's own logins. Never shown, stored or logged.

    ``api_keys`` maps provider ids to keys and overrides the logins in the user's store. ``environment``
    maps variable names to values and overrides the environment of this process.
    """

    api_keys: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpencodeSpec:
    """How opencode is run. Rows can share a server if their specs differ in ``system`` and ``sandbox`` alone.

    ``config`` is the user's opencode config. ``model_ref`` None lets opencode choose its default model.
    ``work_dir`` None means a fixed empty directory. ``tools`` are MCP servers by their address,
    ``mcp_servers`` are names of MCP servers in ``config``; the default agent may use the tools of both.
    ``allowed_tools`` are names of further tools of the default agent, ``denied_tools`` those that ``agent``
    may not use; each in alphabetical order.
    ``max_inline_wait_s`` is the longest wait in seconds that the plugin leaves to opencode.
    ``use_plugin`` False starts opencode without the plugin: provider errors are then read from the
    event stream alone. ``max_steps`` is the maximum number of model calls of one prompt, sub-agents
    included; None means the setting. ``sandbox`` is what opencode reaches in a sandbox, None without one;
    only the backend ``cli`` has sandboxes. ``kept_sessions`` is the path or URL of the folder in which it
    stores kept sessions for other machines, None for nowhere.
    """

    binary: Path
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model_ref: str | None = None
    system: str = DEFAULT_SYSTEM
    agent: str = DEFAULT_AGENT
    tools: tuple[RemoteTool, ...] = ()
    mcp_servers: tuple[str, ...] = ()
    allowed_tools: tuple[str, ...] = ()
    denied_tools: tuple[str, ...] = ()
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    clocks: Clocks = field(default_factory=Clocks)
    max_inline_wait_s: float = 60.0
    work_dir: Path | None = None
    extra_cli_args: tuple[str, ...] = ()
    use_plugin: bool = True
    max_steps: int | None = None
    sandbox: SandboxSpec | None = None
    kept_sessions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to send.

    ``session_id`` names a session to continue; None opens a new one. ``max_cost_pico`` is the cost in
    pico-dollars above which the session, its children included, sends no further model request; None
    means no limit. ``prices`` are the prices of the models, by which the limit is enforced. A call
    without a reported usage counts by its upper bound. ``attempt_id`` is stored beside the session until
    the session is recorded, so that the session can be assigned to its attempt if this process dies.
    ``workspace`` describes a private copy in which opencode works; None works in the directory of the spec.
    Only the backend ``cli`` makes workspaces. ``files`` are attached to the first prompt of the session.
    ``children_pico`` is the part of ``max_cost_pico`` that earlier
    attempts in this session have spent on its sub-agents.
    """

    prompt: str
    model_ref: str | None
    agent: str = DEFAULT_AGENT
    system: str | None = None
    variant: str | None = None
    title: str = "opencode-tasks"
    session_id: str | None = None
    max_cost_pico: int | None = None
    prices: PriceBook = field(default_factory=PriceBook)
    attempt_id: str = ""
    workspace: WorkspaceRequest | None = None
    files: tuple[AttachedFile, ...] = ()
    children_pico: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSession:
    """A session that an attempt left for the next one at its row.

    ``left_by`` is the id of that attempt, ``data_dir`` the data directory with the session, and ``host`` the
    other machine on which it is; None for this one.
    """

    session_id: str
    data_dir: Path
    left_by: str
    host: str | None = None


OnSession = Callable[[str], None]


class Backend(Protocol):
    """A way to run opencode for one spec. It serves many requests at a time on one event loop.

    ``unpriced`` holds the ``provider/model`` names that have no price. ``backend_table.py`` lists the
    backends.
    """

    name: BackendName
    unpriced: frozenset[str]

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        """Send a prompt and wait for the end. ``on_session`` is called once the session id is known."""
        ...

    def data_dir(self, session_id: str | None) -> Path | None:
        """Opencode's data directory that holds the session, or will hold the next one if it is None."""
        ...

    def partial_sessions(self, session_id: str) -> list[Session]:
        """What is known so far about a session that was interrupted, and its children; root first."""
        ...

    def release_session(self, session_id: str) -> None:
        """Release a session that is recorded in the ledger: its data may be removed."""
        ...

    async def keep_session(self, session_id: str, attempt_id: str) -> bool:
        """Release a session that the next attempt may continue: its data stays, marked with this attempt.

        Returns whether the session is kept. Raises OSError if the disk fails.
        """
        ...

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """Take a kept session, so that requests of this attempt can name it; False if it is not there.

        Raises OSError if the disk fails, and SetupError if a folder of stored sessions cannot be read.
        """
        ...

    async def aclose(self) -> None:
        """Stop the processes of this backend; the data of unrecorded sessions stays."""
        ...
