"""Results of the work of a row: the changes of its workspace, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from opencode_tasks.domain.records import Answer
from opencode_tasks.domain.work import WorkResult, WorkSpec
from opencode_tasks.engine.kept_files import files_folder, workspaces_folder
from opencode_tasks.errors import CheckFailedError, OpenCodeError, SetupError, WorkspaceError
from opencode_tasks.opencode.leftovers import instance_dir_of
from opencode_tasks.system.folders import remove_tree
from opencode_tasks.system.ray_node import current_node_id
from opencode_tasks.workspace.changes import Changes
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.file_store import FileStore
from opencode_tasks.workspace.place import Workspace
from opencode_tasks.workspace.program import CommandEnd

PATCH = "changes.patch"
ARTIFACTS = "files"
CHECK_CHARS = 500
_NAME_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlace:
    """The run and the row whose files are stored."""

    run_id: str
    row_id: str

    @property
    def path(self) -> str:
        """``RUN_ID/ROW``. A row id that is no safe name of a file gets a digest."""
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", self.row_id)[:_NAME_CHARS].lstrip(".") or "row"
        if safe != self.row_id:
            safe = f"{safe}-{hashlib.sha256(self.row_id.encode('utf-8', 'replace')).hexdigest()[:10]}"
        return f"{self.run_id}/{safe}"


def checked(
    spec: WorkSpec, data_dir: Path, answer: Answer, stop: Event | None = None
) -> tuple[Answer, CommandEnd | None]:
    """The answer with the result of the check command in its workspace, and how the command ended.

    None without a workspace. ``stop`` ends the command. Raises WorkspaceError, which keeps the answer, if the
    command cannot be run.
    """
    workspace = Workspace(instance_dir_of(data_dir).root)
    if not workspace.is_ready or spec.check_command is None:
        return answer, None
    try:
        end = workspace.check(spec.check_command, spec.command_limit_s, spec.sandbox, stop)
    except (WorkspaceFaultError, SetupError, OSError) as fault:
        raise _failed(fault, answer, answer.work) from fault
    reason = end.abnormal_end
    output = end.output if reason is None else f"{end.output.rstrip()}\n{reason}\n".lstrip()
    work = replace(answer.work, check_passed=end.has_passed, check_output=output)
    return replace(answer, work=work), end


def undo_check(data_dir: Path) -> None:
    """Undo what a check command changed that did not end, before an agent goes on in the workspace."""
    workspace = Workspace(instance_dir_of(data_dir).root)
    if workspace.is_ready:
        workspace.changes.undo()


def feedback(end: CommandEnd) -> str:
    """The prompt with which the agent gets the output of a failed check."""
    begin = f"The check of your work failed ({end.reason}). Correct your work. Output of the check:"
    return f"{begin}\n\n{end.output}"


def required(spec: WorkSpec, answer: Answer) -> Answer:
    """The answer. Raises CheckFailedError if its check failed and the run requires that it passes."""
    if not spec.require_check or answer.work.check_passed is not False:
        return answer
    output = (answer.work.check_output or "").strip()
    message = f"the check command failed: {output[-CHECK_CHARS:] or 'no output'}"
    error = CheckFailedError(current_node_id(), 0, message, answer.text)
    error.attempt, error.work = answer.attempt, answer.work
    raise error


def _failed(fault: Exception, answer: Answer, work: WorkResult) -> WorkspaceError:
    """The error of a row whose work cannot be read; it keeps the answer and its cost."""
    failure = WorkspaceError(current_node_id(), 0, str(fault), answer.text)
    failure.attempt, failure.work = answer.attempt, work
    # The answer is paid for, and the next one would be too.
    failure.max_attempts = 1
    return failure


def with_work(
    spec: WorkSpec, place: RowPlace, data_dir: Path, answer: Answer | None, error: OpenCodeError | None
) -> tuple[Answer | None, OpenCodeError | None]:
    """The end of an attempt with the changes of its workspace; ``data_dir`` is opencode's of the attempt.

    An answer whose changes cannot be read becomes a WorkspaceError, which keeps its text and its cost.
    """
    workspace = Workspace(instance_dir_of(data_dir).root)
    if not workspace.is_ready:
        return answer, error
    work = answer.work if answer is not None else error.work if error is not None else WorkResult()
    try:
        work = _stored(spec, place, workspace.changes.read(), work)
        work = _with_artifacts(spec, place, workspace, work)
        work = _kept(spec, place, workspace, work, has_failed=answer is None)
    except (WorkspaceFaultError, OSError, RecursionError) as fault:
        if answer is None:
            return None, error
        return None, _failed(fault, answer, work)
    if answer is not None:
        return replace(answer, work=work), error
    if error is not None:
        error.work = work
    return answer, error


def _stored(spec: WorkSpec, place: RowPlace, changes: Changes, work: WorkResult) -> WorkResult:
    """The changes in columns; a long diff, or one that is no text, in a file."""
    work = replace(
        work,
        files_changed=changes.files,
        lines_added=changes.lines_added,
        lines_removed=changes.lines_removed,
    )
    is_long = changes.patch.stat().st_size > spec.max_diff_bytes
    text = None if is_long else changes.patch.read_bytes()
    if text is not None and _is_text(text):
        return replace(work, diff=text.decode(), diff_url=None)
    url = _put(spec, changes.patch, f"{place.path}/{PATCH}")
    return replace(work, diff=None if text is None else text.decode("utf-8", "replace"), diff_url=url)


def _put(spec: WorkSpec, file: Path, name: str) -> str:
    """Store a copy of a file and return its address."""
    if spec.artifacts is not None:
        return FileStore(spec.artifacts).put(file, name)
    stored = FileStore(str(files_folder())).put(file, name)
    return stored if _is_here(spec) else _url(Path(stored), spec)


def _is_here(spec: WorkSpec) -> bool:
    """Whether the row runs on the machine of the driver."""
    return spec.host in ("", socket.gethostname())


def _url(path: Path, spec: WorkSpec) -> str:
    """The URL of a path of this machine, with its name if the driver is on another one."""
    url = path.absolute().as_uri()
    return url if _is_here(spec) else url.replace("file://", f"file://{socket.gethostname()}", 1)


def _with_artifacts(spec: WorkSpec, place: RowPlace, workspace: Workspace, work: WorkResult) -> WorkResult:
    """Store the files that match the patterns of the run."""
    if not spec.artifact_globs:
        return work
    stored = list[dict[str, Any]]()
    for path in workspace.files(spec.artifact_globs):
        file = workspace.tree / path
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        url = _put(spec, file, f"{place.path}/{ARTIFACTS}/{path.as_posix()}")
        size_bytes = file.stat().st_size
        stored.append({"path": path.as_posix(), "url": url, "size_bytes": size_bytes, "sha256": digest})
    return replace(work, artifacts=json.dumps(stored, ensure_ascii=False))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _kept(
    spec: WorkSpec, place: RowPlace, workspace: Workspace, work: WorkResult, *, has_failed: bool
) -> WorkResult:
    """Move the workspace to where it is kept, or remove the one of an earlier attempt."""
    kept = workspaces_folder() / place.path
    remove_tree(kept)
    if spec.keep == "none" or (spec.keep == "failed" and not has_failed):
        return work
    if kept.exists():
        # The workspace would be moved into it.
        raise WorkspaceFaultError(f"cannot remove {kept}")
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(workspace.tree, kept)
    return replace(work, workspace_url=_url(kept, spec))
