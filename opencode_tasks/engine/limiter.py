"""Limiter: how many rows a batch may have in flight, from what its process is allowed at the gate.

The batches of a process at one gate share one exchange with the ledger, about once a second and
whenever a row was refused. They divide what the ledger allocates to the process (see
``domain/concurrency.py`` and ``ledger/concurrency.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from opencode_tasks.domain.concurrency import TURN_S, divide
from opencode_tasks.domain.policy import rest_s
from opencode_tasks.domain.rate_limits import RateLimits
from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.errors import OpenCodeError
from opencode_tasks.ledger import Allocation, ConcurrencyRequest, Ledger
from opencode_tasks.plan.run_spec import RunSpec, system_text

SYNC_INTERVAL_S = 0.8
# A batch whose next row may be sent within this time keeps its part of the slots.
SOON_S = 10.0
BYTES_PER_TOKEN = 4
# Tokens of an answer, including instructions of the agent, until answers are known.
FIRST_ANSWER_TOKENS = 500.0
NEWEST_WEIGHT = 0.1


class Limiter:
    """Slots of one batch. For use on the event loop only: ``join`` first, ``leave`` at the end."""

    process: _Process

    def __init__(self, run_spec: RunSpec, ledger: Ledger, owner: str) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self.owner = owner
        self.ready: int = 0
        self.soon: int = 0
        self.at_most: int = run_spec.concurrency
        # Attempts in flight, with the tokens reserved for each. By attempt: a row can be sent again
        # before the end of its last attempt is handled.
        self.in_flight: dict[str, float] = {}
        self.unsent: set[str] = set()
        self._system_bytes = len(
            (system_text(run_spec.spec, run_spec.system, run_spec.schema) or "").encode()
        )

    async def join(self) -> None:
        """Start to take part: the batch has no slots before."""
        key = (self.run_spec.ledger_url, self.run_spec.gate_id)
        self.process = _processes.setdefault(key, _Process(owner=self.owner))
        self.process.batches.append(self)
        self.soon = self.run_spec.concurrency
        try:
            await self.process.sync()
        except BaseException:
            self.process.batches.remove(self)
            raise

    async def leave(self) -> None:
        """End: no row of the batch is in flight."""
        self.ready = self.soon = 0
        self.in_flight.clear()
        self.process.batches.remove(self)
        # An allocation that is not returned expires.
        with contextlib.suppress(Exception):
            await self.process.sync(self)

    async def refresh(self) -> None:
        """Synchronize with the ledger if that is due; to be called about once a second."""
        if time.monotonic() - self.process.synced_at >= SYNC_INTERVAL_S:
            await self.process.sync()

    def slots(self, ready: int, *, until: datetime | None, now: datetime, at_most: int) -> int:
        """Number of rows that may be in flight now.

        ``ready`` is the number of rows that the batch could add now. If it is 0, ``until`` is the time
        from which the batch could add one (None: unknown). Other batches of the process use what the
        batch leaves beyond ``at_most``.
        """
        is_soon = ready > 0 or (until is not None and until <= now + timedelta(seconds=SOON_S))
        self.ready = ready
        self.soon = self.run_spec.concurrency if is_soon else 0
        self.at_most = at_most
        return self.process.slots_of(self, now)

    def demand(self) -> int:
        """Number of rows that the batch could have in flight."""
        return min(self.run_spec.concurrency, len(self.in_flight) + self.soon)

    @property
    def is_trying(self) -> bool:
        """Whether more rows may be in flight than the provider is known to accept."""
        return self.process.allocation.is_trying

    def add(self, attempt_id: str, prompt: str) -> None:
        """Count an attempt as in flight."""
        tokens = self._prompt_tokens(prompt) + self.process.answer_tokens
        self.in_flight[attempt_id] = tokens
        self.unsent.add(attempt_id)
        self.process.count_sent(tokens)

    def remove(self, attempt_id: str) -> None:
        """Count an attempt as no longer in flight. If it was never sent, its reservation is returned."""
        tokens = self.in_flight.pop(attempt_id)
        if attempt_id in self.unsent:
            self.unsent.remove(attempt_id)
            self.process.extra_requests -= 1
            self.process.extra_tokens -= tokens

    async def observe(
        self,
        attempt_id: str,
        prompt: str,
        error: OpenCodeError | None,
        sent_at: datetime,
        record: AttemptRecord,
    ) -> None:
        """Count the provider's reaction to an attempt that was sent; a refusal is synchronized at once."""
        process = self.process
        self.unsent.discard(attempt_id)
        if record.steps:
            process.extra_requests += len(record.steps) - 1
            tokens = _tokens_of(record)
            # Without a report, the estimate of the attempt stays counted.
            if tokens is not None:
                process.extra_tokens += tokens - self.in_flight.get(attempt_id, tokens)
                process.learn_answer_tokens(tokens - self._prompt_tokens(prompt))
        if error is not None and error.is_refusal:
            process.refused_of = max(process.refused_of, process.in_flight())
            process.refusals.append(sent_at)
            process.rest_s = max(process.rest_s, rest_s(error, datetime.now(UTC)))
            # The outcome of the row must be recorded even if this fails.
            with contextlib.suppress(Exception):
                await process.sync()
        elif error is None or error.reaction.concurrency == "accepted":
            process.answers.append(sent_at)

    def _prompt_tokens(self, prompt: str) -> float:
        return (len(prompt.encode("utf-8", "replace")) + self._system_bytes) / BYTES_PER_TOKEN


