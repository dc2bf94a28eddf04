"""Rows of a plan: rendered one after the other, each with its key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from opencode_tasks.domain.attached_file import FileIdentity
from opencode_tasks.domain.fingerprints import KeyOf, row_keys
from opencode_tasks.domain.records import RowInput
from opencode_tasks.frames.validate import Checked, PromptRow, PromptRows
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.plan.option_signatures import ANNOTATE
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.reviewed_examples import ReviewedExamples
from opencode_tasks.plan.row_files import RowFiles
from opencode_tasks.plan.system_text import SystemText
from opencode_tasks.plan.workspaces import Workspaces

# The options that are in the key by the prompt, by opencode's answer about them, or by name.
_IN_KEY = {
    *("prompt_column", "template", "system", "system_column", "examples", "schema", "choices", "work_dir"),
    *("model", "variant", "agent", "mcp_server", "opencode_config"),
    *("allow_tool", "deny_tool", "workspace", "workspace_ref", "workspace_template", "file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRows:
    """Rows of a run in input order. Each iteration renders them again, so that none is kept in memory.

    ``number`` tells the keys of several answers to one prompt apart. ``positions`` are those of the input's
    rows in a part of it, in order; None for all.
    """

    rows: PromptRows
    key_of: KeyOf
    system: SystemText
    reviewed: ReviewedExamples | None = None
    workspaces: Workspaces = field(default_factory=Workspaces)
    files: RowFiles = field(default_factory=RowFiles)
    number: int = 0
    positions: Sequence[int] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows) if self.positions is None else len(self.positions)

    def __iter__(self) -> Iterator[RowInput]:
        """Rows with their keys. The position of a row of a part is that in the part."""
        for position, row in self._selected():
            source, files = self.workspaces.of(row), self.files.of(row)
            key_of = partial(
                self.key_of,
                workspace=None if source is None else source.identity,
                files=tuple(file.identity for file in files),
            )
            if self.reviewed is None:
                own = self.system.of_row(row.prompt, row.system)
            else:
                own = self.reviewed.system_of(row, self.system, key_of)
            yield RowInput(
                row_id=row.row_id,
                position=position,
                row_key=key_of(row.prompt, own, self.number),
                prompt=row.prompt,
                labels=row.labels,
                system=own,
                workspace=source,
                files=files,
            )

    def _selected(self) -> Iterator[tuple[int, PromptRow]]:
        if self.positions is None:
            yield from ((row.position, row) for row in self.rows)
            return
        wanted = {position: number for number, position in enumerate(self.positions)}
        for row in self.rows:
            if row.position in wanted:
                yield wanted[row.position], row


def planned_rows(
    checked: Checked, options: Options, spec: OpencodeSpec, catalog: Catalog | None, system: SystemText
) -> PlannedRows:
    """The rows of a checked frame, with the keys that these options and the catalog give them."""
    if catalog is None:
        return PlannedRows(rows=Checked().rows, key_of=_no_key, system=system)
    key_of = row_keys(
        system=system.common or "",
        model_ref=catalog.model_ref,
        agent=spec.agent,
        agent_config=catalog.agent_config,
        tools=[*spec.tools, *spec.mcp_servers],
        schema=options.schema,
        variant=options.variant,
        settings={
            **catalog.settings,
            "work_dir": os.fspath(options.work_dir) if options.work_dir else None,
            **_tool_settings(spec),
            **_other_deciding_options(options),
        },
    )
    return PlannedRows(rows=checked.rows, key_of=key_of, system=system)


def _no_key(
    prompt: str,
    own: str | None = None,
    number: int = 0,
    workspace: str | None = None,
    files: tuple[FileIdentity, ...] = (),
) -> str:
    """The key of a row of an empty input, which has none."""
    del own, number, workspace, files
    return prompt


def _tool_settings(spec: OpencodeSpec) -> dict[str, Any]:
    """The tools that options name; absent without any, so that stored answers keep their keys."""
    named = {"allow_tool": spec.allowed_tools, "deny_tool": spec.denied_tools}
    return {name: tools for name, tools in named.items() if tools}


def _other_deciding_options(options: Options) -> dict[str, Any]:
    """The options that decide the answer and are not in the key otherwise.

    One with its default is absent, so that a new option does not change the keys of stored answers.
    """
    values = {
        name: getattr(options, name)
        for name, option in ANNOTATE.items()
        if option.info.decides_answer and name not in _IN_KEY
    }
    return {name: value for name, value in values.items() if not ANNOTATE[name].is_default(value)}
