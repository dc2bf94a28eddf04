"""The secrets that an opencode process can use: keys, tokens and passwords of its spec and of the user.

They come from the blocks of a run, this process's environment, the opencode config of the run, the
user's global config and the user's logins.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.credentials import AUTH_CONTENT, read_store, user_store
from opencode_tasks.opencode.user_config import expand_references, read_user_config
from opencode_tasks.outcomes.secret_mask import MIN_LENGTH, SecretMask
from opencode_tasks.sandbox.placeholders import is_credential_name

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_SECRET_WORDS = frozenset(
    ("key", "keys", "apikey", "token", "secret", "password", "passwd", "authorization", "bearer", "cookie")
)
# Words in the names of a block's variables that hold no secret.
_PLACE_WORDS = frozenset(("region", "location", "profile", "project", "endpoint", "url", "host", "resource"))
_REFERENCE = re.compile(r"\{(?:env|file):[^}]+\}")
MAX_KEY_LENGTH = 4000
_OAUTH_SECRETS = ("access", "refresh", "key", "token")


class SpecSecrets:
    """The secrets of one spec. The tokens of a login rotate, so its store is read again if it changes."""

    def __init__(self, spec: OpencodeSpec) -> None:
        self._fixed = frozenset(_fixed_secrets(spec))
        self._store_changed_ns: int | None = None
        self._mask: SecretMask | None = None

    @property
    def mask(self) -> SecretMask:
        """The mask of all secrets that are known now."""
        changed_ns = _changed_ns(user_store())
        if self._mask is None or changed_ns != self._store_changed_ns:
            self._store_changed_ns = changed_ns
            # The tokens before a rotation can still be in a message.
            self._fixed |= frozenset(_stored_logins())
            self._mask = SecretMask(self._fixed)
        return self._mask


def is_secret_name(name: str) -> bool:
    """Whether a variable, config key or header of this name holds a secret."""
    return any(word.lower() in _SECRET_WORDS for word in _WORD.findall(name))


def secrets_of(spec: OpencodeSpec) -> Iterator[str]:
    """The secrets of the spec, the config and the logins, which opencode may use. One can occur twice."""
    yield from _given_secrets(spec)
    yield from _referenced_values(spec.config)
    yield from _referenced_values(read_user_config())
    yield from _stored_logins()


def is_place_name(name: str) -> bool:
    """Whether a variable of this name says where a provider is, which is no secret."""
    words = {word.lower() for word in _WORD.findall(name)}
    return not is_secret_name(name) and not _PLACE_WORDS.isdisjoint(words)


def _fixed_secrets(spec: OpencodeSpec) -> Iterator[str]:
    yield from _given_secrets(spec)
    for name, value in os.environ.items():
        if is_secret_name(name):
            yield from _parts(value)


def _referenced_values(value: Any, name: str = "", *, is_header: bool = False) -> Iterator[str]:
    """The values of ``{env:NAME}`` and ``{file:PATH}`` in headers and at names for credentials.

    Elsewhere such a value is a place, such as the address of a gateway.
    """
    if isinstance(value, Mapping):
        for key, member in cast("Mapping[str, Any]", value).items():
            yield from _referenced_values(member, key, is_header=is_header or name == "headers")
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _referenced_values(item, name, is_header=is_header)
    elif isinstance(value, str) and (is_header or is_credential_name(name)):
        for reference in _REFERENCE.findall(value):
            found = expand_references(reference, os.environ)
            if len(found) <= MAX_KEY_LENGTH and "://" not in found and not any(map(str.isspace, found)):
                yield from _parts(found)


def _given_secrets(spec: OpencodeSpec) -> Iterator[str]:
    block = spec.secrets.environment
    environ = {**os.environ, **block}
    yield from spec.secrets.api_keys.values()
    for name, value in block.items():
        if is_secret_name(name) or _PLACE_WORDS.isdisjoint(word.lower() for word in _WORD.findall(name)):
            yield from _parts(value)
    if content := environ.get(AUTH_CONTENT):
        with contextlib.suppress(ValueError):
            yield from _logins(mapping_in(json.loads(content)))
    yield from _config_secrets(spec.config, environ)
    yield from _config_secrets(read_user_config(), environ)


def _config_secrets(
    value: Any, environ: Mapping[str, str], name: str = "", *, is_header: bool = False
) -> Iterator[str]:
    """The values of keys with a secret name, those of headers for credentials, and the secrets in URLs."""
    if isinstance(value, Mapping):
        for key, member in cast("Mapping[str, Any]", value).items():
            yield from _config_secrets(member, environ, key, is_header=is_header or name == "headers")
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _config_secrets(item, environ, name, is_header=is_header)
    elif isinstance(value, str):
        expanded = expand_references(value, environ)
        if is_secret_name(name) or (is_header and is_credential_name(name)):
            yield from _parts(expanded)
        elif "://" in expanded:
            yield from _url_secrets(expanded)


def _url_secrets(url: str) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        yield from _parts(parts.password or "")
        for name, value in parse_qsl(parts.query):
            if is_credential_name(name):
                yield from _parts(value)


def _parts(value: str) -> Iterator[str]:
    """The value, and its last word: the token of ``Bearer TOKEN``. A number or a path is no secret."""
    value = value.strip()
    if value.isdecimal() or (value.startswith(("/", "~")) and _is_file(value)):
        return
    yield value
    if (last := value.rpartition(" ")[2]) != value and len(last) >= MIN_LENGTH:
        yield last


def _is_file(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def _stored_logins() -> Iterator[str]:
    # A store that cannot be read is reported when opencode is started.
    with contextlib.suppress(SetupError):
        yield from _logins(read_store(user_store()))


def _logins(logins: Mapping[str, Any]) -> Iterator[str]:
    for login in map(mapping_in, logins.values()):
        for name, value in login.items():
            if isinstance(value, str) and (name in _OAUTH_SECRETS or is_secret_name(name)):
                yield from _parts(value)


def _changed_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
