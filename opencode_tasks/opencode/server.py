"""A warm ``opencode serve``: started once, asked often, gone with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import psutil

from opencode_tasks.domain.json_values import list_in, mapping_in
from opencode_tasks.domain.records import Session
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.binary import check_version, version_to_run
from opencode_tasks.opencode.client import HTTP_LIMIT_S, Client, NoAnswerError, Response
from opencode_tasks.opencode.instance_dir import Credentials, InstanceDir, environment, make_instance_dir
from opencode_tasks.outcomes.events import EventFold, SessionEvents
from opencode_tasks.outcomes.messages import session_of
from opencode_tasks.system import GuardedProcess

START_LIMIT_S = 60.0
LISTENING = "listening on "
CLOSED = "the opencode server has ended"

_log = logging.getLogger(__name__)


class OpencodeServer:
    """A running server, its HTTP client and the one reader of its event stream.

    ``gaps`` counts the times that events may have been lost; ``plugin_loaded`` says whether
    failures are final and exact. ``claimed`` counts the sessions that were begun here, ``unrecorded``
    holds those that are not recorded yet, ``users`` counts the requests that are at work here.
    """

    def __init__(
        self, process: GuardedProcess, instance_dir: InstanceDir, client: Client, credentials: Credentials
    ) -> None:
        self.process = process
        self.instance_dir = instance_dir
        self.client = client
        self.fold = EventFold()
        self.gaps = 0
        self.plugin_loaded = False
        self.claimed = 0
        self.unrecorded: set[str] = set()
        self.users = 0
        self.is_closing = False
        self._credentials = credentials
        self._connected = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._replies: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, spec: OpencodeSpec, *, over: InstanceDir | None = None) -> Self:
        """Start a server for ``spec`` and wait until it answers. Raises SetupError if it does not.

        It owns the home ``over``, and is given no logins there; None makes a new home with them.
        """
        check_version(version_to_run(spec.binary))
        password = secrets.token_urlsafe(24)
        provider = spec.model_ref.partition("/")[0] if spec.model_ref else None
        credentials = Credentials(provider, spec.secrets)
        instance_dir = over or make_instance_dir()
        starting: asyncio.Task[GuardedProcess] | None = None
        try:
            logins = credentials.install(instance_dir) if over is None else {}
            env = environment(instance_dir, spec, password=password, journal_events=False) | logins
            args = [str(spec.binary), "serve", "--hostname", "127.0.0.1", "--port", "0"]
            start = functools.partial(
                GuardedProcess.start,
                args,
                env=env,
                cwd=instance_dir.work,
                stdout=instance_dir.output,
                instance_dirs=[instance_dir.root],
            )
            starting = asyncio.create_task(asyncio.to_thread(start))
            process = await asyncio.shield(starting)
            url = await _listening_at(process, instance_dir)
        except BaseException:
            if starting is not None:
                # Cancelled meanwhile or not: what the thread starts must be ended.
                with contextlib.suppress(SetupError):
                    await asyncio.to_thread((await starting).stop)
            credentials.close()
            instance_dir.remove()
            raise
        client = Client(url, password, str(spec.work_dir or instance_dir.work))
        server = cls(process, instance_dir, client, credentials)
        try:
            await server._open(spec)
        except BaseException:
            await server.aclose()
            raise
        return server

    async def _open(self, spec: OpencodeSpec) -> None:
        try:
            # The first request in a folder makes opencode load its config and plugins there; of a
            # config that it refuses only this tells.
            await self.get("/agent", timeout_s=START_LIMIT_S)
            self._reader = asyncio.create_task(self._read_events())
            async with asyncio.timeout(START_LIMIT_S):
                await self._connected.wait()
        except (TimeoutError, NoAnswerError) as error:
            words = self.last_words()[-800:].strip() or type(error).__name__
            raise SetupError(
                "unknown", raw_message=f"opencode serve did not answer: {words}", hint="opencode-tasks doctor"
            ) from None
        self.plugin_loaded = plugin_is_loaded(self.instance_dir.journal) if spec.use_plugin else False

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    @property
    def is_idle(self) -> bool:
        """Whether no request is at work here and every session is recorded."""
        return not self.users and not self.unrecorded

    @property
    def owns_login(self) -> bool:
        """Whether it holds the user's login, which only one server at a time may use."""
        return self._credentials.needs_owner

    @property
    def memory_bytes(self) -> int:
        """The resident memory of opencode's process, its children not counted; 0 once it has ended."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def hold(self, session_id: str, attempt_id: str) -> None:
        """Keep a session, through a crash too, until ``let_go``, with the attempt whose it is."""
        self.unrecorded.add(session_id)
        self.instance_dir.mark(session_id, attempt_id)

    def let_go(self, session_id: str) -> None:
        """Forget a session that is recorded elsewhere."""
        self.instance_dir.unmark(session_id)
        self.fold.forget(session_id)
        self.unrecorded.discard(session_id)

    def last_words(self) -> str:
        """The end of what the server printed."""
        return tail(self.instance_dir.output)

    async def get(self, path: str, *, timeout_s: float = HTTP_LIMIT_S) -> Any:
        """GET a route of the server's working folder; its JSON. Raises NoAnswerError and SetupError."""
        answer = await self.find(path, timeout_s=timeout_s)
        if answer.status != HTTPStatus.OK:
            raise SetupError("unknown", raw_message=f"opencode refused {path}: {_refusal(answer)}")
        return answer.json()

    async def find(self, path: str, *, timeout_s: float = HTTP_LIMIT_S) -> Response:
        """GET a route that may not be there; the answer, whatever its status. Raises NoAnswerError."""
        if self.is_closing:
            raise NoAnswerError(CLOSED)
        return await self.client.get(path, timeout_s=timeout_s)

    async def read_back(
        self, session_id: str, unpriced: frozenset[str], parent_id: str | None = None
    ) -> list[Session]:
        """A session and its children, root first, as the database has them."""
        messages: Sequence[Mapping[str, Any]] = await self.get(f"/session/{session_id}/message")
        found = [session_of(session_id, messages, parent_id=parent_id, unpriced=unpriced)]
        for child in await self.get(f"/session/{session_id}/children"):
            found += await self.read_back(child["id"], unpriced, session_id)
        return found

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = HTTP_LIMIT_S
    ) -> Response:
        """POST to a route; ``timeout_s`` None waits for ever (the caller keeps the clocks).

        Raises NoAnswerError.
        """
        if self.is_closing:
            raise NoAnswerError(CLOSED)
        return await self.client.post(path, body, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """End the server and remove its folders; an unrecorded session's data stays.

        Once that is recorded too, a further call removes the rest.
        """
        self.is_closing = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        # First the process: a request that is still in flight sees its connection break, and ends.
        await asyncio.to_thread(self.process.stop)
        with contextlib.suppress(Exception):
            await self.client.aclose()
        self._credentials.close()
        await asyncio.to_thread(self.instance_dir.remove)

    async def _read_events(self) -> None:
        while True:
            # Of all folders at once (/global/event) opencode tells each change twice.
            async with contextlib.aclosing(self.client.events()) as events:
                with contextlib.suppress(NoAnswerError):
                    is_new = True
                    async for data in events:
                        if is_new and self._connected.is_set():
                            # A session that began meanwhile has lost events too.
                            self.gaps += 1
                        is_new = False
                        self._connected.set()
                        self._take(data)
            self.gaps += 1
            await asyncio.sleep(0.2)

    def _take(self, data: str) -> None:
        try:
            state = self.fold.add(mapping_in(json.loads(data)), time.monotonic())
        except Exception:  # noqa: BLE001  an event unlike any we know must not end the reading of others
            # Not the event itself: prompts and answers are in it.
            _log.warning("an event cannot be read; what is in flight is read back instead", exc_info=True)
            self.gaps += 1
            return
        if state is not None and state.asked_permissions:
            self._refuse(state)

    def _refuse(self, state: SessionEvents) -> None:
        for request_id in state.new_requests():
            task = asyncio.create_task(self._refuse_one(request_id, state.asked_permissions[request_id]))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)

    async def _refuse_one(self, request_id: str, permission: str) -> None:
        """Refuse a request: nobody is there to grant it, and unanswered it waits for ever."""
        with contextlib.suppress(NoAnswerError):
            if permission == "question":
                await self.post(f"/question/{request_id}/reject")
            else:
                await self.post(f"/permission/{request_id}/reply", {"reply": "reject"})


