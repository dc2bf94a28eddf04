"""Replaces the values in a recording that differ between runs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opencode_tasks.outcomes.failure import STREAM_ERROR

LETTERS, DIGITS = "abcdefghijklmnop", "0123456789abcdef"
TIME_MS = 1_700_000_000_000
NEXT_TIME_MS = TIME_MS + 60_000
TIME_HTTP = "Tue, 14 Nov 2023 22:13:20 GMT"


@dataclass(slots=True)
class Scrubber:
    """Replaces values that differ between runs: ids, times, paths and ports.

    Ids keep their order, because opencode sorts messages and parts by it.
    """

    paths: Sequence[tuple[str, str]]
    ids: dict[str, str] = field(default_factory=dict[str, str])

    ID = re.compile(r"\b(ses|msg|prt|evt|per|que)_[0-9A-Za-z]{10,}")

    def number_ids(self, *values: Any) -> None:
        """Give all ids in the values a number, by kind and in their order."""
        found = {match.group() for value in values for match in self.ID.finditer(json.dumps(value))}
        counts: dict[str, int] = {}
        for name in sorted(found):
            kind = name[:3]
            counts[kind] = counts.get(kind, 0) + 1
            self.ids[name] = f"{kind}_{counts[kind]:04d}"

    def scrub(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {self._text(k): self.scrub(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.scrub(item) for item in value]
        if isinstance(value, str):
            return self._string(value, key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 1e12:
            return NEXT_TIME_MS if key == "next" else TIME_MS
        return value

    def _string(self, value: str, key: str) -> str:
        if key == "x-upstream-headers":
            headers = self.scrub(json.loads(base64.b64decode(value)))
            return base64.b64encode(json.dumps(headers).encode()).decode()
        if key == "date":
            return TIME_HTTP
        if key == "slug":
            return "slug"
        if key in ("time", "x-upstream-at") and value.isdigit():
            return str(TIME_MS)
        return self._text(value)

    def _text(self, value: str) -> str:
        for path, name in self.paths:
            # One field of opencode has the path without its first slash.
            value = value.replace(path, name).replace(path.lstrip("/"), name.lstrip("/"))
        value = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", value)
        value = STREAM_ERROR.sub(self._failure, value)
        return self.ID.sub(lambda match: self.ids.get(match.group(), match.group()), value)

    def _failure(self, found: re.Match[str]) -> str:
        """The failure that the plugin wrote into the message of a stream's error."""
        digits = found[1].translate(str.maketrans(LETTERS, DIGITS))
        failure = self.scrub(json.loads(bytes.fromhex(digits)))
        text = json.dumps(failure, separators=(",", ":")).encode().hex()
        return found[0].replace(found[1], text.translate(str.maketrans(DIGITS, LETTERS)))
