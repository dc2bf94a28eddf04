"""Backend ``server``: rows through a running server, one session per row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.domain.records import InnerRetry, Session
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.attach import FILES_KEY, attached
from opencode_tasks.opencode.backend import (
    MAX_INNER_WAIT_S,
    BackendName,
    Clocks,
    KeptSession,
    OnSession,
    OpencodeSpec,
    Request,
)
from opencode_tasks.opencode.client import NoAnswerError, Response
from opencode_tasks.opencode.cost_cap import overspent, repeated
from opencode_tasks.opencode.disk_space import check_space
from opencode_tasks.opencode.instance_dir import KEPT
from opencode_tasks.opencode.price_list import write_price_list
from opencode_tasks.opencode.secret_values import SpecSecrets
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.server_set import ServerSet
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.event_stream import EventFold, SessionEvents
from opencode_tasks.outcomes.session_messages import has_known_usage, session_of

MAX_POLL_S = 0.5
# Without the plugin, only this check ends a session above its cost limit. Its next step starts immediately.
STEP_POLL_S = 0.05
EVENTS_LAG_S = 2.0
# Most events arrive before the reply. A shorter interval for the others costs more time than it saves.
EVENTS_POLL_S = 0.02
ABORT_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Reply:
    """Reply to the request that sends the prompt: its JSON, or a description of the fault."""

    body: Mapping[str, Any] | None
    fault: str = ""


class ServerBackend:
    """The ``server`` backend over the servers of one spec."""

    name: BackendName = "server"

    def __init__(
        self, servers: ServerSet, spec: OpencodeSpec, unpriced: frozenset[str] = frozenset()
    ) -> None:
        self.unpriced = unpriced
        self._servers = servers
        self._spec = spec
        self._secrets = SpecSecrets(spec)
        # Sessions that are kept: they are not released.
        self._left: set[str] = set()

    @property
    def server(self) -> OpencodeServer | None:
        """The server for the next new session; None if there is none."""
        return self._servers.current

    def data_dir(self, session_id: str | None) -> Path | None:
        """Data directory of the server with the session, or of the server for new sessions."""
        owner = self._servers.server_with(session_id) if session_id is not None else None
        server = owner or self.server
        return server.instance_dir.data if server is not None else None

    def partial_sessions(self, session_id: str) -> list[Session]:
        """The session and its children, from the events so far."""
        server = self._servers.server_with(session_id)
        found = sessions_from_events(server.fold, session_id, self.unpriced) if server is not None else []
        return self._secrets.mask.sessions(found)

    def release_session(self, session_id: str) -> None:
        """Release a session that is recorded: it is not needed for a recovery any more."""
        if session_id in self._left:
            self._left.discard(session_id)
            return
        self._servers.mark_recorded(session_id)

    async def keep_session(self, session_id: str, attempt_id: str) -> bool:
        """See ``Backend.keep_session``. The session stays in its server."""
        server = self._servers.server_with(session_id)
        if server is None:
            return False
        server.mark_unrecorded(session_id, f"{KEPT}{attempt_id}")
        self._left.add(session_id)
        return True

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """See ``Backend.take_session``. Without its server, another one is started over its data."""
        self._left.discard(kept.session_id)
        return await self._servers.take_session(kept, attempt_id)

    async def aclose(self) -> None:
        """Nothing to close: the server pool closes the servers."""

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        """See ``Backend.run``.

        Raises SetupError if a server does not start, or if its disk is full, and AttachedFileError if a file
        cannot be attached.
        """
        async with (
            self._servers.use(request.session_id) as server,
            attached(server.files, request, self.partial_sessions) as files,
        ):
            conversation = _Conversation(server, self._spec, self.unpriced, files)
            result = await conversation.run(request, on_session)
            if result.is_opencode_fault:
                check_space(server.instance_dir.root)
            return self._secrets.mask.result(result)


class _Conversation:
    """One request to one server, from the prompt to its end."""

    def __init__(
        self,
        server: OpencodeServer,
        spec: OpencodeSpec,
        unpriced: frozenset[str],
        files: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.server = server
        self.unpriced = unpriced
        self._files = files
        self._clocks = spec.clocks
        self._longest_wait_s = longest_wait_s(spec, plugin_loaded=server.plugin_loaded)

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        try:
            session_id = request.session_id or await self._create(request)
        except (NoAnswerError, KeyError, ValueError) as error:
            return self._without_session(f"no session: {type(error).__name__} {error}")
        self.server.mark_unrecorded(session_id, request.attempt_id)
        on_session(session_id)
        gaps = self.server.gaps
        state = self.server.fold.watch(session_id, time.monotonic())
        send = asyncio.create_task(self._send(session_id, request))
        try:
            stopped = await self._wait(session_id, send, request)
        except asyncio.CancelledError:
            send.cancel()
            await asyncio.shield(self._abort(session_id))
            raise
        reply = await self._reply(send, session_id, stopped)
        is_whole = gaps == self.server.gaps and session_id not in self.server.reopened
        complete = stopped is None and is_whole and await self._caught_up(state, reply)
        sessions = await self._sessions(session_id, from_events=complete)
        return self._result(session_id, sessions, reply, stopped, state)

    async def _create(self, request: Request) -> str:
        answer = await self.server.post("/session", {"title": request.title})
        if answer.status != HTTPStatus.OK:
            raise ValueError(_refused(answer))
        return answer.json()["id"]

    async def _send(self, session_id: str, request: Request) -> _Reply:
        prompt: dict[str, Any] = {"type": "text", "text": request.prompt}
        if request.max_cost_pico is not None:
            # For the plugin; opencode keeps a part's metadata and does not send it to the provider.
            path = write_price_list(self.server.instance_dir.run, request.prices)
            hidden_pico = request.children_pico if session_id in self.server.reopened else 0
            limit = {"maxCostPico": request.max_cost_pico - hidden_pico, "prices": str(path)}
            prompt["metadata"] = {"opencodeTasks": limit}
        if self._files and request.session_id is None:
            prompt.setdefault("metadata", {})[FILES_KEY] = self._files
        body: dict[str, Any] = {"agent": request.agent, "parts": [prompt]}
        if request.model_ref:
            provider, _, model = request.model_ref.partition("/")
            body["model"] = {"providerID": provider, "modelID": model}
        if request.system is not None:
            body["system"] = request.system
        if request.variant:
            body["variant"] = request.variant
        try:
            answer = await self.server.post(f"/session/{session_id}/message", body, timeout_s=None)
        except NoAnswerError as error:
            return _Reply(None, f"the connection to the opencode server broke: {error}")
        try:
            parsed = mapping_in(answer.json())
        except ValueError:
            parsed = mapping_in(None)
        if answer.status != HTTPStatus.OK or "info" not in parsed:
            return _Reply(None, _refused(answer))
        return _Reply(parsed)

    async def _wait(self, session_id: str, send: asyncio.Task[_Reply], request: Request) -> Stopped | None:
        started = time.monotonic()
        plugin_loaded = self.server.plugin_loaded
        max_s = MAX_POLL_S if plugin_loaded else STEP_POLL_S
        while True:
            await asyncio.wait({send}, timeout=min(max_s, self._poll_s(session_id, started)))
            if send.done():
                return None
            self.server.read_journal()
            stopped = self._must_stop(session_id, started)
            if stopped is None and not plugin_loaded:
                family = self.server.fold.family(session_id)
                stopped = overspent(family, request, self.unpriced) or repeated(family)
            if stopped is not None:
                return stopped

    def _poll_s(self, session_id: str, started: float) -> float:
        """Seconds until a clock can run out, at most MAX_POLL_S."""
        clocks, now = self._clocks, time.monotonic()
        fold = self.server.fold
        ends = [started + clocks.total_s]
        if (tool_since := fold.tool_since(session_id)) is not None:
            ends.append(tool_since + clocks.tool_s)
        else:
            ends.append(last_sign(fold, session_id, started) + clocks.stall_s)
        if session_id not in fold.first_sign:
            ends.append(started + clocks.first_event_s)
        return min(MAX_POLL_S, max(0.01, min(ends) - now))

    def _must_stop(self, session_id: str, started: float) -> Stopped | None:
        for state in self.server.fold.family(session_id):
            if state.retry is not None and _wait_s(state.retry) > self._longest_wait_s:
                return Stopped(wait=state.retry)
        fold = self.server.fold
        return check_clocks(
            self._clocks,
            now=time.monotonic(),
            started=started,
            first_sign=fold.first_sign.get(session_id),
            last_sign=last_sign(fold, session_id, started),
            tool_since=fold.tool_since(session_id),
        )

    async def _reply(self, send: asyncio.Task[_Reply], session_id: str, stopped: Stopped | None) -> _Reply:
        if stopped is None:
            return send.result()
        await self._abort(session_id)
        await asyncio.wait({send}, timeout=ABORT_LIMIT_S)
        if not send.done():
            send.cancel()
        return _Reply(None, "the backend ended the session")

    async def _abort(self, session_id: str) -> None:
        try:
            await self.server.post(f"/session/{session_id}/abort", timeout_s=ABORT_LIMIT_S)
        except NoAnswerError:
            return  # A server that does not answer has nothing left to end.

    async def _caught_up(self, state: SessionEvents, reply: _Reply) -> bool:
        """Wait for a short time until the events contain everything in the reply; return whether they do."""
        if reply.body is None:
            return False
        info = reply.body["info"]
        deadline = time.monotonic() + EVENTS_LAG_S
        while time.monotonic() < deadline:
            if state.idle and (state.infos.get(info["id"]) or {}).get("time", {}).get("completed"):
                return True
            await asyncio.sleep(EVENTS_POLL_S)
        return False

    async def _sessions(self, session_id: str, *, from_events: bool) -> list[Session]:
        if from_events:
            return sessions_from_events(self.server.fold, session_id, self.unpriced)
        try:
            return await self.server.read_sessions(session_id, self.unpriced)
        except (NoAnswerError, SetupError, ValueError, KeyError):
            return sessions_from_events(self.server.fold, session_id, self.unpriced)

    def _result(
        self,
        session_id: str,
        sessions: list[Session],
        reply: _Reply,
        stopped: Stopped | None,
        state: SessionEvents,
    ) -> SessionResult:
        family = self.server.fold.family(session_id)
        alive = self.server.is_running
        self.server.read_journal()
        return SessionResult(
            session_id=session_id,
            sessions=sessions,
            error=None if reply.body is not None else state.error,
            fault=reply.fault,
            stopped=stopped,
            inner_retries=[retry for member in family for retry in member.inner_retries],
            denied_tools=tuple(name for member in family for name in member.asked_permissions.values()),
            exit_code=0 if alive else (self.server.process.poll() or -1),
            stderr="" if alive and not reply.fault else f"{reply.fault}\n{self.server.output_tail()}".strip(),
            usage_known=stopped is None
            and reply.body is not None
            and has_known_usage(sessions)
            and not any(member.lost_calls for member in family),
            attached_files=self.server.attached_files.get(session_id, 0),
        )

    def _without_session(self, fault: str) -> SessionResult:
        code = self.server.process.poll()
        return SessionResult(
            session_id=None,
            exit_code=-1 if code is None else code,
            stderr=f"{fault}\n{self.server.output_tail()}".strip(),
        )


def _refused(answer: Response) -> str:
    return f"opencode answered HTTP {answer.status}: {answer.text[:500]}"


def sessions_from_events(fold: EventFold, session_id: str, unpriced: frozenset[str]) -> list[Session]:
    """A root session and its children, from the events so far."""
    return [
        session_of(state.session_id, state.messages, parent_id=state.parent_id, unpriced=unpriced)
        for state in fold.family(session_id)
    ]


def longest_wait_s(spec: OpencodeSpec, *, plugin_loaded: bool) -> float:
    """Longest wait in seconds that is left to opencode: the plugin's limit, or a fixed one without it."""
    return max(MAX_INNER_WAIT_S, spec.max_inline_wait_s + 5.0) if plugin_loaded else MAX_INNER_WAIT_S


