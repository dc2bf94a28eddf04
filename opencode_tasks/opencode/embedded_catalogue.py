"""Models with a stated price in the catalogue inside opencode's binary.

Without a catalogue file, opencode uses a copy of models.dev inside its binary. Its routes have a price of 0
for a model that is free there and for a model without a price. The copy is JavaScript source text (read in
opencode 1.18.33), such as ``poe:{id:"poe",env:[…],models:{"a/b":{id:"a/b",…,cost:{input:0,output:0}}}}``.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# A string, or a bracket of an object. Brackets in strings do not count.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`(?:[^`\\]|\\.)*`|[{}]', re.DOTALL)
# More than the largest provider has.
_MAX_PROVIDER_BYTES = 8 * 1024 * 1024


def read_embedded_catalogue(binary: Path, models: Mapping[str, Collection[str]]) -> Mapping[str, Any]:
    """The part of the catalogue for some models (names by provider), in the form of the catalogue file.

    Only models of which the catalogue states a price are in it, with a price of 0: the caller names
    models that cost 0 in opencode. Empty if the catalogue is not found.
    """
    try:
        with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return {name: {"models": _priced(_provider(data, name), models[name])} for name in models}
    except (OSError, ValueError):
        return {}


def _provider(data: mmap.mmap, name: str) -> bytes:
    """Source text of a provider, without the bracket at its start; empty if it is not found."""
    mark = f':{{id:"{name}",env:['.encode()
    start = data.find(mark)
    if start == -1:
        return b""
    text = data[start + 2 : start + 2 + _MAX_PROVIDER_BYTES]
    return text[: _object_end(text, 0)]


def _priced(provider: bytes, names: Collection[str]) -> dict[str, Any]:
    free = {"cost": {"input": 0, "output": 0}}
    return {name: free for name in names if _has_cost(provider, name)}


def _has_cost(provider: bytes, name: str) -> bool:
    mark = f':{{id:"{name}",'.encode()
    start = provider.find(mark)
    if start == -1:
        return False
    return b",cost:{" in _top_level(provider[start + 2 : _object_end(provider, start + 2)])


def _object_end(text: bytes, start: int) -> int:
    """Index of the bracket that closes the object whose content begins at ``start``."""
    depth = 1
    for token in _TOKENS.finditer(text, start):
        depth += {b"{": 1, b"}": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    return len(text)


def _top_level(text: bytes) -> bytes:
    """The content of an object without strings and without the content of inner objects."""
    kept, depth, end = bytearray(), 0, 0
    for token in _TOKENS.finditer(text):
        if depth == 0:
            kept += text[end : token.start()]
        if token[0] == b"{":
            kept += b"{" if depth == 0 else b""
            depth += 1
        elif token[0] == b"}":
            depth -= 1
        end = token.end()
    return bytes(kept)
