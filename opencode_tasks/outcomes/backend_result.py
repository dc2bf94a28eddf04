"""Result of one request to opencode, as a backend reports it and before it is classified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_tasks.domain.records import InnerRetry, Session
from opencode_tasks.domain.sandbox import RelayCount
from opencode_tasks.errors import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Reason why the backend ended a session: a clock, a long inner wait, its cost limit, or another limit.

    Exactly one group is set: ``clock`` with its limit in ``seconds``; ``wait``, the inner retry whose
    wait is too long; ``cap_pico`` with the amount ``spent_pico``, both in pico-dollars; ``finish``,
    the finish reason of a step without a tool call after which opencode repeated its request; or ``limit``,
    what its programs did that exceeded a limit of the sandbox.
    """

    clock: Clock | None = None
    seconds: float | None = None
    wait: InnerRetry | None = None
    cap_pico: int | None = None
    spent_pico: int | None = None
    finish: str | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """Everything that a backend knows after a request; ``outcomes.outcome`` makes an answer or error of it.

    ``session_id`` is None if opencode opened no session. ``sessions`` has the root session first, each
    with its whole conversation. ``error`` is opencode's structured error if no message carries it;
    ``fault`` is the backend's own message if opencode did not finish the request. ``stopped`` is set if
    the backend ended the session. ``exit_code`` is -1 if no process ended. ``usage_known`` is False if
    the provider may have charged for a step that no message reports. ``relay`` counts the requests that
    left a sandbox; None without one. ``attached_files`` is the number of files
    that were attached.
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
    relay: RelayCount | None = None
    attached_files: int = 0

    @property
    def is_opencode_fault(self) -> bool:
        """Whether opencode itself failed: it opened no session, or did not finish the request."""
        has_failed = self.exit_code != 0 and self.error is None and self.stopped is None
        return self.session_id is None or bool(self.fault) or has_failed
