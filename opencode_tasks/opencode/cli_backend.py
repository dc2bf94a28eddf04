"""Backend ``cli``: rows through ``opencode run``, one process per row.

Each row has its own instance directory. The plugin writes opencode's events to its journal, so clocks,
child sessions and inner retries are known as with a server. The events of a prompt that ended add up to the
messages of its session (``outcomes/event_stream.py``). A session with events that are not known, as after
a stop or without the plugin, is read by ``opencode export``: one more start of opencode.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from opencode_tasks.attachments.file_cache import FileCache
from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.domain.records import Session
from opencode_tasks.domain.sandbox import RelayCount
from opencode_tasks.domain.work import WorkspaceRequest
from opencode_tasks.errors import SetupError, WorkspaceError
from opencode_tasks.opencode.attach import attached
from opencode_tasks.opencode.backend import (
    BackendName,
    KeptSession,
    OnSession,
    OpencodeSpec,
    Request,
)
from opencode_tasks.opencode.cli_run import CliRun
from opencode_tasks.opencode.confinement import Place, placed
from opencode_tasks.opencode.credentials import Credentials
from opencode_tasks.opencode.disk_space import check_space
from opencode_tasks.opencode.instance_dir import (
    InstanceDir,
    environment,
    instance_dirs_root,
    make_instance_dir,
)
from opencode_tasks.opencode.kept_sessions import keep_session, take_session
from opencode_tasks.opencode.leftovers import forget_session, instance_dir_of
from opencode_tasks.opencode.price_list import write_price_list
from opencode_tasks.opencode.secret_values import SpecSecrets
from opencode_tasks.opencode.server import plugin_is_loaded, tail
from opencode_tasks.opencode.server_backend import (
    check_clocks,
    last_sign,
    longest_wait_s,
    sessions_from_events,
)
from opencode_tasks.opencode.session_export import (
    EXPORT_LIMIT_S,
    MAX_OUTPUT_BYTES,
    exported_family,
    exported_messages,
)
from opencode_tasks.opencode.session_store import session_store
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.cli_output import parse_events, parse_run_error
from opencode_tasks.outcomes.session_messages import has_known_usage
from opencode_tasks.sandbox.cell import sandbox_problem
from opencode_tasks.system import GuardedProcess, run_command
from opencode_tasks.system.ray_node import current_node_id
from opencode_tasks.system.stoppable_thread import in_stoppable_thread
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.place import Workspace
from opencode_tasks.workspace.program import start_program

POLL_INTERVAL_S = 0.1
EXPORT_TRIES = 2
NO_SANDBOX = "Make bubblewrap work on this machine, or give --sandbox none to run without a sandbox."


class CliBackend:
    """The ``cli`` backend: two rows share nothing."""

    name: BackendName = "cli"

    def __init__(self, spec: OpencodeSpec, unpriced: frozenset[str] = frozenset()) -> None:
        self.unpriced = unpriced
        kind = None if spec.sandbox is None else spec.sandbox.kind
        if kind is not None and (problem := sandbox_problem(kind)) is not None:
            raise SetupError(current_node_id(), raw_message=problem, hint=NO_SANDBOX)
        self._spec = spec
        self._store = session_store(spec)
        self._secrets = SpecSecrets(spec)
        self._homes: dict[str, InstanceDir] = {}
        # The last run of each session.
        self._runs: dict[str, CliRun] = {}
        # Requests of the sessions that left their sandbox, those of earlier prompts included.
        self._relayed: dict[str, RelayCount] = {}
        self._folder = instance_dirs_root() / f"cli-{uuid.uuid4().hex[:12]}"
        self._folder.mkdir(parents=True, mode=0o700)
        self._keeper = GuardedProcess.watch(instance_dirs=[self._folder])
        # The guards of the directories that other processes have made.
        self._keepers: dict[str, GuardedProcess] = {}

    async def aclose(self) -> None:
        """Remove the recorded sessions. The directory of an unrecorded or kept session stays."""
        # A guard leaves locked directories alone: others may have taken them.
        for instance_dir in self._homes.values():
            instance_dir.release()
        for keeper in (self._keeper, *self._keepers.values()):
            await asyncio.to_thread(keeper.stop)

    def data_dir(self, session_id: str | None) -> Path | None:
        """Data directory of the session; None if it does not exist yet."""
        instance_dir = self._homes.get(session_id or "")
        return instance_dir.data if instance_dir else None

    def partial_sessions(self, session_id: str) -> list[Session]:
        """The session and its children, from the events of the journal so far."""
        run = self._runs.get(session_id)
        found = [] if run is None else sessions_from_events(run.fold, session_id, self.unpriced)
        return self._secrets.mask.sessions(found)

    def release_session(self, session_id: str) -> None:
        """Remove the instance directory of the session."""
        instance_dir = self._forget(session_id)
        if instance_dir is None:
            return
        if instance_dir.root.parent != self._folder:
            forget_session(instance_dir, session_id)
            return
        instance_dir.unmark(session_id)
        instance_dir.remove()

    async def keep_session(self, session_id: str, attempt_id: str) -> bool:
        """See ``Backend.keep_session``."""
        return await asyncio.to_thread(self._keep_session, session_id, attempt_id)

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """See ``Backend.take_session``."""
        return await asyncio.to_thread(self._take_session, kept, attempt_id)

    def _keep_session(self, session_id: str, attempt_id: str) -> bool:
        # Its guard ends first: the directory may have a new owner when it is released.
        instance_dir = self._forget(session_id)
        if instance_dir is None:
            return False
        keep_session(instance_dir, session_id, attempt_id, self._store)
        return True

    def _take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        instance_dir, session_id = instance_dir_of(kept.data_dir), kept.session_id
        user_config = self._spec.sandbox is None
        if not take_session(instance_dir, kept, attempt_id, user_config=user_config, store=self._store):
            return False
        self._homes[session_id] = instance_dir
        self._keepers[session_id] = GuardedProcess.watch(instance_dirs=[instance_dir.root])
        return True

    def _forget(self, session_id: str) -> InstanceDir | None:
        """Forget a session; returns its instance directory."""
        for known in (self._runs, self._relayed):
            known.pop(session_id, None)
        keeper = self._keepers.pop(session_id, None)
        if keeper is not None:
            keeper.stop()
        return self._homes.pop(session_id, None)

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        """See ``Backend.run``.

        Raises SetupError if the disk is full, WorkspaceError without a workspace, and AttachedFileError if a
        file cannot be attached.
        """
        spec = replace(self._spec, system=request.system or self._spec.system)
        known = self._homes.get(request.session_id or "")
        instance_dir = known or await asyncio.to_thread(
            make_instance_dir, self._folder, user_config=spec.sandbox is None
        )
        provider = spec.model_ref.partition("/")[0] if spec.model_ref else None
        credentials = Credentials(provider, spec.secrets)
        result: SessionResult | None = None
        try:
            if request.workspace is not None and known is None:
                await in_stoppable_thread(partial(make_workspace, request.workspace, instance_dir))
            env = await asyncio.to_thread(environment, instance_dir, spec, password=None, journal_events=True)
            if request.system is not None:
                system = instance_dir.run / "system.txt"
                system.touch(mode=0o600)
                system.write_bytes(request.system.encode())
                env["OPENCODE_TASKS_SYSTEM_FILE"] = str(system)
            if request.max_cost_pico is not None:
                # Opencode does not read the sessions of former sub-agents again.
                env["OPENCODE_TASKS_MAX_COST_PICO"] = str(request.max_cost_pico - request.children_pico)
                env["OPENCODE_TASKS_PRICE_LIST"] = str(write_price_list(instance_dir.run, request.prices))
            env |= credentials.install(instance_dir.data)
            for old in (instance_dir.journal, instance_dir.output):
                old.unlink(missing_ok=True)
            folder = work_folder(request, spec, instance_dir)
            files = FileCache(instance_dir.run / "files")
            async with (
                attached(files, request, self.partial_sessions) as found,
                placed(instance_dir, spec, env | file_list(found, request, instance_dir), folder) as place,
            ):
                result = await self._run(request, instance_dir, spec, place, on_session)
            if result.is_opencode_fault:
                check_space(instance_dir.root)
            return self._secrets.mask.result(result)
        finally:
            credentials.close()
            if result is None or result.session_id is None:
                instance_dir.remove()

    async def _run(
        self,
        request: Request,
        instance_dir: InstanceDir,
        spec: OpencodeSpec,
        place: Place,
        on_session: OnSession,
    ) -> SessionResult:
        prompt = instance_dir.run / "prompt.txt"
        prompt.touch(mode=0o600)
        prompt.write_bytes(request.prompt.encode())
        earlier = self._runs.get(request.session_id or "")
        run = CliRun(instance_dir, given_id=request.session_id, earlier=earlier)
        process = await asyncio.to_thread(
            start_program,
            run_arguments(request, spec, instance_dir),
            cell=place.cell,
            env=place.env,
            stdin=prompt,
            stdout=run.stdout,
            stderr=instance_dir.run / "stderr.txt",
            folder=instance_dir.root,
        )
        try:
            stopped = await self._wait(process, run, on_session, request.attempt_id)
            if process.exceeded is not None:
                stopped = Stopped(limit=place.cell.exceeded_message(process.exceeded))
            return await self._collect(process, run, spec, place, stopped)
        finally:
            await asyncio.to_thread(process.stop)

    async def _wait(
        self, process: GuardedProcess, run: CliRun, on_session: OnSession, attempt_id: str
    ) -> Stopped | None:
        started, is_reported = time.monotonic(), False
        while True:
            ended = process.poll() is not None
            now = time.monotonic()
            run.read(now)
            if run.session_id is not None and not is_reported:
                is_reported = True
                self._homes[run.session_id] = run.instance_dir
                self._runs[run.session_id] = run
                run.instance_dir.mark(run.session_id, attempt_id)
                on_session(run.session_id)
            if ended:
                return None
            if run.size_bytes > MAX_OUTPUT_BYTES:
                await asyncio.to_thread(process.stop)
                return Stopped(limit=f"opencode wrote more than {MAX_OUTPUT_BYTES:,} bytes of events")
            # The plugin enforces cost and steps. Without it, there are no events with which to do it here.
            stopped = self._must_stop(run, now, started)
            if stopped is not None:
                await asyncio.to_thread(process.stop)
                run.read(time.monotonic())
                return stopped
            await asyncio.sleep(POLL_INTERVAL_S)

    def _must_stop(self, run: CliRun, now: float, started: float) -> Stopped | None:
        key = run.session_id or ""
        for state in run.fold.family(key):
            retry = state.retry
            if (
                retry
                and retry.next_at
                and retry.next_at.timestamp() - time.time()
                > longest_wait_s(self._spec, plugin_loaded=plugin_is_loaded(run.instance_dir.journal))
            ):
                return Stopped(wait=retry)
        first, last = run.fold.first_sign.get(key), last_sign(run.fold, key, started)
        return check_clocks(
            self._spec.clocks,
            now=now,
            started=started,
            first_sign=first,
            last_sign=last,
            tool_since=run.fold.tool_since(key),
        )

    async def _collect(
        self,
        process: GuardedProcess,
        run: CliRun,
        spec: OpencodeSpec,
        place: Place,
        stopped: Stopped | None,
    ) -> SessionResult:
        output = run.stdout.read_text(encoding="utf-8", errors="replace") if run.stdout.exists() else ""
        session_id = run.session_id
        sessions: list[Session] = []
        notes: list[str] = []
        if session_id is not None:
            sessions = await self._read_sessions(run, session_id, spec, place, notes)
        if spec.use_plugin and not plugin_is_loaded(run.instance_dir.journal):
            notes.append("the opencode plugin did not load: waits are read from opencode's own messages")
        events = parse_events(output)
        family = run.fold.family(session_id or "")
        exit_code = process.poll()
        return SessionResult(
            session_id=session_id,
            sessions=sessions,
            error=parse_run_error(output) or (family[0].error if family else None),
            stopped=stopped,
            inner_retries=[retry for member in family for retry in member.inner_retries],
            denied_tools=tuple(name for member in family for name in member.asked_permissions.values()),
            stream_text=stream_text(events),
            exit_code=-1 if exit_code is None else exit_code,
            stderr=tail(run.instance_dir.run / "stderr.txt"),
            events=events,
            usage_known=stopped is None
            and bool(sessions)
            and has_known_usage(sessions)
            and not any(member.lost_calls for member in family),
            notes=(*notes, *place.notes()),
            relay=self._count(session_id, place),
            attached_files=run.attached_files,
        )

    def _count(self, session_id: str | None, place: Place) -> RelayCount | None:
        """The requests of a session that left its sandbox; None without one."""
        if place.count is None or session_id is None:
            return place.count
        self._relayed[session_id] = self._relayed.get(session_id, RelayCount()) + place.count
        return self._relayed[session_id]

    async def _read_sessions(
        self, run: CliRun, session_id: str, spec: OpencodeSpec, place: Place, notes: list[str]
    ) -> list[Session]:
        """The root session and its children: from the journal, or from exports if it lacks events."""
        if run.has_every_event:
            return sessions_from_events(run.fold, session_id, self.unpriced)
        in_journal = {state.session_id: state for state in run.fold.family(session_id)}

        def export(key: str) -> Sequence[Mapping[str, Any]] | None:
            messages = _exported(key, run.instance_dir, spec, place)
            if messages is None:
                notes.append(f"opencode export {key} failed {EXPORT_TRIES} times")
                return in_journal[key].messages if key in in_journal else None
            return messages

        known = {key: state.parent_id for key, state in in_journal.items()}
        return await exported_family(session_id, export, self.unpriced, known)


def _exported(
    session_id: str, instance_dir: InstanceDir, spec: OpencodeSpec, place: Place
) -> list[Mapping[str, Any]] | None:
    """The messages of a session by ``opencode export``; None if it fails."""
    args = place.cell.command([str(spec.binary), "export", session_id])
    folder = place.cell.view.cwd
    for number in range(EXPORT_TRIES):
        target = instance_dir.run / f"export-{number}.json"
        finished = run_command(args, env=place.env, cwd=folder, timeout_s=EXPORT_LIMIT_S, stdout=target)
        messages = exported_messages(target)
        if finished.returncode == 0 and messages is not None:
            return messages
    return None


def make_workspace(request: WorkspaceRequest, instance_dir: InstanceDir, stop: Event) -> None:
    """Make the workspace of an instance directory. Raises WorkspaceError if it cannot be made.

    ``stop`` ends the setup command.
    """
    try:
        Workspace(instance_dir.root).make(request, stop)
    except WorkspaceFaultError as fault:
        check_space(instance_dir.root)
        raise WorkspaceError(current_node_id(), raw_message=str(fault)) from None


def file_list(files: list[dict[str, Any]], request: Request, instance_dir: InstanceDir) -> dict[str, str]:
    """The variable that names the list of the files of a new session. Writes the list."""
    if not files or request.session_id is not None:
        return {}
    path = instance_dir.run / "files.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(files), encoding="utf-8")
    return {"OPENCODE_TASKS_FILES": str(path)}


def work_folder(request: Request, spec: OpencodeSpec, instance_dir: InstanceDir) -> Path:
    """The folder in which opencode works."""
    if request.workspace is not None:
        return Workspace(instance_dir.root).tree
    return spec.work_dir or instance_dir.work


def run_arguments(request: Request, spec: OpencodeSpec, instance_dir: InstanceDir) -> list[str]:
    """The command line. The prompt is not in it: only standard input passes it unchanged."""
    directory = str(work_folder(request, spec, instance_dir))
    args = [str(spec.binary), "run", "--format", "json", "--title", request.title]
    args += ["--agent", request.agent, "--dir", directory]
    if request.model_ref:
        args += ["--model", request.model_ref]
    if request.variant:
        args += ["--variant", request.variant]
    if request.session_id:
        args += ["--session", request.session_id]
    return [*args, *spec.extra_cli_args]


def stream_text(events: list[dict[str, Any]]) -> str:
    """The text parts of a ``run --format json`` stream, joined."""
    parts = [mapping_in(event.get("part")) for event in events if event.get("type") == "text"]
    return "".join(text_in(part.get("text")) or "" for part in parts)
