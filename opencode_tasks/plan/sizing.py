"""How many batches, of what size, with how many rows in flight. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from opencode_tasks.domain.concurrency import FIRST_LIMIT
from opencode_tasks.opencode.backend import BackendName
from opencode_tasks.opencode.backends import BACKENDS, BackendKind

# A second server costs 5-8 s of CPU time and 0.9 GB before its first row; it must earn that.
ROWS_PER_SERVER = 64
MAX_BATCH = 10_000
# As many as a provider may be found to take: rows only wait there, two servers carry so many.
MAX_CONCURRENCY = 64
LOCAL_MODEL_CONCURRENCY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """``lanes`` batches run at once, each with up to ``concurrency_per_batch`` rows in flight.

    A batch takes up to ``batch_size`` of the rows, as it has room for them. All batches together begin
    with ``start`` rows in flight where nothing is known of what the provider takes; ``is_found`` says
    that the number is to be found, the user having named none.
    """

    lanes: int
    batch_size: int
    concurrency_per_batch: int
    rows: int
    start: int
    is_found: bool

    @property
    def concurrency(self) -> int:
        """Rows in flight in the whole run, at most."""
        return min(self.rows, self.lanes * min(self.batch_size, self.concurrency_per_batch))


def choose_sizes(
    *,
    rows: int,
    lanes: int,
    batch_size: int | None,
    concurrency: int | None,
    backend: BackendName,
    model_ref: str,
    one_owner: bool,
    most: int,
    most_processes: int,
) -> Sizes:
    """Sizes for ``rows`` open rows on a runner with ``lanes`` places; what the user set is kept.

    ``one_owner`` says that only one server at a time may use the user's login, ``most`` how many
    prompts the credentials of the runner's nodes allow at once, ``most_processes`` how many
    processes of opencode their memory holds.
    """
    lanes = max(1, min(lanes, most_processes))
    kind = BACKENDS[backend]
    is_found = concurrency is None and kind.uses_servers and not model_ref.startswith("local/")
    wanted = min(concurrency or _default_concurrency(kind, model_ref, lanes), max(1, rows), most)
    if one_owner and kind.starts_process_per_row:
        wanted = 1
    used = 1 if one_owner else max(1, min(lanes, wanted, -(-rows // (batch_size or ROWS_PER_SERVER))))
    # Rows are pulled, so a large batch leaves none waiting behind it.
    size = batch_size or max(1, min(MAX_BATCH, rows))
    return Sizes(
        lanes=used,
        batch_size=size,
        concurrency_per_batch=max(1, wanted // used),
        rows=rows,
        start=FIRST_LIMIT if is_found else wanted,
        is_found=is_found,
    )


def _default_concurrency(kind: BackendKind, model_ref: str, lanes: int) -> int:
    if kind.starts_process_per_row:
        return lanes
    return LOCAL_MODEL_CONCURRENCY if model_ref.startswith("local/") else MAX_CONCURRENCY
