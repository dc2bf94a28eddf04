"""File formats of INPUT and OUTPUT. To add a format, add a line to ``FORMATS``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from opencode_tasks.frames.content import file_name
from opencode_tasks.frames.csv_file import read_csv, write_csv
from opencode_tasks.frames.jsonl_file import read_jsonl, write_jsonl
from opencode_tasks.frames.parquet_file import read_parquet, write_parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """A file format, recognized by the suffix of a name. A suffix that ends with .gz means compressed.

    ``read(name, content, limit)`` returns the frame in the uncompressed bytes of a file, at most
    ``limit`` rows of it if that is not None, with a plain range index. It raises InputError with one
    line that begins with ``INPUT {name}`` if the bytes are not in this format. ``write(frames, file)``
    writes frames with the same columns, one at least, as one table to a binary file.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[str, bytes, int | None], pd.DataFrame]
    write: Callable[[Iterable[pd.DataFrame], Any], None]


FORMATS = (
    FileFormat(name="csv", suffixes=(".csv", ".csv.gz"), read=read_csv, write=write_csv),
    FileFormat(
        name="jsonl",
        suffixes=(".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
        read=read_jsonl,
        write=write_jsonl,
    ),
    FileFormat(name="parquet", suffixes=(".parquet",), read=read_parquet, write=write_parquet),
)


def format_of(path_or_url: str | os.PathLike[str]) -> FileFormat | None:
    """Return the format for the suffix of a name, in upper or lower case; None if it is unknown."""
    name = file_name(path_or_url)
    return next((found for found in FORMATS if name.endswith(found.suffixes)), None)


def unknown_suffix() -> str:
    """Return the part of a message that rejects a name and lists the known suffixes."""
    *suffixes, last = (suffix for found in FORMATS for suffix in found.suffixes)
    return f"unknown suffix; use {', '.join(suffixes)} or {last}"
