"""Addresses of files: the texts of a cell, and the path or URL that each of them names. Pure."""

from __future__ import annotations

import json
import os
import posixpath
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

from opencode_tasks.attachments.fault import FileFaultError
from opencode_tasks.domain.url_secrets import without_url_secrets

MAX_SHOWN = 120
# Their paths are percent-encoded; those of other URLs are names as they are.
_WEB = ("http", "https")
# Characters with a meaning in a URL, which a relative one may have too.
_IN_URL = "/%?=&+,;:@!$'()*~"
_CHAIN = "::"


def listed(cell: str | None) -> list[str]:
    """The paths and URLs of a cell, given as text.

    A JSON array of texts is a list, any other text is one path or URL. None, an empty text and an empty array
    are a row without files. Raises FileFaultError for an object, and for an array with anything but texts.
    """
    if cell is None or not cell.strip():
        return []
    if not cell.lstrip().startswith(("[", "{")):
        return [cell]
    try:
        value: Any = json.loads(cell)
    except ValueError:
        return [cell]
    if not isinstance(value, list):
        raise FileFaultError("the cell with its files is an object; name a path, a URL or a list of them")
    found = cast("list[Any]", value)
    if not all(isinstance(one, str) and one.strip() for one in found):
        raise FileFaultError("the list with its files has an element that is empty or no text")
    return found


def absolute(text: str, folder: str | None) -> str:
    """The absolute path or the URL of a text; a relative one is in ``folder``, which is a path or a URL.

    None is the working directory. Raises FileFaultError for a URL with a password, which would be stored.
    """
    if _CHAIN not in text and "://" not in text:
        return _in_folder(text, folder)
    return _without_password(text)


def folder_of(table: str) -> str | None:
    """The folder of a table, as ``absolute`` takes it; None for a table of a database."""
    if table.startswith("sql:"):
        return None
    if "://" not in table and _CHAIN not in table:
        path = Path(table).absolute()
        return str(path if table.endswith("/") else path.parent)
    head, chain, tail = table.partition(_CHAIN)
    scheme, mark, path = head.partition("://")
    if scheme in _WEB:
        path = path.partition("#")[0].partition("?")[0]
    return f"{scheme}{mark}{path.rpartition('/')[0]}{chain}{tail}"


def name_of(address: str) -> str:
    """The name of the file at an address, as the model gets it."""
    head = address.partition(_CHAIN)[0]
    scheme, mark, path = head.partition("://")
    if mark and scheme in _WEB:
        path = unquote(urlsplit(head).path)
    return posixpath.basename((path if mark else head).rstrip("/")) or "file"


def shown(address: str) -> str:
    """An address as messages name it: of a long one, the end."""
    return address if len(address) <= MAX_SHOWN else f"…{address[-MAX_SHOWN:]}"


def is_local(address: str) -> bool:
    """Whether an address is a path of this machine."""
    return "://" not in address and _CHAIN not in address


def _in_folder(text: str, folder: str | None) -> str:
    path = os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111  a path may end with /
    if path.startswith("/"):
        return path
    if folder is None or is_local(folder):
        return str(Path(folder or Path.cwd()) / path)
    head, chain, tail = folder.partition(_CHAIN)
    scheme, mark, base = head.partition("://")
    # The first part of a path is a host or a bucket in most URLs, which no path may leave.
    root, _, rest = base.partition("/")
    joined = posixpath.normpath(posixpath.join("/", rest, path))
    if scheme in _WEB:
        joined = quote(joined, safe=_IN_URL)
    return _without_password(f"{scheme}{mark}{root}{joined}{chain}{tail}")


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or bool(parts.username and parts.scheme in _WEB)
    except ValueError as error:
        raise FileFaultError(f"{shown(without_url_secrets(url))!r} is no URL: {error}") from None
    if secret:
        raise FileFaultError(
            "the URL of a file holds a password, which would be stored; use the settings of its driver"
        )
    return url
