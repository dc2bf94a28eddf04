"""Resolver: what planning needs to replace the names of blocks in options by what the blocks hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.plan.options import Options

BLOCK_PREFIX = "block://"
"""Start of a URL that names a Prefect Secret block: ``block://secret/NAME``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedOptions:
    """Options in which every name of a block is replaced by what the block holds.

    ``options.ledger`` is set; ``ledger_name`` is what the option named, None for the ledger of the settings.
    ``secrets_block`` (``type/name``) is the block of the secrets, None if
    they come from none: processes that must not be sent the secrets read them there.
    """

    options: Options
    ledger_name: str | None = None
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    secrets_block: str | None = None


class Resolver(Protocol):
    """Replaces names of blocks by what the blocks hold. Its methods raise InputError and SetupError."""

    def ledger_url(self, url: str | None) -> str:
        """URL of the ledger that the option names, else of the settings."""
        ...

    def database_url(self, url: str | None) -> str | None:
        """URL of the database that the option names, else of the settings; None without one."""
        ...

    def options(self, options: Options) -> ResolvedOptions:
        """The options with the values and the secrets of the blocks that they name."""
        ...


def is_block_url(url: str | None) -> bool:
    """Whether a URL names a Prefect block, and so holds no password itself."""
    return url is not None and url.startswith(BLOCK_PREFIX)