@dataclass(slots=True, eq=False)
class _Process:
    """State of this process at one gate: its batches, its allocation, and what it has not reported yet."""

    owner: str
    batches: list[Limiter] = field(default_factory=list["Limiter"])
    allocation: Allocation = field(default_factory=lambda: Allocation(slots=0, sends=None))
    synced_at: float = 0.0
    is_syncing: bool = False
    must_sync_again: bool = False
    is_pressed: bool = False
    answers: list[datetime] = field(default_factory=list[datetime])
    refusals: list[datetime] = field(default_factory=list[datetime])
    refused_of: int = 0
    rest_s: float = 0.0
    sends: int = 0
    sent: int = 0
    row_tokens: float = FIRST_ANSWER_TOKENS
    granted_tokens: float = 0.0
    answer_tokens: float = FIRST_ANSWER_TOKENS
    extra_requests: float = 0.0
    extra_tokens: float = 0.0

    def in_flight(self) -> int:
        return sum(len(batch.in_flight) for batch in self.batches)

    def slots_of(self, batch: Limiter, now: datetime) -> int:
        """Part of a batch in the allocation, as far as other batches do not use it."""
        demands = [min(other.at_most, other.demand()) for other in self.batches]
        turn = int(now.timestamp() // TURN_S)
        fair = divide(self.allocation.slots, demands, turn=turn)[self.batches.index(batch)]
        used = len(batch.in_flight)
        free = max(0, min(self.allocation.slots - self.in_flight(), fair - used))
        if batch.ready > free and used + free < batch.at_most:
            self.is_pressed = True
        if self.allocation.sends is not None:
            free = min(free, max(0, self.sends))
        return used + free

    def count_sent(self, tokens: float) -> None:
        self.sends -= 1
        self.sent += 1
        self.extra_tokens += tokens - self.granted_tokens
        self.row_tokens += NEWEST_WEIGHT * (tokens - self.row_tokens)

    def learn_answer_tokens(self, answer_tokens: float) -> None:
        self.answer_tokens += NEWEST_WEIGHT * (max(0.0, answer_tokens) - self.answer_tokens)

    async def sync(self, last: Limiter | None = None) -> None:
        """Exchange state with the ledger of a batch; ``last`` is a batch that has just left."""
        if self.is_syncing:
            self.must_sync_again = True
            return
        self.is_syncing = True
        # The exchange must complete even if no caller waits for it any more: its counts are sent once.
        await asyncio.shield(self._sync_all(last))

    async def _sync_all(self, last: Limiter | None) -> None:
        try:
            await self._sync(last)
            while self.must_sync_again:
                self.must_sync_again = False
                await self._sync(last)
        finally:
            self.is_syncing = False

    async def _sync(self, last: Limiter | None) -> None:
        batch = self.batches[0] if self.batches else last
        if batch is None:
            return
        request = self._request(batch.run_spec)
        ledger, gate_id = batch.ledger, batch.run_spec.gate_id
        allocation = await asyncio.to_thread(lambda: ledger.concurrency.sync(gate_id, self.owner, request))
        self.synced_at = time.monotonic()
        self.answers = self.answers[len(request.answers) :]
        self.refusals = self.refusals[len(request.refusals) :]
        if not self.refusals:
            self.refused_of, self.rest_s = 0, 0.0
        self.is_pressed = False
        self.extra_requests -= request.more_requests
        self.extra_tokens -= request.more_tokens
        # Rows that were sent during the exchange were reported as unsent.
        self.sends += (allocation.sends or 0) - request.unsent
        self.sent = 0
        self.granted_tokens = request.row_tokens
        self.allocation = allocation

    def _request(self, run_spec: RunSpec) -> ConcurrencyRequest:
        run_specs = [batch.run_spec for batch in self.batches] or [run_spec]
        rate_limits = RateLimits(
            requests_per_minute=_smallest(one.rate_limits.requests_per_minute for one in run_specs),
            tokens_per_minute=_smallest(one.rate_limits.tokens_per_minute for one in run_specs),
        )
        ready = sum(batch.ready for batch in self.batches)
        return ConcurrencyRequest(
            in_flight=self.in_flight(),
            is_leaving=not self.batches,
            wants=sum(batch.demand() for batch in self.batches),
            is_pressed=self.is_pressed,
            answers=tuple(self.answers),
            refusals=tuple(self.refusals),
            refused_of=self.refused_of,
            rest_s=self.rest_s,
            start=max(one.start for one in run_specs),
            rate_limits=rate_limits,
            unsent=self.sends,
            unsent_tokens=self.granted_tokens,
            more_requests=self.extra_requests,
            more_tokens=self.extra_tokens,
            asks=min(ready, self.allocation.slots + self.sent + 1),
            row_tokens=self.row_tokens,
        )


# By ledger and gate. Only the event loop of the server pool uses it.
_processes: dict[tuple[str, str], _Process] = {}


def _tokens_of(record: AttemptRecord) -> float | None:
    """Tokens that count against a token limit: all but those read from a cache. None if unknown."""
    usages = [step.usage for step in record.steps]
    counts: Sequence[int | None] = [
        count
        for usage in usages
        for count in (
            usage.input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )
    ]
    known = [count for count in counts if count is not None]
    return float(sum(known)) if len(known) == len(counts) else None


def _smallest(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
