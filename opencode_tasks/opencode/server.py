"""One running ``opencode serve``: its process, its HTTP client and its event stream."""

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
from typing import Any, Final, Self

import psutil

from opencode_tasks.attachments.file_cache import FileCache
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.records import Session
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.binary import PINNED_VERSION, check_version, is_untested, version_to_run
from opencode_tasks.opencode.capabilities import check_capabilities
from opencode_tasks.opencode.client import HTTP_LIMIT_S, Client, NoAnswerError, Response
from opencode_tasks.opencode.credentials import Credentials
from opencode_tasks.opencode.instance_dir import InstanceDir, environment, make_instance_dir
from opencode_tasks.opencode.journal import JournalReader
from opencode_tasks.opencode.secret_values import SpecSecrets
from opencode_tasks.outcomes.event_stream import EventFold, SessionEvents
from opencode_tasks.outcomes.session_messages import session_of
from opencode_tasks.system import GuardedProcess

START_LIMIT_S = 60.0
LISTENING = "listening on "
CLOSED = "the opencode server has ended"
MESSAGE_LIMIT = 800

_log = logging.getLogger(__name__)


class OpencodeServer:
    """A running server, its HTTP client and the reader of its event stream. Used on one event loop.

    Attributes:
        fold: Sessions as the event stream reports them.
        gaps: Number of times that events may have been lost.
        plugin_loaded: Whether the plugin is loaded, which makes provider errors final and exact.
        session_count: Number of sessions opened on this server.
        unrecorded: Ids of the sessions that are not recorded yet, or that are kept for another attempt.
        reopened: Ids of the sessions of a former process, of which ``fold`` has no earlier events.
        active_requests: Number of requests that the server works on.
        is_closing: Whether ``aclose`` was called.
        files: Copies of the files that are attached to prompts.
        attached_files: Number of files that the plugin attached, by session.
    """

    def __init__(
        self,
        process: GuardedProcess,
        instance_dir: InstanceDir,
        client: Client,
        credentials: Credentials,
        secrets: SpecSecrets,
    ) -> None:
        self.process = process
        self.instance_dir = instance_dir
        self.client = client
        self.fold: Final = EventFold()
        self.gaps: int = 0
        self.plugin_loaded: bool = False
        self.session_count: int = 0
        self.unrecorded: set[str] = set()
        self.reopened: set[str] = set()
        self.active_requests: int = 0
        self.is_closing: bool = False
        self.files: Final = FileCache(instance_dir.run / "files")
        self.attached_files: Final[dict[str, int]] = {}
        self._credentials = credentials
        self._secrets = secrets
        self._journal = JournalReader(instance_dir.journal)
        self._connected = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._replies: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls, spec: OpencodeSpec, *, over: InstanceDir | None = None, has_logins: bool = False
    ) -> Self:
        """Start a server for ``spec`` and wait until it answers.

        ``over`` is an instance directory to use, with the user's logins if ``has_logins``; None makes a new
        one with them. Raises SetupError if the version is not supported or the server does not start.
        """
        version = version_to_run(spec.binary)
        check_version(version)
        password = secrets.token_urlsafe(24)
        provider = spec.model_ref.partition("/")[0] if spec.model_ref else None
        credentials = Credentials(provider, spec.secrets)
        spec_secrets = SpecSecrets(spec)
        instance_dir = over or make_instance_dir()
        starting: asyncio.Task[GuardedProcess] | None = None
        try:
            logins = credentials.install(instance_dir.data) if over is None or has_logins else {}
            env = await asyncio.to_thread(
                environment, instance_dir, spec, password=password, journal_events=False
            )
            env |= logins
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
            url = await _listening_at(process, instance_dir, spec_secrets)
        except BaseException:
            if starting is not None:
                # Even if this task is cancelled, the thread starts a process, which must be ended.
                with contextlib.suppress(SetupError):
                    await asyncio.to_thread((await starting).stop)
            credentials.close()
            instance_dir.remove()
            raise
        client = Client(url, password, str(spec.work_dir or instance_dir.work))
        server = cls(process, instance_dir, client, credentials, spec_secrets)
        try:
            await server._open(spec)
            if is_untested(version):
                await check_capabilities(server, version, needs_plugin=spec.use_plugin)
        except BaseException:
            await server.aclose()
            raise
        return server

    async def _open(self, spec: OpencodeSpec) -> None:
        try:
            # With the first request in a directory, opencode loads its config and plugins there. Only the
            # response to it shows the faults of a config that opencode refuses.
            await self.get("/agent", timeout_s=START_LIMIT_S)
            self._reader = asyncio.create_task(self._read_events())
            async with asyncio.timeout(START_LIMIT_S):
                await self._connected.wait()
        except (TimeoutError, NoAnswerError) as error:
            detail = self.output_tail()[-MESSAGE_LIMIT:].strip() or type(error).__name__
            raise SetupError(
                "unknown",
                raw_message=self._secrets.mask.text(f"opencode serve did not answer: {detail}"),
                hint="Check the installation with `opencode-tasks doctor`.",
            ) from None
        self.plugin_loaded = plugin_is_loaded(self.instance_dir.journal) if spec.use_plugin else False

    @property
    def is_running(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    @property
    def is_idle(self) -> bool:
        """Whether no request is active and every session is recorded."""
        return not self.active_requests and not self.unrecorded

    @property
    def has_exclusive_login(self) -> bool:
        """Whether the server uses a login that only one server at a time may use."""
        return self._credentials.is_exclusive

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the opencode process in bytes, without its children; 0 after its end."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def read_journal(self) -> None:
        """Read what the plugin has reported since the last call: signs of life, lost calls, files."""
        for record in self._journal.new_records():
            if record.get("kind") == "files":
                self.attached_files[str(record.get("session"))] = int(record.get("count") or 0)
            if record.get("kind") == "alive":
                self.fold.add_alive(text_in(record.get("session")), time.monotonic())
            if record.get("kind") == "lost":
                self.fold.add_lost_call(text_in(record.get("session")))

    def mark_unrecorded(self, session_id: str, attempt_id: str) -> None:
        """Keep a session of an attempt until ``mark_recorded``, even if this process is killed."""
        self.instance_dir.mark(session_id, attempt_id)
        self.unrecorded.add(session_id)

    def mark_recorded(self, session_id: str) -> None:
        """Forget a session that is recorded in the ledger."""
        self.instance_dir.unmark(session_id)
        self.fold.forget(session_id)
        self.unrecorded.discard(session_id)
        self.attached_files.pop(session_id, None)

    def output_tail(self) -> str:
        """End of the output of the server."""
        return tail(self.instance_dir.output)

    async def get(self, path: str, *, timeout_s: float = HTTP_LIMIT_S) -> Any:
        """GET a route; the JSON of the response.

        Raises NoAnswerError if there is no response, SetupError if its status is not 200 or it is not JSON.
        """
        response = await self.get_response(path, timeout_s=timeout_s)
        if response.status != HTTPStatus.OK:
            message = f"opencode refused {path}: {_error_message(response)}"
            raise SetupError("unknown", raw_message=self._secrets.mask.text(message))
        try:
            return response.json()
        except ValueError:
            # Opencode 2 answers the routes of opencode 1 with its web page.
            raise SetupError(
                "unknown",
                raw_message=f"opencode answered {path} with something else than JSON; is this opencode 2?",
                hint=f"Run `opencode-tasks setup`: it installs {PINNED_VERSION}.",
            ) from None

    async def get_response(self, path: str, *, timeout_s: float = HTTP_LIMIT_S) -> Response:
        """GET a route; the response, whatever its status. Raises NoAnswerError."""
        if self.is_closing:
            raise NoAnswerError(CLOSED)
        return await self.client.get(path, timeout_s=timeout_s)

    async def read_sessions(
        self, session_id: str, unpriced: frozenset[str], parent_id: str | None = None
    ) -> list[Session]:
        """A session and its children, root first, read from opencode's database.

        Raises NoAnswerError and SetupError as ``get`` does.
        """
        messages: Sequence[Mapping[str, Any]] = await self.get(f"/session/{session_id}/message")
        found = [session_of(session_id, messages, parent_id=parent_id, unpriced=unpriced)]
        for child in await self.get(f"/session/{session_id}/children"):
            found += await self.read_sessions(child["id"], unpriced, session_id)
        return found

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = HTTP_LIMIT_S
    ) -> Response:
        """POST to a route; the response, whatever its status. Raises NoAnswerError.

        ``timeout_s`` None sets no limit: the caller watches the clocks.
        """
        if self.is_closing:
            raise NoAnswerError(CLOSED)
        return await self.client.post(path, body, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """End the server and remove its instance directory. The data of unrecorded sessions stays.

        A second call, after the last session is recorded, removes the data too.
        """
        self.is_closing = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        # The process ends before the client: the connection of a request in flight breaks, and it ends.
        await asyncio.to_thread(self.process.stop)
        with contextlib.suppress(Exception):
            await self.client.aclose()
        self._credentials.close()
        await asyncio.to_thread(self.instance_dir.remove)

    async def _read_events(self) -> None:
        while True:
            # The stream of all directories (/global/event) would report each change twice.
            async with contextlib.aclosing(self.client.events()) as events:
                with contextlib.suppress(NoAnswerError):
                    is_new = True
                    async for data in events:
                        if is_new and self._connected.is_set():
                            # Sessions opened since the last connection have lost events too.
                            self.gaps += 1
                        is_new = False
                        self._connected.set()
                        self._add_event(data)
            self.gaps += 1
            await asyncio.sleep(0.2)

    def _add_event(self, data: str) -> None:
        try:
            state = self.fold.add(mapping_in(json.loads(data)), time.monotonic())
        except Exception:  # noqa: BLE001  one unknown event must not stop the reader for all sessions
            # The event is not logged: it contains prompts and answers.
            _log.warning(
                "cannot read an event of opencode; sessions in flight are read from its database instead",
                exc_info=True,
            )
            self.gaps += 1
            return
        if state is not None and state.asked_permissions:
            self._refuse_permissions(state)

    def _refuse_permissions(self, state: SessionEvents) -> None:
        for request_id in state.new_requests():
            task = asyncio.create_task(self._refuse(request_id, state.asked_permissions[request_id]))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)

    async def _refuse(self, request_id: str, permission: str) -> None:
        """Refuse a permission request: without a reply, opencode would wait forever."""
        with contextlib.suppress(NoAnswerError):
            if permission == "question":
                await self.post(f"/question/{request_id}/reject")
            else:
                await self.post(f"/permission/{request_id}/reply", {"reply": "reject"})


