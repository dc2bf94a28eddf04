"""Fingerprints: the key of a row, from everything that decides its answer, and the key of an input. Pure.

Rows with equal keys can reuse each other's answer. Settings that only determine the address or the account
of a model (secrets, base URLs, headers) are not part of the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

from opencode_tasks.domain.attached_file import FileIdentity

ROW_KEY_VERSION = "row-key/1"
FINGERPRINT_VERSION = "input/1"
FIRST_OF_RUN = 1000

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_SECRET_WORDS = {"secret", "secrets", "password", "passwd", "authorization", "credential", "credentials"}
_SECRET_LAST_WORDS = {"key", "token"}
_SECRET_ENDINGS = ("apikey", "apikeys", "accesskey", "secretkey", "privatekey", "accesstoken", "authtoken")
_PLACE_NAMES = {"baseurl", "baseuri", "headers"}

# The keys of these objects are names that the user chose, such as an MCP server called "token".
_NAMED = {"agent", "mode", "command", "provider", "models", "mcp", "tools"}


class KeyOf(Protocol):
    """The row key of a prompt with the row's own system text, None for a row with the common one.

    ``number`` is the number of the answer if several are requested for the row. ``workspace`` is the identity
    of the files with which the agent works, None without any. ``files`` are the identities of the files that
    are attached to the prompt, in their order.
    """

    def __call__(
        self,
        prompt: str,
        own: str | None = None,
        number: int = 0,
        workspace: str | None = None,
        files: tuple[FileIdentity, ...] = (),
    ) -> str:
        """Return the key."""
        ...


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
) -> KeyOf:
    """Return the function that computes the row key of a rendered prompt.

    The key is a SHA-256 of everything that decides the answer, in hexadecimal, and the same in all
    processes and releases. ``model_ref`` is the resolved model. Secrets are removed from ``agent_config``,
    ``tools`` and ``settings``. ``tools`` is any JSON value, and may contain dataclasses.
    """
    decisive = {
        "version": ROW_KEY_VERSION,
        "system": system,
        "model_ref": model_ref,
        "agent": agent,
        "agent_config": config_without_secrets(agent_config or {}),
        "tools": _stripped(_plain(tools), names=True),
        "schema": schema,
        "variant": variant,
        "settings": config_without_secrets(settings or {}),
    }
    # Canonical JSON with sorted keys, split at the place of the prompt.
    before = {key: value for key, value in decisive.items() if key < "prompt"}
    after = {key: value for key, value in decisive.items() if key > "prompt"}

    @lru_cache(maxsize=256)
    def begin_with(number: int) -> Any:
        return hashlib.sha256(_canonical(before | {"number": number})[:-1] + b',"prompt":')

    @lru_cache(maxsize=256)
    def end_with(own: str | None, workspace: str | None, files: tuple[FileIdentity, ...]) -> bytes:
        # A part that the row does not have is absent, so that stored answers keep their keys.
        of_row = {"system": own, "workspace": workspace, "files": files or None}
        return b"," + _canonical(after | {name: it for name, it in of_row.items() if it is not None})[1:]

    def key_of(
        prompt: str,
        own: str | None = None,
        number: int = 0,
        workspace: str | None = None,
        files: tuple[FileIdentity, ...] = (),
    ) -> str:
        digest = begin_with(number).copy()
        text = json.dumps(prompt, ensure_ascii=False).encode("utf-8", "surrogatepass")
        digest.update(text + end_with(own, workspace, files))
        return digest.hexdigest()

    return key_of


def number_of_run(run_id: str) -> int:
    """The number of the answers that no other run may reuse, for the keys of a run."""
    # The numbers of votes are below.
    return FIRST_OF_RUN + int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:6])


def fingerprint(rows: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of an input in hexadecimal: of its (row_id, row_key) pairs in order."""
    digest = hashlib.sha256(_canonical([FINGERPRINT_VERSION]))
    for row_id, key in rows:
        digest.update(b"\n" + _canonical([row_id, key]))
    return digest.hexdigest()


def config_without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an opencode config without secrets, base URLs and headers, at any depth.

    A key is secret if its name says so (``apiKey``, ``access_token``, ``clientSecret``, ``Authorization``;
    not ``max_tokens`` or ``key_columns``) and its value is not a boolean. Names that users choose (of
    providers, models, servers, agents, tools) and the ``permission`` rules are kept. User, password, query
    and fragment are removed from a ``url``. Secrets in ``command`` lists are not recognized.
    """
    return _stripped(_plain(config), names=False)


def digests_by_path(values: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each value in nested mappings, by its dotted path. Empty mappings and None have none."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            below = digests_by_path(cast("Mapping[str, Any]", value))
            found |= {f"{name}.{path}": digest for path, digest in below.items()}
        elif value is not None:
            found[name] = hashlib.sha256(_canonical(_plain(value))).hexdigest()
    return found


def _stripped(value: Any, *, names: bool) -> Any:
    """The value without secrets; with ``names``, its keys are names that the user chose."""
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
