"""Table of the backends. To add one: a module with its class, a name in ``backend.py``, a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opencode_tasks.opencode.backend import Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.opencode.cli_backend import CliBackend
from opencode_tasks.opencode.null_backend import NullBackend, null_catalog
from opencode_tasks.opencode.server_backend import ServerBackend
from opencode_tasks.opencode.server_set import ServerSet


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendKind:
    """How to make a backend, and what the planner must know about it.

    Attributes:
        create: Makes the backend of a spec. Its second argument is the set of models without a price, the
            third the servers of the spec, which are started only if ``uses_servers`` is True.
        uses_servers: Whether rows go to long-running servers of the process. The number of rows in flight
            is then found by trial.
        starts_process_per_row: Whether each row starts a process of opencode. By default as many rows are
            in flight as batches run.
        catalog: Makes the catalog of a backend that does not run opencode, for the named model or for its own
            one. Raises InputError if it has no such model. None: the catalog is read from an opencode server.
    """

    create: Callable[[OpencodeSpec, frozenset[str], ServerSet], Backend]
    uses_servers: bool = False
    starts_process_per_row: bool = False
    catalog: Callable[[str | None], Catalog] | None = None

    @property
    def runs_opencode(self) -> bool:
        """Whether the backend runs opencode, so that its binary must be there."""
        return self.catalog is None


BACKENDS: Mapping[BackendName, BackendKind] = {
    "server": BackendKind(
        create=lambda spec, unpriced, servers: ServerBackend(servers, spec, unpriced), uses_servers=True
    ),
    "cli": BackendKind(
        create=lambda spec, unpriced, _: CliBackend(spec, unpriced), starts_process_per_row=True
    ),
    "null": BackendKind(create=lambda _spec, _unpriced, _servers: NullBackend(), catalog=null_catalog),
}
