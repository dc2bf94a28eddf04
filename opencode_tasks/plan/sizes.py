"""Number of batches, their size, and the number of rows in flight. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from opencode_tasks.domain.concurrency import FIRST_LIMIT
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.backend_table import BACKENDS, BackendKind

# A second server needs 5-8 s of CPU time and 0.9 GB before its first row: fewer rows do not repay that.
ROWS_PER_SERVER = 64
MAX_BATCH = 10_000
# Limit of the search for a provider's limit. Two servers carry this number of rows that wait for answers.
MAX_CONCURRENCY = 64
LOCAL_MODEL_CONCURRENCY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Number and size of the batches of a run.

    Attributes:
        batches: Number of batches that run at the same time.
        servers: Number of opencode servers of a process, if the backend uses them.
        batch_size: Maximum number of rows that a batch claims.
        concurrency_per_batch: Maximum number of rows in flight of one batch.
        rows: Number of open rows.
        start: Number of rows in flight of all batches at the beginning, if the ledger knows no limit of the
            provider.
        is_found: True if the number of rows in flight is found by trial, because the user gave none.

    Examples:
        >>> from opencode_tasks import Sizes
        >>> sizes = Sizes(
        ...     batches=2, servers=1, batch_size=50, concurrency_per_batch=8, rows=100, start=4, is_found=True
        ... )
        >>> sizes.concurrency
        16
    """

    batches: int
    servers: int
    batch_size: int
    concurrency_per_batch: int
    rows: int
    start: int
    is_found: bool

    @property
    def concurrency(self) -> int:
        """Maximum number of rows in flight in the whole run."""
        return min(self.rows, self.batches * min(self.batch_size, self.concurrency_per_batch))


def choose_sizes(
    *,
    rows: int,
    cpus: int,
    shares_process: bool,
    batch_size: int | None,
    concurrency: int | None,
    backend: BackendName,
    model_ref: str,
    one_owner: bool,
    most: int,
    most_processes: int,
) -> Sizes:
    """Sizes for ``rows`` open rows on a runner with ``cpus`` CPUs; the user's values are kept.

    With ``shares_process``, all batches run in one process. One batch then uses all servers, unless the
    user's ``batch_size`` divides the rows. Otherwise each batch has a process with one server.
    ``one_owner``: only one server at a time may use the user's login. ``most`` is the number of prompts
    that the credentials of the runner's nodes allow at the same time, ``most_processes`` the number of
    opencode processes for which their memory suffices.
    """
    cpus = max(1, min(cpus, most_processes))
    kind = BACKENDS[backend]
    is_found = concurrency is None and kind.uses_servers and not model_ref.startswith("local/")
    wanted = min(concurrency or _default_concurrency(kind, model_ref, cpus), max(1, rows), most)
    if one_owner and kind.starts_process_per_row:
        wanted = 1
    at_once = 1 if one_owner else max(1, min(cpus, wanted))
    rows_per_batch = batch_size or (rows if shares_process else ROWS_PER_SERVER)
    batches = min(at_once, -(-rows // rows_per_batch))
    return Sizes(
        batches=batches,
        servers=min(at_once, -(-rows // ROWS_PER_SERVER)) if shares_process else 1,
        # Batches claim rows one by one, so a large batch does not keep rows from the others.
        batch_size=batch_size or max(1, min(MAX_BATCH, rows)),
        concurrency_per_batch=max(1, wanted // batches),
        rows=rows,
        start=FIRST_LIMIT if is_found else wanted,
        is_found=is_found,
    )


def _default_concurrency(kind: BackendKind, model_ref: str, cpus: int) -> int:
    if kind.starts_process_per_row:
        return cpus
    return LOCAL_MODEL_CONCURRENCY if model_ref.startswith("local/") else MAX_CONCURRENCY
