"""INPUT files: the table at a path or any fsspec URL as a frame."""

from __future__ import annotations

import os

import pandas as pd

from opencode_tasks.errors import InputError
from opencode_tasks.frames.content import read_content
from opencode_tasks.frames.formats import format_of, unknown_suffix


def read_frame(path_or_url: str | os.PathLike[str], *, limit: int | None = None) -> pd.DataFrame:
    """Return the table at a path or URL with a plain range index, at most ``limit`` rows if given.

    No type is guessed: see the reader of each format for the types of the columns. Raises InputError
    with one line that names INPUT, and its line number if there is one, if the table cannot be read.
    """
    name = os.fspath(path_or_url)
    file_format = format_of(name)
    if file_format is None:
        raise InputError((f"INPUT {name}: {unknown_suffix()}",))
    return file_format.read(name, read_content(name), limit)