def plugin_is_loaded(journal: Path) -> bool:
    """Whether the journal contains the line that the plugin writes when it is loaded."""
    with contextlib.suppress(OSError), journal.open() as lines:
        return any('"kind":"loaded"' in line for line in lines)
    return False


def tail(path: Path, limit: int = 4000) -> str:
    """Last ``limit`` bytes of a text file; empty if there is no file."""
    try:
        return path.read_bytes()[-limit:].decode(errors="replace")
    except OSError:
        return ""


async def _listening_at(process: GuardedProcess, instance_dir: InstanceDir, secrets: SpecSecrets) -> str:
    """URL of the server, read from its output. Raises SetupError if it does not start."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        for line in tail(instance_dir.output).splitlines():
            if LISTENING in line:
                return line.partition(LISTENING)[2].strip()
        if process.poll() is not None:
            break
        await asyncio.sleep(0.05)
    detail = tail(instance_dir.output, MESSAGE_LIMIT).strip() or "it printed nothing"
    raise SetupError(
        "unknown",
        raw_message=secrets.mask.text(f"opencode serve did not start: {detail}"),
        hint="Check the opencode config (--opencode-config), then run `opencode-tasks doctor`.",
    )


def _error_message(response: Response) -> str:
    """Opencode's message; for a config that it refuses, each fault with its path in the config."""
    try:
        body: Any = response.json()
    except ValueError:
        return response.text[:MESSAGE_LIMIT]
    data = mapping_in(mapping_in(body).get("data"))
    issues = [mapping_in(issue) for issue in list_in(data.get("issues"))]
    faults = [f"{'.'.join(map(str, list_in(issue.get('path'))))}: {issue.get('message')}" for issue in issues]
    if faults and "name" in body:
        return f"{body['name']}: {'; '.join(faults)}"[:MESSAGE_LIMIT]
    return str(data.get("message") or body)[:MESSAGE_LIMIT]
