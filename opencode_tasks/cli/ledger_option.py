"""The ledger that a command reads, and the run in it that RUN_ID names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from opencode_tasks.cli.command_options import declared
from opencode_tasks.errors import InputError

if TYPE_CHECKING:
    # SQLAlchemy behind it takes a second to load, and --help must be fast.
    from opencode_tasks.ledger import Ledger

RUN_HELP = "Run: its id (see: opencode-tasks runs), the beginning of the id, or `newest`."
NEWEST = "newest"
MAX_NAMED = 3

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


def named_run(ledger: Ledger, text: str) -> str:
    """The id of the run that an argument names: by its id, by the beginning of the id, or as ``newest``.

    A text that names none is returned as it is. Raises InputError if it is the beginning of several ids, or
    if there is no newest run.
    """
    if text == NEWEST:
        found = ledger.runs.newest(limit=1)
        if not found:
            raise InputError(("there is no run in this ledger yet (opencode-tasks annotate makes one)",))
        return str(found[0]["run_id"])
    if ledger.runs.status(text) is not None:
        return text
    ids = ledger.runs.beginning_with(text, MAX_NAMED + 1)
    if len(ids) > 1:
        more = ", …" if len(ids) > MAX_NAMED else ""
        shown = ", ".join(ids[:MAX_NAMED])
        raise InputError((f"RUN_ID: several runs begin with {text!r}, name more of the id: {shown}{more}",))
    return ids[0] if ids else text
