"""How many rows a batch may have in flight: its process's share of what the gate allows.

The batches of a process at one gate come by the ledger together, about once a second and when a row
was refused, and divide among them what they are given there (see ``pace`` and ``ledger/paces.py``).
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

VISIT_EVERY_S = 0.8
# Rows that may go within so long keep their worker's share for it.
SOON_S = 10.0
BYTES_PER_TOKEN = 4
# What an answer takes, instructions of the agent's own included, until some are known.
FIRST_ANSWER_TOKENS = 500.0
WEIGHT_OF_THE_NEWEST = 0.1


class Limiter:
    """A batch's face of the pace. On the event loop only; leave it when the batch ends."""

    def __init__(self, run_spec: RunSpec, ledger: Ledger, owner: str) -> None:
        self.run_spec = run_spec
        self.ledger = ledger
        self.owner = owner
        self.ready = 0
        self.soon = 0
        self.at_most = run_spec.concurrency
        # The attempts in flight, with the tokens set aside for each: a row can be sent again before the
        # end of its attempt is taken in.
        self.sent: dict[str, float] = {}
        self.unanswered: set[str] = set()
        self._system_bytes = len(
            (system_text(run_spec.spec, run_spec.system, run_spec.schema) or "").encode()
        )

    async def join(self) -> None:
        """Begin: the batch has no slots before."""
        key = (self.run_spec.ledger_url, self.run_spec.gate_id)
        self.worker = _workers.setdefault(key, _Worker(owner=self.owner))
        self.worker.batches.append(self)
        self.soon = self.run_spec.concurrency
        try:
            await self.worker.sync_concurrency()
        except BaseException:
            self.worker.batches.remove(self)
            raise

    async def leave(self) -> None:
        """End: nothing of the batch is in flight any more."""
        self.ready = self.soon = 0
        self.sent.clear()
        self.worker.batches.remove(self)
        # The share runs out by itself, too.
        with contextlib.suppress(Exception):
            await self.worker.sync_concurrency(self)

    async def keep(self) -> None:
        """Come by the ledger where that is due; to be called about once a second."""
        if time.monotonic() - self.worker.visited_at >= VISIT_EVERY_S:
            await self.worker.sync_concurrency()

    def slots(self, ready: int, *, until: datetime | None, now: datetime, at_most: int) -> int:
        """How many rows may be in flight now; the batch could send ``ready`` more.

        It could soon, from ``until`` on (None: at no known moment), where it can send none just now.
        What a batch leaves that wants ``at_most`` so many, others of its process may use.
        """
        is_soon = ready > 0 or (until is not None and until <= now + timedelta(seconds=SOON_S))
        self.ready = ready
        self.soon = self.run_spec.concurrency if is_soon else 0
        self.at_most = at_most
        return self.worker.slots_of(self, now)

    def wants(self) -> int:
        """How many rows the batch could have in flight."""
        return min(self.run_spec.concurrency, len(self.sent) + self.soon)

    @property
    def is_trying(self) -> bool:
        """Whether more rows may be in flight than the provider is known to take."""
        return self.worker.share.is_trying

    def started(self, attempt_id: str, prompt: str) -> None:
        """Count a row as in flight."""
        tokens = self._prompt_tokens(prompt) + self.worker.answer_tokens
        self.sent[attempt_id] = tokens
        self.unanswered.add(attempt_id)
        self.worker.note_sent(tokens)

    def gone(self, attempt_id: str) -> None:
        """Count a row as in flight no more; where it was never sent, nothing of it was used up."""
        tokens = self.sent.pop(attempt_id)
        if attempt_id in self.unanswered:
            self.unanswered.remove(attempt_id)
            self.worker.more_requests -= 1
            self.worker.more_tokens -= tokens

    async def ended(
        self,
        attempt_id: str,
        prompt: str,
        error: OpenCodeError | None,
        sent_at: datetime,
        record: AttemptRecord,
    ) -> None:
        """Note what the provider made of a row that was sent; a refusal is told at once."""
        worker = self.worker
        self.unanswered.discard(attempt_id)
        if record.steps:
            worker.more_requests += len(record.steps) - 1
            used = _tokens_of(record)
            worker.more_tokens += used - self.sent.get(attempt_id, used)
            worker.learn(used - self._prompt_tokens(prompt))
        if error is not None and error.is_refusal:
            worker.refused_of = max(worker.refused_of, worker.in_flight())
            worker.refusals.append(sent_at)
            worker.rest_s = max(worker.rest_s, rest_s(error, datetime.now(UTC)))
            # The row's outcome is still to be recorded, whatever the ledger says to this.
            with contextlib.suppress(Exception):
                await worker.sync_concurrency()
        elif error is None or error.reaction.concurrency == "accepted":
            worker.answers.append(sent_at)

    def _prompt_tokens(self, prompt: str) -> float:
        return (len(prompt.encode("utf-8", "replace")) + self._system_bytes) / BYTES_PER_TOKEN


