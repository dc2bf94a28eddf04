"""The option ``--html``: a page beside the output of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opencode_tasks.errors import InputError

HtmlOption = Annotated[
    str | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write an HTML page too; it works without a network and without scripts.",
        show_default=False,
    ),
]


def check_folders(*names: str | None) -> None:
    """Raise InputError if the folder of one of these files does not exist; None and URLs are left out."""
    faults = [
        f"{name}: the folder {Path(name).parent} does not exist"
        for name in names
        if name is not None and "://" not in name and not Path(name).absolute().parent.is_dir()
    ]
    if faults:
        raise InputError(tuple(faults))


def write_page(page: str, target: str) -> None:
    """Write a page to a file or an fsspec URL, and say so on stderr."""
    from opencode_tasks.frames.write_file import write_bytes
    from opencode_tasks.ledger.column_types import storable

    # Answers and names may contain lone surrogates, which UTF-8 does not have.
    write_bytes(storable(page).encode(), target)
    typer.echo(f"-> {target}", err=True)
