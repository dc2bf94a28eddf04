"""Reach: whether the machines of a cluster have the files that a run names by paths."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opencode_tasks.domain.work import local_path
from opencode_tasks.engine.executor import Executor
from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.plan.plan import Plan
from opencode_tasks.workspace.machine import MachineFaults, machine_faults

ARTIFACTS = "--artifacts"
SOURCES_FIX = (
    "name a repository or an archive by a URL (git+https://…, s3://….tar.gz), or use a disk that all "
    "machines share"
)
SETUP_HINT = "make it work on every machine that has the resource opencode_creds"
READ_FIX = "put it on every machine"
STORE_FIX = "give a URL such as s3://bucket/folder, or a folder on a disk that all machines share"


def check_reach(plan: Plan, executor: Executor, ledger_url: str) -> None:
    """Check that batches can run, and that their machines have the files of the run.

    Raises InputError for paths that another machine does not have, and SetupError if it cannot run rows, or
    as ``Executor.check`` does.
    """
    executor.check(ledger_url)
    sandbox = plan.spec.sandbox
    is_simple = not plan.options.has_workspace and sandbox is None
    # The parts of a run have the files of the whole.
    if is_simple or plan.part is not None or not executor.other_machines():
        return
    with _mark(plan.options.artifacts) as stored:
        named = (_sources(plan), _readable(plan), stored)
        paths = [path for one in named for path in one.paths]
        kind = None if sandbox is None else sandbox.kind
        look = partial(machine_faults, paths, kind, uses_git=plan.options.has_workspace)
        found = executor.on_other_machines(look)
    faults = [fault for one in named if (fault := _fault(one, found)) is not None]
    if faults:
        raise InputError(tuple(faults))
    for faults_of_machine in found.values():
        if faults_of_machine.problem is not None:
            raise SetupError("unknown", raw_message=faults_of_machine.problem, hint=SETUP_HINT)


def files_warning(plan: Plan, executor: Executor) -> str | None:
    """A warning if artifacts of rows stay on the machine of their row; None if they do not."""
    options = plan.options
    if plan.part is not None or not options.artifact or options.artifacts is not None:
        return None
    machines = executor.other_machines()
    if not machines:
        return None
    return (
        f"files of --artifact stay on the machine where their row runs ({', '.join(machines)} or this one): "
        "--artifacts with a URL brings them together"
    )


@dataclass(frozen=True, slots=True)
class _Named:
    """The paths that an option names, and what to do if a machine does not have one."""

    option: str
    paths: Sequence[str]
    fix: str


def _sources(plan: Plan) -> _Named:
    workspaces = plan.rows.workspaces
    option = "--workspace" if workspaces.template is None else "--workspace-template"
    paths = dict.fromkeys(source.local_path for source in workspaces.used())
    # Nothing can be said about a path that is not here either.
    return _Named(option, [path for path in paths if path and os.path.lexists(path)], SOURCES_FIX)


def _readable(plan: Plan) -> _Named:
    sandbox = plan.spec.sandbox
    return _Named("--sandbox-read", () if sandbox is None else sandbox.readable, READ_FIX)


@contextmanager
def _mark(artifacts: str | None) -> Generator[_Named]:
    """A file in the folder for artifacts, by which a machine shows that it has the same folder."""
    path = None if artifacts is None else local_path(artifacts)
    if path is None:
        yield _Named(ARTIFACTS, (), STORE_FIX)
        return
    folder = Path(path).absolute()
    is_new = not folder.exists()
    mark = folder / f".opencode-tasks-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise InputError((f"{ARTIFACTS}: cannot write {folder}: {error.strerror}",)) from error
    try:
        yield _Named(ARTIFACTS, [str(mark)], STORE_FIX)
    finally:
        mark.unlink(missing_ok=True)
        if is_new:
            # Another run may have stored a file in it.
            with suppress(OSError):
                folder.rmdir()


def _fault(named: _Named, found: Mapping[str, MachineFaults]) -> str | None:
    """A line about the first machine that lacks a path; the others mostly lack the same."""
    for machine, faults in found.items():
        lost = sorted(set(named.paths) & set(faults.missing_paths))
        if lost:
            shown = f"the folder {Path(lost[0]).parent}" if named.option == ARTIFACTS else lost[0]
            others = f" and {len(lost) - 1:,} more" if len(lost) > 1 else ""
            return (
                f"{named.option}: {shown}{others}: not on the machine {machine} of the cluster; {named.fix}"
            )
    return None