@dataclass(slots=True, eq=False)
class _Worker:
    """A process at one gate."""

    owner: str
    batches: list[Limiter] = field(default_factory=list["Limiter"])
    share: Allocation = field(default_factory=lambda: Allocation(slots=0, sends=None))
    visited_at: float = 0.0
    is_visiting: bool = False
    is_wanted_again: bool = False
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
    more_requests: float = 0.0
    more_tokens: float = 0.0

    def in_flight(self) -> int:
        return sum(len(batch.sent) for batch in self.batches)

    def slots_of(self, batch: Limiter, now: datetime) -> int:
        """The batch's part of the share, as far as the others have left it yet."""
        wants = [min(other.at_most, other.wants()) for other in self.batches]
        turn = int(now.timestamp() // TURN_S)
        fair = divide(self.share.slots, wants, turn=turn)[self.batches.index(batch)]
        flying = len(batch.sent)
        free = max(0, min(self.share.slots - self.in_flight(), fair - flying))
        if batch.ready > free and flying + free < batch.at_most:
            self.is_pressed = True
        if self.share.sends is not None:
            free = min(free, max(0, self.sends))
        return flying + free

    def note_sent(self, tokens: float) -> None:
        self.sends -= 1
        self.sent += 1
        self.more_tokens += tokens - self.granted_tokens
        self.row_tokens += WEIGHT_OF_THE_NEWEST * (tokens - self.row_tokens)

    def learn(self, answer_tokens: float) -> None:
        self.answer_tokens += WEIGHT_OF_THE_NEWEST * (max(0.0, answer_tokens) - self.answer_tokens)

    async def sync_concurrency(self, last: Limiter | None = None) -> None:
        """Come by the ledger of a batch of this worker (``last``: of one that has just left)."""
        if self.is_visiting:
            self.is_wanted_again = True
            return
        self.is_visiting = True
        # What was told must be known to be told, also where nobody waits for it any more.
        await asyncio.shield(self._visits(last))

    async def _visits(self, last: Limiter | None) -> None:
        try:
            await self._visit(last)
            while self.is_wanted_again:
                self.is_wanted_again = False
                await self._visit(last)
        finally:
            self.is_visiting = False

    async def _visit(self, last: Limiter | None) -> None:
        batch = self.batches[0] if self.batches else last
        if batch is None:
            return
        told = self._told(batch.run_spec)
        ledger, gate_id, now = batch.ledger, batch.run_spec.gate_id, datetime.now(UTC)
        share = await asyncio.to_thread(lambda: ledger.concurrency.sync(gate_id, self.owner, told, now=now))
        self.visited_at = time.monotonic()
        self.answers = self.answers[len(told.answers) :]
        self.refusals = self.refusals[len(told.refusals) :]
        if not self.refusals:
            self.refused_of, self.rest_s = 0, 0.0
        self.is_pressed = False
        self.more_requests -= told.more_requests
        self.more_tokens -= told.more_tokens
        # What was sent meanwhile was told as unsent.
        self.sends += (share.sends or 0) - told.unsent
        self.sent = 0
        self.granted_tokens = told.row_tokens
        self.share = share

    def _told(self, run_spec: RunSpec) -> ConcurrencyRequest:
        run_specs = [batch.run_spec for batch in self.batches] or [run_spec]
        rate_limits = RateLimits(
            requests_per_minute=_least(run_spec.rate_limits.requests_per_minute for run_spec in run_specs),
            tokens_per_minute=_least(run_spec.rate_limits.tokens_per_minute for run_spec in run_specs),
        )
        ready = sum(batch.ready for batch in self.batches)
        return ConcurrencyRequest(
            in_flight=self.in_flight(),
            is_leaving=not self.batches,
            wants=sum(batch.wants() for batch in self.batches),
            is_pressed=self.is_pressed,
            answers=tuple(self.answers),
            refusals=tuple(self.refusals),
            refused_of=self.refused_of,
            rest_s=self.rest_s,
            start=max(run_spec.start for run_spec in run_specs),
            rate_limits=rate_limits,
            unsent=self.sends,
            unsent_tokens=self.granted_tokens,
            more_requests=self.more_requests,
            more_tokens=self.more_tokens,
            asks=min(ready, self.share.slots + self.sent + 1),
            row_tokens=self.row_tokens,
        )


# By ledger and gate; only the event loop of the warm servers uses it.
_workers: dict[tuple[str, str], _Worker] = {}


def _tokens_of(record: AttemptRecord) -> float:
    """What counts against a limit on tokens: all but what was read from a cache."""
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
    return float(sum(count or 0 for count in counts))


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
