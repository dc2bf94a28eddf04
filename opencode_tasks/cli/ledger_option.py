"""The ledger that a command reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from opencode_tasks.cli.command_options import declared
from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    # SQLAlchemy behind it takes a second to load, and --help must be fast.
    from opencode_tasks.ledger import Ledger

LedgerOption = Annotated[str | None, declared("ledger")]


def open_existing(url: str | None) -> Ledger:
    """Open the ledger at ``url``, or that of the settings, to read it.

    Raises InputError if there is no such ledger: a new one would hide a mistyped name.
    """
    from opencode_tasks.ledger import Ledger, is_there
    from opencode_tasks.orchestration.block_resolver import resolve_ledger_url

    address = resolve_ledger_url(url)
    if not is_there(address):
        raise InputError((f"--ledger: there is no ledger {address} yet (opencode-tasks annotate makes it)",))
    return Ledger.open(address)
