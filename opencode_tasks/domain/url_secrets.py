"""Passwords, tokens and signatures in URLs. Pure.

The address of a table can hold a secret: ``https://user:password@host/…``, a signed URL of S3, Google Cloud
or Azure, a token as a parameter. No such part is stored or shown.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^/\s]*@")
# Only a token stands there alone; other schemes have a user.
_TOKEN = re.compile(r"(https?://)[^:/@\s]+@", re.IGNORECASE)
# A message may add a colon or a bracket to the URL.
_PARAMETER = re.compile(
    r"([?&](?:[\w-]*signature|[\w-]*credential|[\w-]*token|sig|password|[\w-]*key)=)[^&#\s]*?"
    r"(?=[\"'):,.;]*(?:[&#\s]|$))",
    re.IGNORECASE,
)


def without_url_secrets(text: str) -> str:
    """Return the text with ``***`` for each password, token and signature of a URL in it."""
    text = _TOKEN.sub(rf"\1{HIDDEN}@", _PASSWORD.sub(rf"\1:{HIDDEN}@", text))
    return _PARAMETER.sub(rf"\1{HIDDEN}", text)


def has_hidden_part(url: str) -> bool:
    """Whether a part of a URL is hidden, so that it opens nothing."""
    return "://" in url and HIDDEN in url