def last_sign(fold: EventFold, session_id: str, started: float) -> float:
    """Time of the last sign of a session, from which its stall clock runs, on the monotonic clock.

    While opencode waits for a retry, it is the end of that wait.
    """
    now = time.monotonic()
    waits = [_wait_s(state.retry) for state in fold.family(session_id) if state.retry is not None]
    return max([fold.last_sign.get(session_id, started), *(now + wait for wait in waits if wait > 0)])


def check_clocks(
    clocks: Clocks,
    *,
    now: float,
    started: float,
    first_sign: float | None,
    last_sign: float,
    tool_since: float | None = None,
) -> Stopped | None:
    """The clock that has run out at ``now``; None if none has. All times are seconds of the same clock.

    ``tool_since`` is the start of the tool that runs longest, None if none runs. While one runs, the
    provider owes no sign.
    """
    if now - started >= clocks.total_s:
        return Stopped(clock="total", seconds=clocks.total_s)
    if first_sign is None:
        is_late = now - started >= clocks.first_event_s
        return Stopped(clock="first_event", seconds=clocks.first_event_s) if is_late else None
    if tool_since is not None:
        is_late = now - tool_since >= clocks.tool_s
        return Stopped(clock="tool", seconds=clocks.tool_s) if is_late else None
    if now - last_sign >= clocks.stall_s:
        return Stopped(clock="stall", seconds=clocks.stall_s)
    return None


def _wait_s(retry: InnerRetry) -> float:
    return retry.next_at.timestamp() - time.time() if retry.next_at else 0.0
