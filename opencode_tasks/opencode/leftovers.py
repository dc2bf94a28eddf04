"""What dead processes of ours left behind: the homes, the sessions in them, and what those came to.

A home outlives its killed owner while a session in it is not recorded (``system/guard.py``). Its
database (SQLite, nearly all of it still in the write-ahead log) is copied, and a server without
providers, plugins and logins of the user's reads the copy: the original stays as it is, whatever
happens to us meanwhile. Opencode 1.18 finds a session by its id from any folder, resumes none when
it starts, and answers 404 for one that it does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

import psutil

from opencode_tasks.domain.json_values import mapping_in, time_in
from opencode_tasks.domain.records import AttemptRecord, Session
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.client import NoAnswerError
from opencode_tasks.opencode.instance_dir import InstanceDir, instance_dirs_root, is_owned, make_instance_dir
from opencode_tasks.opencode.server import OpencodeServer
from opencode_tasks.outcomes.messages import (
    after_last_prompt,
    assistant_messages,
    finish_reason,
    has_tool_call,
    is_summary,
    last_error,
)
from opencode_tasks.outcomes.session_result import SessionResult

# Logins that may rotate, the index of a log that SQLite makes anew, and what nobody reads.
NOT_COPIED = ("auth.json", "*-shm", "log")
ABORTED = "MessageAbortedError"
# After this finish opencode asks the model once more.
GOES_ON = "tool-calls"


def instance_dir_of(data_dir: Path) -> InstanceDir:
    """The home whose data folder this is, as the ledger's ``attempts.data_dir`` names it."""
    return InstanceDir(root=data_dir.parent)


def is_deserted(instance_dir: InstanceDir) -> bool:
    """Whether no process owns a home or still runs in it; one from before homes had owners never is."""
    return not is_owned(instance_dir) and not _is_lived_in(instance_dir)


def instance_dirs() -> list[InstanceDir]:
    """All homes, by path; those of a CliBackend are in a folder of its own."""
    parent = instance_dirs_root()
    marks = [*parent.glob("*/unrecorded"), *parent.glob("*/*/unrecorded")]
    return [InstanceDir(root=path.parent) for path in sorted(marks)]


def remove_deserted_dirs() -> None:
    """Remove what dead processes left, but the data of unrecorded sessions.

    Their guards do it at once; it is for a guard that was killed too, as when the machine goes down.
    """
    for instance_dir in instance_dirs():
        if is_deserted(instance_dir):
            instance_dir.remove()


def sessions_by_attempt(among: Iterable[InstanceDir]) -> dict[str, tuple[Path, str]]:
    """The sessions in some homes that are not known to be recorded, by the ids of their attempts.

    Of each the data folder and the session's id: what is on the disk before it is in a ledger, and
    still is for a moment after.
    """
    found: dict[str, tuple[Path, str]] = {}
    for instance_dir in among:
        # A home that lives loses a mark with each row that is recorded.
        with contextlib.suppress(OSError):
            found |= {
                mark.read_text(): (instance_dir.data, mark.name) for mark in instance_dir.marks.iterdir()
            }
    return found


async def read_left(
    spec: OpencodeSpec, data_dir: Path, session_ids: Sequence[str], unpriced: frozenset[str]
) -> dict[str, list[Session]]:
    """The sessions of a left home as opencode's database has them, each with its children after it.

    A session that the database does not hold (killed before the write), or whose home is gone, is
    absent. Nothing is sent to a provider. Raises SetupError where a process still lives in the home,
    and where opencode cannot read it: then nothing is known of the sessions.
    """
    if not session_ids or not await asyncio.to_thread(data_dir.is_dir):
        return {}
    if not await asyncio.to_thread(is_deserted, instance_dir_of(data_dir)):
        raise SetupError(
            "unknown",
            raw_message=f"the sessions in {data_dir} belong to a process that still runs",
            hint="wait for the other run to end",
        )
    try:
        async with _server_over_copy(spec, data_dir) as server:
            read = {key: await _read(server, key, unpriced) for key in session_ids}
    except (OSError, NoAnswerError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the sessions in {data_dir}: {type(error).__name__} {error}",
            hint="opencode-tasks doctor",
        ) from None
    return {key: sessions for key, sessions in read.items() if sessions}


def forget_session(instance_dir: InstanceDir, session_id: str) -> None:
    """Note a session of a left home as recorded; with the last one the home goes."""
    instance_dir.unmark(session_id)
    instance_dir.remove()
    if instance_dir.root.parent != instance_dirs_root():
        # The folder of a dead CliBackend, once its last home is gone.
        with contextlib.suppress(OSError):
            instance_dir.root.parent.rmdir()


def result_of(sessions: Sequence[Session]) -> SessionResult | None:
    """The result to judge, where the root session's last prompt had come to its end; None if not.

    A session is at its end when its last message is complete with an error, or with a finish after
    which opencode asks no more. An abort is the work of the process that died, and a call of a tool,
    even a refused one, is no end: the row is to be asked again. Judge it with ``ended_at`` for ``now``,
    since a provider's waits count from there. Inner retries and refused permissions are not known.
    """
    if not sessions:
        return None
    last = assistant_messages(after_last_prompt(sessions[0].messages))[-1:]
    if not last or is_summary(last[0]) or ended_at(sessions) is None:
        return None
    error = last_error(last)
    if error is not None:
        is_end = error.get("name") != ABORTED
    else:
        is_end = finish_reason(last) not in (None, GOES_ON) and not has_tool_call(last)
    return SessionResult(session_id=sessions[0].session_id, sessions=sessions) if is_end else None


def ended_at(sessions: Sequence[Session]) -> datetime | None:
    """When the last message of the root session was complete; None where none is."""
    messages = assistant_messages(sessions[0].messages) if sessions else []
    times = [mapping_in(mapping_in(message.get("info")).get("time")) for message in messages]
    return time_in(times[-1].get("completed")) if times else None


def unfinished_record(session_id: str, sessions: Sequence[Session] = ()) -> AttemptRecord:
    """What is known of a session that was in flight: its finished steps, and that there may be more."""
    return AttemptRecord(session_id=session_id, sessions=sessions, usage_known=False)


@contextlib.asynccontextmanager
async def _server_over_copy(spec: OpencodeSpec, data_dir: Path) -> AsyncGenerator[OpencodeServer]:
    """A server over a copy of the data, in a home of its own that goes with it.

    Killed while copying, we leave a home that ``remove_deserted_dirs`` removes.
    """
    instance_dir = make_instance_dir(user_config=False)
    try:
        await asyncio.to_thread(_copy, data_dir, instance_dir.data)
        server = await OpencodeServer.start(
            OpencodeSpec(binary=spec.binary, use_plugin=False), over=instance_dir
        )
        try:
            yield server
        finally:
            await server.aclose()
    finally:
        instance_dir.remove()


def _copy(source: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=ignored)


async def _read(server: OpencodeServer, session_id: str, unpriced: frozenset[str]) -> list[Session]:
    """The session and its children; empty where the database does not hold it."""
    found = await server.find(f"/session/{session_id}")
    if found.status == HTTPStatus.NOT_FOUND:
        return []
    return await server.read_back(session_id, unpriced)


def _is_lived_in(instance_dir: InstanceDir) -> bool:
    """Whether a process works in the home: a guard and its opencode outlive a killed owner by seconds."""
    root = instance_dir.root.resolve()
    folders = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return any(folder and Path(folder).is_relative_to(root) for folder in folders)
