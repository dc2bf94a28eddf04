"""File formats of INPUT and OUTPUT. To add a format, add a line to ``FORMATS``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from opencode_tasks.frames.content import COMPRESSIONS, InputFile, file_name
from opencode_tasks.frames.csv_file import read_csv, write_csv
from opencode_tasks.frames.excel_file import read_excel, write_excel
from opencode_tasks.frames.jsonl_file import read_json, read_jsonl, write_json, write_jsonl
from opencode_tasks.frames.parquet_file import read_arrow, read_parquet, write_arrow, write_parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """A file format, recognized by the suffix of a name.

    ``read(file)`` returns the frame in a file, with a plain range index. It raises InputError with one line
    that
    begins with ``INPUT {name}`` if the file is not in this format. ``write(frames, file)`` writes frames with
    the same columns, one at least, as one table to a binary file. A text format can be compressed: its names
    may also end with ``.gz`` or ``.zst``. ``has_types``: a file has a type for each of its columns.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[InputFile], pd.DataFrame]
    write: Callable[[Iterable[pd.DataFrame], Any], None]
    is_text: bool = False
    has_types: bool = False

    @property
    def all_suffixes(self) -> tuple[str, ...]:
        """The suffixes, compressed ones included."""
        compressed = [s + end for end in COMPRESSIONS for s in self.suffixes] if self.is_text else []
        return (*self.suffixes, *compressed)


def _read_tsv(file: InputFile) -> pd.DataFrame:
    file.delimiter = file.delimiter or "\t"
    return read_csv(file)


FORMATS = (
    FileFormat(name="csv", suffixes=(".csv",), read=read_csv, write=write_csv, is_text=True),
    FileFormat(
        name="tsv",
        suffixes=(".tsv", ".tab"),
        read=_read_tsv,
        write=partial(write_csv, delimiter="\t"),
        is_text=True,
    ),
    FileFormat(
        name="jsonl", suffixes=(".jsonl", ".ndjson"), read=read_jsonl, write=write_jsonl, is_text=True
    ),
    FileFormat(name="json", suffixes=(".json",), read=read_json, write=write_json, is_text=True),
    FileFormat(
        name="parquet", suffixes=(".parquet",), read=read_parquet, write=write_parquet, has_types=True
    ),
    FileFormat(
        name="arrow", suffixes=(".arrow", ".feather"), read=read_arrow, write=write_arrow, has_types=True
    ),
    FileFormat(name="excel", suffixes=(".xlsx",), read=read_excel, write=write_excel),
)


def format_of(path_or_url: str | os.PathLike[str]) -> FileFormat | None:
    """Return the format for the suffix of a name, in upper or lower case; None if it is unknown."""
    name = file_name(path_or_url)
    return next((found for found in FORMATS if name.endswith(found.all_suffixes)), None)


def unknown_suffix() -> str:
    """Return the part of a message that rejects a name and lists the known suffixes."""
    *suffixes, last = (suffix for found in FORMATS for suffix in found.suffixes)
    return f"unknown suffix; use {', '.join(suffixes)} or {last} (text formats also with .gz or .zst)"
