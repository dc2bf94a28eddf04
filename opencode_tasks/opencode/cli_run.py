"""A running ``opencode run``: what its journal and its output say so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import mapping_in, text_in
from opencode_tasks.opencode.instance_dir import InstanceDir
from opencode_tasks.opencode.journal import JournalReader
from opencode_tasks.opencode.session_export import MAX_SESSIONS, SESSION_ID
from opencode_tasks.outcomes.cli_output import parse_session_id
from opencode_tasks.outcomes.event_stream import EventFold, session_of_event


@dataclass(slots=True)
class CliRun:
    """A running ``opencode run``: its files, and what is read of them so far.

    ``given_id`` is the session that is continued, None for a new one, and ``earlier`` the run of its last
    prompt, None if that was in another process.
    """

    instance_dir: InstanceDir
    given_id: str | None = None
    earlier: InitVar[CliRun | None] = None
    session_id: str | None = None
    stdout: Path = field(init=False)
    fold: EventFold = field(init=False)
    stdout_size: int = 0
    attached_files: int = 0
    _journal: JournalReader = field(init=False)
    _has_start: bool = field(init=False)

    def __post_init__(self, earlier: CliRun | None) -> None:
        """Start at the beginning of the journal, with the events of the earlier prompts."""
        self.stdout = self.instance_dir.output
        self._journal = JournalReader(self.instance_dir.journal)
        self.fold = EventFold() if earlier is None else earlier.fold
        self._has_start = earlier is not None and earlier.has_every_event
        if self.given_id is not None:
            self.fold.watch(self.given_id, time.monotonic())

    @property
    def has_every_event(self) -> bool:
        """Whether the events of the session are known from its first one to the end of its last prompt.

        Programs of the row can write into the journal: ids and the number of sessions are those that an
        export would have.
        """
        family = self.fold.family(self.session_id or "")
        if not self._has_start or not self._journal.is_whole or not 0 < len(family) <= MAX_SESSIONS:
            return False
        return family[0].idle and all(SESSION_ID.fullmatch(state.session_id) for state in family)

    def read(self, now: float) -> None:
        """Read what was added to the journal and to the output since the last call."""
        for record in self._journal.new_records():
            if record.get("kind") == "event":
                self._read_event(record["event"], now)
            elif record.get("kind") == "alive":
                self.fold.add_alive(text_in(record.get("session")), now)
            elif record.get("kind") == "lost":
                self.fold.add_lost_call(text_in(record.get("session")))
            elif record.get("kind") == "files":
                self.attached_files = int(record.get("count") or 0)
        size = self.stdout.stat().st_size if self.stdout.exists() else 0
        if size > self.stdout_size:
            self.stdout_size = size
            if self.session_id is None:
                found = parse_session_id(self.stdout.read_text(encoding="utf-8", errors="replace"))
                if found is not None:
                    self._follow(found, now)
            if self.session_id is not None:
                # Without the plugin, only the output shows that the process works.
                self.fold.first_sign.setdefault(self.session_id, now)
                self.fold.last_sign[self.session_id] = now

    @property
    def size_bytes(self) -> int:
        """Bytes that opencode has written to its output and its journal."""
        files = (self.stdout, self.instance_dir.journal)
        return sum(file.stat().st_size for file in files if file.exists())

    def _read_event(self, event: Mapping[str, Any], now: float) -> None:
        properties = mapping_in(event.get("properties"))
        if self.session_id is None and self.given_id is not None:
            # Opencode 1.15 may print nothing of a prompt that ends quickly.
            if session_of_event(properties) == self.given_id:
                self._follow(self.given_id, now)
        elif event.get("type") == "session.created" and self.session_id is None:
            info = mapping_in(properties.get("info"))
            created = text_in(info.get("id"))
            if created is not None and text_in(info.get("parentID")) is None:
                self._follow(created, now)
                self._has_start = self.session_id is not None
        self.fold.add(event, now)

    def _follow(self, session_id: str, now: float) -> None:
        # The id names a file, and a program of the row can write into the journal.
        if SESSION_ID.fullmatch(session_id) is None or self.given_id not in (None, session_id):
            return
        self.session_id = session_id
        if self.given_id is None:
            self.fold.watch(session_id, now)
