"""Placeholders: texts that stand for secrets inside of a sandbox, where the secrets must not be."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import quote

PREFIX = "placeholder-"
BASIC = "basic "
# A shorter value can be a common word, which must stay in configs.
MIN_LENGTH = 6


class Placeholders:
    """The placeholders of one program, and the hosts that may get what they stand for."""

    def __init__(self) -> None:
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

    def hidden(self, text: str) -> str:
        """The text with each known secret replaced."""
        longest_first = sorted(self._secrets.items(), key=lambda one: -len(one[1]))
        for name, secret in longest_first:
            text = text.replace(secret, name)
        return text

    def hidden_json(self, value: Any) -> Any:
        """A JSON value with each known secret replaced, at any depth."""
        if isinstance(value, str):
            return self.hidden(value)
        if isinstance(value, Mapping):
            return {key: self.hidden_json(one) for key, one in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list):
            return [self.hidden_json(one) for one in cast("list[Any]", value)]
        return value

    def revealed(self, text: str, host: str) -> str:
        """The value of a header with the secrets that ``host`` may get."""
        if text[: len(BASIC)].lower() == BASIC:
            return self._basic(text, host)
        for name, secret in self._secrets.items():
            if host in self._hosts[name]:
                text = text.replace(name, secret)
        return text

    def revealed_url(self, url: str, host: str) -> str:
        """A URL with the secrets that ``host`` may get, percent-encoded."""
        for name, secret in self._secrets.items():
            if host in self._hosts[name]:
                url = url.replace(name, quote(secret, safe=""))
        return url

    def _basic(self, text: str, host: str) -> str:
        """User name and password, which are encoded together."""
        scheme, encoded = text[: len(BASIC)], text[len(BASIC) :]
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return text
        for name, secret in self._secrets.items():
            if host in self._hosts[name]:
                decoded = decoded.replace(name, secret)
        return scheme + base64.b64encode(decoded.encode()).decode()
