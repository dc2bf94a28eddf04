"""Fingerprints: of all that decides a row's answer, and of a whole input.

Equal keys mean that an answer may be taken over, so what only says *where* or *as whom* a model
is reached (secrets, base URLs, headers) is left out of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

ROW_KEY_VERSION = "row-key/1"
FINGERPRINT_VERSION = "input/1"

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_SECRET_WORDS = {"secret", "secrets", "password", "passwd", "authorization", "credential", "credentials"}
_SECRET_LAST_WORDS = {"key", "token"}
_SECRET_ENDINGS = ("apikey", "apikeys", "accesskey", "secretkey", "privatekey", "accesstoken", "authtoken")
_PLACE_NAMES = {"baseurl", "baseuri", "headers"}

# Under these the keys are names that the user chose (an MCP server called "token"), not settings.
_NAMED = {"agent", "mode", "command", "provider", "models", "mcp", "tools"}


def row_keys(
    *,
    system: str,
    model_ref: str,
    agent: str | None,
    agent_config: Mapping[str, Any] | None,
    tools: Any,
    schema: Mapping[str, Any] | None,
    variant: str | None,
    settings: Mapping[str, Any] | None,
    number: int = 0,
) -> Callable[[str], str]:
    """From a rendered prompt the SHA-256, in hex, of all that decides its answer.

    It is stable over processes and releases. ``model_ref`` is resolved, ``number`` the answer's number
    where several are asked. ``agent_config``, ``tools`` and ``settings`` are stripped of secrets here.
    ``tools`` is anything that is JSON, dataclasses included.
    """
    decisive = {
        "version": ROW_KEY_VERSION,
        "system": system,
        "model_ref": model_ref,
        "agent": agent,
        "agent_config": without_secrets(agent_config or {}),
        "tools": _stripped(_plain(tools), names=True),
        "schema": schema,
        "variant": variant,
        "settings": without_secrets(settings or {}),
        "number": number,
    }
    # The canonical JSON of all of it, its keys in order, but for the prompt in its midst.
    before = {key: value for key, value in decisive.items() if key < "prompt"}
    after = {key: value for key, value in decisive.items() if key > "prompt"}
    claimed = hashlib.sha256(_canonical(before)[:-1] + b',"prompt":')
    end = b"," + _canonical(after)[1:]

    def key_of(prompt: str) -> str:
        digest = claimed.copy()
        digest.update(json.dumps(prompt, ensure_ascii=False).encode("utf-8", "surrogatepass") + end)
        return digest.hexdigest()

    return key_of


def fingerprint(rows: Iterable[tuple[str, str]]) -> str:
    """The SHA-256, in hex, of a whole input: its (row_id, row_key) pairs in order."""
    digest = hashlib.sha256(_canonical([FINGERPRINT_VERSION]))
    for row_id, key in rows:
        digest.update(b"\n" + _canonical([row_id, key]))
    return digest.hexdigest()


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """An opencode config without secrets, base URLs and headers, at any depth; a new dict.

    A key is secret when its name says so (``apiKey``, ``access_token``, ``clientSecret``,
    ``Authorization``; not ``max_tokens`` or ``key_columns``) and its value is not a truth value.
    Names that users choose (of providers, models, servers, agents, tools) and the ``permission``
    rules stay. Of a ``url``, user, password, query and fragment are cut. Blind to secrets in
    ``command`` lists.
    """
    return _stripped(_plain(config), names=False)


def _stripped(value: Any, *, names: bool) -> Any:
    """``names``: the keys here are names that the user chose."""
    if isinstance(value, list):
        return [_stripped(item, names=False) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for key, member in cast("dict[str, Any]", value).items():
        if not names and _is_left_out(key, member):
            continue
        if key == "permission" and not names:
            kept[key] = member
        elif key == "url" and isinstance(member, str):
            kept[key] = _bare_url(member)
        else:
            kept[key] = _stripped(member, names=not names and key in _NAMED)
    return kept


def _is_left_out(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    words = [word.lower() for word in _WORD.findall(key)]
    joined = "".join(words)
    return (
        joined in _PLACE_NAMES
        or not _SECRET_WORDS.isdisjoint(words)
        or bool(words and words[-1] in _SECRET_LAST_WORDS)
        or joined.endswith(_SECRET_ENDINGS)
    )


def _bare_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _plain(value: Any) -> Any:
    """The value as JSON has it: dicts with text keys, lists, dataclasses as dicts, sets sorted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in cast("set[Any]", value)), key=_canonical)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value


def _canonical(value: Any) -> bytes:
    text = json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", "surrogatepass")
