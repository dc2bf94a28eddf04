"""Limiter: how many rows a batch may have in flight, from what the ledger allocates to it at the gate.

A batch exchanges its state with the ledger about once a second and whenever a row was refused. The ledger
divides the slots of the gate among all batches (see ``domain/concurrency.py`` and ``ledger/concurrency.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta

from opencode_tasks.domain.policy import rest_s
from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.engine.rate_account import RateAccount
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import Allocation, ConcurrencyRequest, Ledger
from opencode_tasks.plan.run_spec import RunSpec

SYNC_INTERVAL_S = 0.8
# A batch whose next row may be sent within this time keeps its part of the slots.
SOON_S = 10.0


class Limiter:
    """Slots of one batch. For use on the event loop only: ``join`` first, ``leave`` at the end.

    Attributes:
        in_flight: Attempts in flight. Not rows: a row can be sent again before the end of its last attempt
            is handled.
    """

    def __init__(self, run_spec: RunSpec, ledger: Ledger, owner: str) -> None:
        self.in_flight: set[str] = set()
        self._run_spec = run_spec
        self._ledger = ledger
        self._owner = owner
        self._rates = RateAccount(run_spec)
        self._allocation = Allocation(slots=0, sends=None)
        self._ready = 0
        self._is_soon = True
        self._is_leaving = False
        # Observations that the ledger does not have yet.
        self._is_pressed = False
        self._answers: list[datetime] = []
        self._refusals: list[datetime] = []
        self._refused_of = 0
        self._rest_s = 0.0
        self._synced_at = 0.0
        self._exchange: asyncio.Task[None] | None = None
        self._must_sync_again = False

    async def join(self) -> None:
        """Start to take part: the batch has no slots before."""
        await self.sync()

    async def leave(self) -> None:
        """End: no row of the batch is in flight, and other batches get its slots."""
        self._ready, self._is_soon, self._is_leaving = 0, False, True
        self.in_flight.clear()
        # An allocation that is not returned expires.
        with contextlib.suppress(Exception):
            await self.sync()

    async def refresh(self) -> None:
        """Synchronize with the ledger if that is due; to be called about once a second."""
        if time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
            await self.sync()

    def slots(self, ready: int, *, until: datetime | None, now: datetime) -> int:
        """Number of rows that may be in flight now.

        ``ready`` is the number of rows that the batch could add now. If it is 0, ``until`` is the time
        from which the batch could add one (None: unknown).
        """
        self._ready = ready
        self._is_soon = ready > 0 or (until is not None and until <= now + timedelta(seconds=SOON_S))
        used = len(self.in_flight)
        free = max(0, min(self._allocation.slots, self._demand()) - used)
        if ready > free and used + free < self._run_spec.concurrency:
            self._is_pressed = True
        return used + (free if self._rates.sends is None else min(free, max(0, self._rates.sends)))

    @property
    def is_trying(self) -> bool:
        """Whether more rows may be in flight than the provider is known to accept."""
        return self._allocation.is_trying

    def add(self, attempt_id: str, prompt: str) -> None:
        """Count an attempt as in flight."""
        self.in_flight.add(attempt_id)
        self._rates.add(attempt_id, prompt)

    def remove(self, attempt_id: str) -> None:
        """Count an attempt as no longer in flight."""
        self.in_flight.remove(attempt_id)
        self._rates.remove(attempt_id)

    async def observe(
        self,
        attempt_id: str,
        prompt: str,
        error: OpenCodeError | None,
        sent_at: datetime,
        record: AttemptRecord,
    ) -> None:
        """Count the provider's reaction to an attempt that was sent; a refusal is synchronized at once."""
        self._rates.count(attempt_id, prompt, record)
        if error is not None and error.is_refusal:
            self._refused_of = max(self._refused_of, len(self.in_flight))
            self._refusals.append(sent_at)
            self._rest_s = max(self._rest_s, rest_s(error, datetime.now(UTC)))
            # The outcome of the row must be recorded even if this fails.
            with contextlib.suppress(Exception):
                await self.sync()
        elif error is None or error.reaction.concurrency == "accepted":
            self._answers.append(sent_at)

    async def sync(self) -> None:
        """Exchange state with the ledger. Observations during an exchange are sent in another one."""
        if self._exchange is None:
            self._exchange = asyncio.create_task(self._sync_all())
        else:
            self._must_sync_again = True
        # The exchange must complete even if no caller waits for it any more: its counts are sent once.
        await asyncio.shield(self._exchange)

    def _demand(self) -> int:
        """Number of rows that the batch could have in flight."""
        most = self._run_spec.concurrency
        return most if self._is_soon else min(most, len(self.in_flight))

    async def _sync_all(self) -> None:
        try:
            await self._sync()
            while self._must_sync_again:
                self._must_sync_again = False
                await self._sync()
        finally:
            self._exchange = None

    async def _sync(self) -> None:
        request = ConcurrencyRequest(
            in_flight=len(self.in_flight),
            wants=self._demand(),
            is_leaving=self._is_leaving,
            is_pressed=self._is_pressed,
            answers=tuple(self._answers),
            refusals=tuple(self._refusals),
            refused_of=self._refused_of,
            rest_s=self._rest_s,
            start=self._run_spec.start,
            **self._rates.report(ready=self._ready, slots=self._allocation.slots),
        )
        self._allocation = await asyncio.to_thread(
            self._ledger.concurrency.sync, self._run_spec.gate_id, self._owner, request
        )
        self._synced_at = time.monotonic()
        self._answers = self._answers[len(request.answers) :]
        self._refusals = self._refusals[len(request.refusals) :]
        if not self._refusals:
            self._refused_of, self._rest_s = 0, 0.0
        self._is_pressed = False
        self._rates.settle(request, self._allocation)
