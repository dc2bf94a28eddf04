"""Workspaces of the rows of an input: each text is resolved once, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from opencode_tasks.domain.work import WorkspaceSource
from opencode_tasks.frames.validate import Checked, PromptRow
from opencode_tasks.plan.options import Options
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.source import resolve

# Servers of repositories answer slowly, and digests of folders wait for the disk.
RESOLVED_AT_ONCE = 8
_Named = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Workspaces:
    """The resolved sources by the texts that name them: a cell, and a ref or None.

    ``template`` is the source of all rows, None for one of each row.
    """

    sources: Mapping[_Named, WorkspaceSource] = field(default_factory=dict[_Named, WorkspaceSource])
    template: WorkspaceSource | None = None

    def of(self, row: PromptRow) -> WorkspaceSource | None:
        """The source of a row; None for a row without one."""
        if self.template is not None or row.workspace is None:
            return self.template
        return self.sources.get((row.workspace, row.ref))

    def used(self) -> list[WorkspaceSource]:
        """All sources."""
        return [*self.sources.values(), *([self.template] if self.template else [])]


def resolve_workspaces(
    checked: Checked, options: Options, known: Sequence[WorkspaceSource] = ()
) -> tuple[Workspaces, Checked]:
    """The sources of the rows, and the checked input with the faults that were found.

    ``known`` are sources that an earlier start of the run has resolved, and which stay as they are: the
    branch of a repository may have moved since.
    """
    pinned = {(source.given, source.ref): source for source in known}
    if options.workspace_template is not None:
        named = (options.workspace_template, None)
        found, faults = _resolve([named], pinned)
        lines = [f"--workspace-template: {fault}" for fault in faults.values()]
        return Workspaces(template=found.get(named)), replace(checked, faults=[*checked.faults, *lines])
    rows = [row for row in checked.rows if row.position not in checked.row_faults]
    found, faults = _resolve({(row.workspace, row.ref) for row in rows if row.workspace is not None}, pinned)
    row_faults = {
        row.position: "the workspace is null"
        if row.workspace is None
        else f"the workspace {row.workspace!r} cannot be used: {faults[row.workspace, row.ref]}"
        for row in rows
        if row.workspace is None or (row.workspace, row.ref) in faults
    }
    all_faults = checked.row_faults | row_faults
    with_faults = replace(checked.rows, faulty=all_faults.keys())
    return Workspaces(found), replace(checked, rows=with_faults, row_faults=all_faults)


def _resolve(
    names: Iterable[_Named], pinned: Mapping[_Named, WorkspaceSource]
) -> tuple[dict[_Named, WorkspaceSource], dict[_Named, str]]:
    """The sources that can be resolved, and the faults of the others, by their names."""
    found: dict[_Named, WorkspaceSource] = {}
    faults: dict[_Named, str] = {}

    def add(named: _Named) -> None:
        try:
            found[named] = pinned[named] if named in pinned else resolve(*named)
        except WorkspaceFaultError as fault:
            faults[named] = str(fault)
        except OSError as error:
            faults[named] = f"cannot read {error.filename or named[0]}: {error.strerror or error}"

    with ThreadPoolExecutor(RESOLVED_AT_ONCE) as pool:
        list(pool.map(add, names))
    return found, faults
