"""Placeholders: texts that stand for secrets inside of a sandbox, where the secrets must not be."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import quote, unquote_plus

PREFIX = "placeholder-"
BASIC = "basic "
# A shorter value is no secret. One below LONG can be a common word, which stays where no secret is expected.
MIN_LENGTH = 8
LONG = 16
_CREDENTIAL_NAME = re.compile(
    r"auth(?!ors?\b)|(?<!idempotency.)key|token|secret|cred|pass|cookie|jwt|bearer|signature|^pat$|^sig$",
    re.IGNORECASE,
)
# The name of a scheme of Authorization (RFC 9110, section 11.1).
_SCHEME = re.compile(r"[A-Za-z]{1,15}\s+(?=\S)")
_PARAMETER = re.compile(r"(?<=[?&])([^=&#]+)=([^&#]*)")


def is_credential_name(name: str) -> bool:
    """Whether a header or a parameter of a URL of this name holds a credential.

    A secret takes its place there only: a provider that repeats another part of a request would bring it
    inside. Other credentials may not be there.
    """
    return _CREDENTIAL_NAME.search(name) is not None


def parameters(query: str) -> list[tuple[str, str]]:
    """Names and values in the query of a URL, by any delimiter that a server may accept."""
    parts = (part.partition("=") for part in re.split("[&;]", query))
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in parts]


class Placeholders:
    """The placeholders of one program, and the hosts that may get what they stand for.

    ``headers`` are further names of headers with credentials, in lower case.
    """

    def __init__(self, headers: Iterable[str] = ()) -> None:
        self._headers = frozenset(headers)
        self._secrets: dict[str, str] = {}
        self._hosts: dict[str, frozenset[str]] = {}

    def add(self, secret: str, hosts: Iterable[str]) -> str:
        """The placeholder of a secret for these hosts (``host:port``); a short secret stays as it is."""
        if len(secret) < MIN_LENGTH:
            return secret
        known = {value: name for name, value in self._secrets.items()}
        name = known.get(secret) or f"{PREFIX}{secrets.token_hex(16)}"
        self._secrets[name] = secret
        self._hosts[name] = self._hosts.get(name, frozenset()) | frozenset(hosts)
        return name

    def known_in(self, text: str) -> list[str]:
        """The secrets that a text contains."""
        return [secret for secret in self._secrets.values() if secret in text]

    def hidden(self, text: str, *, is_secret: bool = False) -> str:
        """The text with each known secret replaced; a short one only at the end of a secret text."""
        longest_first = sorted(self._secrets.items(), key=lambda one: -len(one[1]))
        for name, secret in longest_first:
            if len(secret) >= LONG or (is_secret and text.endswith(secret)):
                text = text.replace(secret, name)
        return text

    def hidden_json(self, value: Any, is_secret_name: Callable[[str], bool], name: str = "") -> Any:
        """A JSON value with each known secret replaced, at any depth; ``name`` is that of the value."""
        if isinstance(value, str):
            return self.hidden(value, is_secret=is_secret_name(name))
        if isinstance(value, Mapping):
            members = cast("Mapping[str, Any]", value).items()
            return {key: self.hidden_json(one, is_secret_name, key) for key, one in members}
        if isinstance(value, list):
            return [self.hidden_json(one, is_secret_name, name) for one in cast("list[Any]", value)]
        return value

    def revealed(self, name: str, text: str, host: str) -> str:
        """The value of a header with the secrets that ``host`` may get, if it is one for credentials."""
        if not is_credential_name(name) and name.lower() not in self._headers:
            return text
        if text[: len(BASIC)].lower() == BASIC:
            return self._basic(text, host)
        return self._revealed(text, host)

    def revealed_url(self, url: str, host: str) -> str:
        """A URL with the secrets that ``host`` may get, in its parameters for credentials."""

        def parameter(found: re.Match[str]) -> str:
            name, value = found.groups()
            is_credential = is_credential_name(name) and value in self._secrets and host in self._hosts[value]
            return f"{name}={quote(self._secrets[value], safe='')}" if is_credential else found[0]

        return _PARAMETER.sub(parameter, url)

    def has_other(self, name: str, text: str) -> bool:
        """Whether the value of a header or parameter for credentials has more than placeholders."""
        if not is_credential_name(name):
            return False
        rest = _decoded(text)
        for one in self._secrets:
            rest = rest.replace(one, "")
        return len(_SCHEME.sub("", rest, count=1)) >= LONG

    def _revealed(self, text: str, host: str) -> str:
        for name, secret in self._secrets.items():
            if host in self._hosts[name]:
                text = text.replace(name, secret)
        return text

    def _basic(self, text: str, host: str) -> str:
        """User name and password, which are encoded together."""
        decoded = _decoded(text)
        if decoded == text:
            return text
        return text[: len(BASIC)] + base64.b64encode(self._revealed(decoded, host).encode()).decode()


def _decoded(text: str) -> str:
    """User name and password of the scheme Basic; other values as they are."""
    if text[: len(BASIC)].lower() != BASIC:
        return text
    try:
        return base64.b64decode(text[len(BASIC) :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return text
