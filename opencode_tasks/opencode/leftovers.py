"""Instance directories of processes that were killed, and the sessions in them.

An instance directory stays after its process is killed while it has an unrecorded session
(``system/process_guard.py``). Its database (SQLite, mostly in the write-ahead log) is copied, and a server
without the user's providers, plugins and logins reads the copy, so that the original never changes.
Opencode 1.18 finds a session by its id from any directory, continues no session when it starts, and
answers 404 for a session that it does not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

from opencode_tasks.domain.json_values import mapping_in, time_in
from opencode_tasks.domain.records import AttemptRecord, Session
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.client import NoAnswerError
from opencode_tasks.opencode.instance_dir import (
    KEPT,
    InstanceDir,
    environment,
    instance_dirs_root,
    is_locked,
    make_instance_dir,
)
from opencode_tasks.opencode.model_catalogue import PATH_VARIABLE
from opencode_tasks.opencode.secret_values import SpecSecrets
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.opencode.session_export import (
    EXPORT_LIMIT_S,
    SESSION_ID,
    exported_family,
    exported_messages,
)
from opencode_tasks.outcomes.backend_result import SessionResult
from opencode_tasks.outcomes.session_messages import (
    after_last_prompt,
    assistant_messages,
    finish_reason,
    has_known_usage,
    has_tool_call,
    is_summary,
    last_error,
)
from opencode_tasks.sandbox.cell import Cell, passed_variables
from opencode_tasks.sandbox.view import TEMP, View
from opencode_tasks.settings import settings
from opencode_tasks.system import run_command

# Logins may rotate, SQLite rebuilds the index of its log, and opencode's logs are not needed.
NOT_COPIED = ("auth.json", "*-shm", "log")
ABORTED = "MessageAbortedError"
NO_PROVIDER = "none"
# After a step with this finish reason opencode calls the model again.
CONTINUES = "tool-calls"


def instance_dir_of(data_dir: Path) -> InstanceDir:
    """The instance directory with this data directory, which is ``attempts.data_dir`` in the ledger."""
    return InstanceDir(root=data_dir.parent)


def is_orphaned(instance_dir: InstanceDir) -> bool:
    """Whether no process has locked an instance directory or works in it.

    False for a directory without a lock file.
    """
    return not is_locked(instance_dir) and not _has_process(instance_dir)


def instance_dirs() -> list[InstanceDir]:
    """All instance directories, by path, those in the directory of a CliBackend included."""
    parent = instance_dirs_root()
    marks = [*parent.glob("*/unrecorded"), *parent.glob("*/*/unrecorded")]
    return [InstanceDir(root=path.parent) for path in sorted(marks)]


def remove_orphaned_dirs() -> None:
    """Remove the instance directories of killed processes, except the data of unrecorded and kept sessions.

    The guard of a process removes them at once. This is for guards that were killed too, as when the
    machine is switched off. A kept session is removed if no attempt has continued it for as long as a run may
    be suspended.
    """
    oldest = time.time() - settings().suspend_timeout
    for instance_dir in instance_dirs():
        marked = list(_marked([instance_dir]))
        kept = [session for text, _, session in marked if text.startswith(KEPT)]
        old = [session for session in kept if _marked_at(instance_dir, session) < oldest]
        has_nothing = bool(marked) and not old and not instance_dir.run.exists()
        # Checked last, since it looks at every process of the machine.
        if has_nothing or not is_orphaned(instance_dir):
            continue
        for session_id in old:
            instance_dir.unmark(session_id)
        instance_dir.remove()


def _marked_at(instance_dir: InstanceDir, session_id: str) -> float:
    """Time of a mark in seconds since 1970; that of now if it is gone."""
    try:
        return (instance_dir.marks / session_id).stat().st_mtime
    except OSError:
        return time.time()


def unrecorded_sessions(among: Iterable[InstanceDir]) -> dict[str, tuple[Path, str]]:
    """Data directory and session id of each unrecorded session, by the id of its attempt.

    A session can be marked here before the ledger has its id, and for a short time after it is recorded.
    """
    marked = _marked(among)
    return {text: (folder.data, session) for text, folder, session in marked if not text.startswith(KEPT)}


def kept_sessions(among: Iterable[InstanceDir]) -> dict[str, tuple[Path, str]]:
    """Data directory and session id of each kept session, by the id of the attempt that left it."""
    return {
        text.removeprefix(KEPT): (folder.data, session)
        for text, folder, session in _marked(among)
        if text.startswith(KEPT)
    }


def _marked(among: Iterable[InstanceDir]) -> Iterator[tuple[str, InstanceDir, str]]:
    """The marks of instance directories: text, directory and session."""
    for instance_dir in among:
        # A process that still runs removes the mark of each session that it records.
        with contextlib.suppress(OSError):
            for mark in instance_dir.marks.iterdir():
                yield mark.read_text(), instance_dir, mark.name


async def read_orphaned_sessions(
    spec: OpencodeSpec, data_dir: Path, session_ids: Sequence[str], unpriced: frozenset[str]
) -> dict[str, list[Session]]:
    """Sessions in an orphaned instance directory, by id, each followed by its children.

    A session that is not in the database (its process was killed before the write), or whose data was
    removed, is missing in the result. No provider is called. Raises SetupError if a process still works
    in the directory or opencode cannot read it; then nothing is known about the sessions.
    """
    if not session_ids or not await asyncio.to_thread(data_dir.is_dir):
        return {}
    if not await asyncio.to_thread(is_orphaned, instance_dir_of(data_dir)):
        raise SetupError(
            "unknown",
            raw_message=f"the sessions in {data_dir} belong to a process that still runs",
            hint="Wait until the other run ends.",
        )
    try:
        if spec.sandbox is not None:
            # Programs of the row could write this data, so that only a sandbox reads it.
            read = await _read_in_sandbox(spec, data_dir, session_ids, unpriced)
        else:
            async with _server_over_copy(spec, data_dir) as server:
                read = {key: await _read(server, key, unpriced) for key in session_ids}
    except (OSError, NoAnswerError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the sessions in {data_dir}: {type(error).__name__} {error}",
            hint="Check the installation with `opencode-tasks doctor`.",
        ) from None
    mask = SpecSecrets(spec).mask
    return {key: mask.sessions(sessions) for key, sessions in read.items() if sessions}


def forget_session(instance_dir: InstanceDir, session_id: str) -> None:
    """Remove the data of a recorded session, whose directory no other process uses."""
    instance_dir.unmark(session_id)
    instance_dir.remove()
    if instance_dir.root.parent != instance_dirs_root():
        # The directory of a killed CliBackend is empty after its last instance directory.
        with contextlib.suppress(OSError):
            instance_dir.root.parent.rmdir()


def finished_result(sessions: Sequence[Session]) -> SessionResult | None:
    """Result of a recovered session; None if its last prompt was not finished.

    A session is finished if its last message is complete and has an error, or a finish reason after
    which opencode calls the model no more. An abort comes from the killed process, and a tool call, even
    a refused one, continues: then the row must be sent again. Read the outcome with ``ended_at`` as the
    current time, since the provider's waits count from there. Inner retries and refused permissions are
    not known.
    """
    if not sessions:
        return None
    last = assistant_messages(after_last_prompt(sessions[0].messages))[-1:]
    if not last or is_summary(last[0]) or ended_at(sessions) is None:
        return None
    error = last_error(last)
    if error is not None:
        is_finished = error.get("name") != ABORTED
    else:
        is_finished = finish_reason(last) not in (None, CONTINUES) and not has_tool_call(last)
    if not is_finished:
        return None
    is_known = has_known_usage(sessions)
    return SessionResult(session_id=sessions[0].session_id, sessions=sessions, usage_known=is_known)


def ended_at(sessions: Sequence[Session]) -> datetime | None:
    """Time at which the last message of the root session was complete; None if none is complete."""
    messages = assistant_messages(sessions[0].messages) if sessions else []
    times = [mapping_in(mapping_in(message.get("info")).get("time")) for message in messages]
    return time_in(times[-1].get("completed")) if times else None


def unfinished_record(session_id: str, sessions: Sequence[Session] = ()) -> AttemptRecord:
    """Record of a session that was in flight: its finished steps, with unknown usage beyond them."""
    return AttemptRecord(session_id=session_id, sessions=sessions, usage_known=False)


@contextlib.asynccontextmanager
async def _server_over_copy(spec: OpencodeSpec, data_dir: Path) -> AsyncGenerator[OpencodeServer]:
    """Server over a copy of the data, in a new instance directory that is removed afterwards.

    If this process is killed while it copies, ``remove_orphaned_dirs`` removes the directory.
    """
    instance_dir = make_instance_dir(user_config=False)
    try:
        await asyncio.to_thread(_copy, data_dir, instance_dir.data)
        server = await OpencodeServer.start(_reader(spec), over=instance_dir)
        try:
            yield server
        finally:
            await server.aclose()
    finally:
        instance_dir.remove()


def _reader(spec: OpencodeSpec) -> OpencodeSpec:
    """An opencode that reads sessions. It calls no model, and needs none of the catalogue."""
    config: dict[str, Any] = {"provider": {NO_PROVIDER: {}}}
    return OpencodeSpec(
        binary=spec.binary, use_plugin=False, config=config, model_ref=f"{NO_PROVIDER}/{NO_PROVIDER}"
    )


async def _read_in_sandbox(
    spec: OpencodeSpec, data_dir: Path, session_ids: Sequence[str], unpriced: frozenset[str]
) -> dict[str, list[Session]]:
    """The sessions by exports of opencode without network and keys; the tool ``task`` names the children."""
    assert spec.sandbox is not None
    session_ids = [key for key in session_ids if SESSION_ID.fullmatch(key)]
    instance_dir = await asyncio.to_thread(make_instance_dir, user_config=False)
    try:
        await asyncio.to_thread(_copy, data_dir, instance_dir.data)
        (instance_dir.run / "home").mkdir(mode=0o700)
        env = await asyncio.to_thread(
            environment, instance_dir, _reader(spec), password=None, journal_events=False
        )
        kept = {name: value for name, value in env.items() if name.startswith(("OPENCODE_DISABLE_", "XDG_"))}
        if Path(env.get(PATH_VARIABLE, "/")).is_relative_to(instance_dir.root):
            kept[PATH_VARIABLE] = env[PATH_VARIABLE]
        kept |= passed_variables(spec.sandbox, env) | {"HOME": str(instance_dir.run / "home"), "TMPDIR": TEMP}
        view = View(
            temp=instance_dir.run / "tmp",
            cwd=instance_dir.work,
            writable=(instance_dir.root,),
            readable=(spec.binary,),
        )
        cell = Cell(view=view, spec=spec.sandbox)
        return {
            key: await _exported(key, cell, kept, instance_dir, spec.binary, unpriced) for key in session_ids
        }
    finally:
        await asyncio.to_thread(instance_dir.remove)


async def _exported(
    session_id: str,
    cell: Cell,
    env: Mapping[str, str],
    instance_dir: InstanceDir,
    binary: Path,
    unpriced: frozenset[str],
) -> list[Session]:
    """The session and its children, root first; empty if the data does not have it."""

    def export(key: str) -> list[Mapping[str, Any]] | None:
        target = instance_dir.root.with_suffix(".json")
        try:
            args = cell.command([str(binary), "export", key])
            run_command(args, env=env, cwd=instance_dir.work, timeout_s=EXPORT_LIMIT_S, stdout=target)
            return exported_messages(target)
        finally:
            target.unlink(missing_ok=True)

    return await exported_family(session_id, export, unpriced)


def _copy(source: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=ignored)


async def _read(server: OpencodeServer, session_id: str, unpriced: frozenset[str]) -> list[Session]:
    """The session and its children; empty if the database does not have it."""
    response = await server.get_response(f"/session/{session_id}")
    if response.status == HTTPStatus.NOT_FOUND:
        return []
    return await server.read_sessions(session_id, unpriced)


def _has_process(instance_dir: InstanceDir) -> bool:
    """Whether a process works in the directory.

    A guard and its opencode can run for some seconds after their parent was killed.
    """
    root = instance_dir.root.resolve()
    folders = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return any(folder and Path(folder).is_relative_to(root) for folder in folders)
