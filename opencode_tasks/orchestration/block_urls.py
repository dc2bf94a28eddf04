"""Addresses that hold a password, given by the name of a Prefect Secret block: ``block://secret/NAME``."""

# Prefect is loaded where a block is named, and nowhere else: it takes seconds.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Any, cast

from opencode_tasks.errors import InputError
from opencode_tasks.settings import settings

BLOCK = "block://"
SECRET = "block://secret/"  # noqa: S105  an address, no secret


def ledger_place(url: str | None) -> str:
    """The ledger named, else that of the settings; see ``resolved``."""
    return resolved(url or settings().ledger_url(), "--ledger")


def database_place(url: str | None) -> str | None:
    """The database of ``sql:`` tables named, else that of the settings; see ``resolved``."""
    place = url or settings().database
    return None if place is None else resolved(place, "--database")


def is_block(place: str | None) -> bool:
    """Whether an address is given by a block, and so holds no password itself."""
    return place is not None and place.startswith(BLOCK)


def resolved(place: str, option: str) -> str:
    """The place itself, or what the Secret block holds that it names.

    Raises InputError, naming ``option``, where there is no such block or it holds no text, and
    SetupError where Prefect does not answer.
    """
    if not is_block(place):
        return place
    name = place.removeprefix(SECRET)
    if name == place or not name:
        raise InputError((f"{option}: {place}: name a Prefect Secret block: {SECRET}NAME",))
    from prefect.blocks.system import Secret

    from opencode_tasks.orchestration.block_store import load_block

    block: Any = load_block(cast("Any", Secret), name)
    if block is None:
        told = "make it in Prefect's pages under Blocks"
        raise InputError((f"{option}: there is no Prefect block secret/{name}; {told}",))
    found = block.get()
    if not isinstance(found, str) or not found:
        raise InputError((f"{option}: the Prefect block secret/{name} holds no text",))
    return found