def plugin_is_loaded(journal: Path) -> bool:
    """Whether the plugin wrote its first line into the journal."""
    with contextlib.suppress(OSError), journal.open() as lines:
        return any('"kind":"loaded"' in line for line in lines)
    return False


def tail(path: Path, limit: int = 4000) -> str:
    """The end of a text file; empty where there is none."""
    try:
        return path.read_bytes()[-limit:].decode(errors="replace")
    except OSError:
        return ""


async def _listening_at(process: GuardedProcess, instance_dir: InstanceDir) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        for line in tail(instance_dir.output).splitlines():
            if LISTENING in line:
                return line.partition(LISTENING)[2].strip()
        if process.poll() is not None:
            break
        await asyncio.sleep(0.05)
    words = tail(instance_dir.output, 800).strip() or "it printed nothing"
    raise SetupError(
        "unknown",
        raw_message=f"opencode serve did not start: {words}",
        hint="check the opencode config (--opencode-config), then: opencode-tasks doctor",
    )


def _refusal(answer: Response) -> str:
    """Opencode's own words; of a config that it refuses, each fault with its place in the config."""
    try:
        told: Any = answer.json()
    except ValueError:
        return answer.text[:800]
    data = mapping_in(mapping_in(told).get("data"))
    issues = [mapping_in(issue) for issue in list_in(data.get("issues"))]
    faults = [f"{'.'.join(map(str, list_in(issue.get('path'))))}: {issue.get('message')}" for issue in issues]
    words = (
        f"{told['name']}: {'; '.join(faults)}" if faults and "name" in told else data.get("message") or told
    )
    return str(words)[:800]
