"""Content of INPUT files: bytes from any URL, text from bytes, errors as one line."""

# fsspec has no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from typing import Any

import fsspec

from opencode_tasks.errors import InputError

MAX_ERROR_LENGTH = 200


def is_compressed(path_or_url: str | os.PathLike[str]) -> bool:
    """Whether the suffix of a name means a compressed file."""
    return file_name(path_or_url).endswith(".gz")


def file_name(path_or_url: str | os.PathLike[str]) -> str:
    """The name in lower case, without the parameters of a web address, such as a signature."""
    name = os.fspath(path_or_url).lower()
    return name.partition("#")[0].partition("?")[0] if name.startswith(("http://", "https://")) else name


def read_content(name: str) -> bytes:
    """Return the content of a path or fsspec URL, decompressed if the name ends with ``.gz``.

    Raises InputError if there is no such file, if it cannot be read or if it is empty.
    """
    compression = "gzip" if is_compressed(name) else None
    try:
        opened: Any = fsspec.open(name, "rb", compression=compression)
        with opened as file:
            content: bytes = file.read()
    except FileNotFoundError as error:
        raise InputError((f"INPUT {name}: no such file",)) from error
    # The errors depend on the driver of the URL: credentials, network, protocols.
    except Exception as error:
        raise InputError((f"INPUT {name}: cannot be read: {one_line(error)}",)) from error
    if not content:
        raise InputError((f"INPUT {name}: the file is empty",))
    return content


def decode_text(name: str, content: bytes) -> str:
    """Return the text of a UTF-8 file; raises InputError with the number of the first invalid line."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError((f"INPUT {name}, line {line}: not UTF-8; save the file as UTF-8",)) from error


def one_line(error: BaseException) -> str:
    """Return the message of an error as one short line, and its class if it has no message."""
    return " ".join(str(error).split())[:MAX_ERROR_LENGTH] or type(error).__name__
