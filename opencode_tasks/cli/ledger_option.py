"""Which ledger a command reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    # SQLAlchemy behind it takes a while, which --help must not.
    from opencode_tasks.ledger import Ledger

LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", metavar="URL", help="Ledger: a path, sqlite:///… or postgresql://… URL."),
]


def open_existing(url: str | None) -> Ledger:
    """The ledger named, else that of the settings, to read what is in it.

    Raises InputError where there is no such file: to make one would hide a mistyped name.
    """
    from opencode_tasks.ledger import Ledger, is_there
    from opencode_tasks.orchestration.resolver import resolve_ledger_url

    place = resolve_ledger_url(url)
    if not is_there(place):
        raise InputError((f"--ledger: there is no ledger {place} yet (opencode-tasks annotate makes it)",))
    return Ledger.open(place)
