"""Rate account: what a batch may send within the provider's limits per minute, and what it has not reported.

The ledger grants requests with an estimate of their tokens. A batch corrects the estimate by the prompt when
it sends a row, and by the usage when the row has ended (see ``domain/rate_limits.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.ledger import Allocation, ConcurrencyRequest
from opencode_tasks.plan.run_spec import RunSpec

BYTES_PER_TOKEN = 4
# Tokens of an answer, including instructions of the agent, until answers are known.
FIRST_ANSWER_TOKENS = 500.0
NEWEST_WEIGHT = 0.1

# Tokens of an answer by gate, as the batches of this process have seen them.
_answer_tokens: dict[str, float] = {}


class RateAccount:
    """Requests and tokens of one batch. Used on one event loop.

    Attributes:
        sends: Number of requests that the batch may send; None for any number.
    """

    def __init__(self, run_spec: RunSpec) -> None:
        self.sends: int | None = None
        self._run_spec = run_spec
        self._system_bytes = len((run_spec.system or "").encode())
        # Tokens that are counted for each row in flight.
        self._counted: dict[str, float] = {}
        self._unsent: set[str] = set()
        self._sent = 0
        self._granted_tokens = 0.0
        self._row_tokens = self._answer
        self._more_requests = 0.0
        self._more_tokens = 0.0

    def add(self, attempt_id: str, prompt: str) -> None:
        """Count a row that is about to be sent."""
        tokens = self._prompt_tokens(prompt) + self._answer
        self._counted[attempt_id] = tokens
        self._unsent.add(attempt_id)
        if self.sends is not None:
            self.sends -= 1
        self._sent += 1
        self._more_tokens += tokens - self._granted_tokens
        self._row_tokens += NEWEST_WEIGHT * (tokens - self._row_tokens)

    def remove(self, attempt_id: str) -> None:
        """Forget a row that is no longer in flight. If it was never sent, its reservation is returned."""
        tokens = self._counted.pop(attempt_id)
        if attempt_id in self._unsent:
            self._unsent.remove(attempt_id)
            self._more_requests -= 1
            self._more_tokens -= tokens

    def count(self, attempt_id: str, prompt: str, record: AttemptRecord) -> None:
        """Count what a row that was sent has used. Without a report of its usage, the estimate stays."""
        self._unsent.discard(attempt_id)
        if not record.steps:
            return
        self._more_requests += len(record.steps) - 1
        tokens = _tokens_of(record)
        if tokens is not None:
            self._more_tokens += tokens - self._counted.get(attempt_id, tokens)
            answer_tokens = max(0.0, tokens - self._prompt_tokens(prompt))
            gate_id = self._run_spec.gate_id
            _answer_tokens[gate_id] = self._answer + NEWEST_WEIGHT * (answer_tokens - self._answer)

    def report(self, *, ready: int, slots: int) -> dict[str, Any]:
        """Fields of a ConcurrencyRequest of a batch with ``ready`` rows to send and ``slots`` slots."""
        return {
            "rate_limits": self._run_spec.rate_limits,
            "unsent": self.sends or 0,
            "unsent_tokens": self._granted_tokens,
            "more_requests": self._more_requests,
            "more_tokens": self._more_tokens,
            "asks": min(ready, slots + self._sent + 1),
            "row_tokens": self._row_tokens,
        }

    def settle(self, request: ConcurrencyRequest, allocation: Allocation) -> None:
        """Take over what the ledger has granted for a report."""
        self._more_requests -= request.more_requests
        self._more_tokens -= request.more_tokens
        # Rows that were sent during the exchange were reported as unsent.
        sent_meanwhile = request.unsent - (self.sends or 0)
        self.sends = None if allocation.sends is None else allocation.sends - sent_meanwhile
        self._sent = 0
        self._granted_tokens = request.row_tokens

    @property
    def _answer(self) -> float:
        return _answer_tokens.get(self._run_spec.gate_id, FIRST_ANSWER_TOKENS)

    def _prompt_tokens(self, prompt: str) -> float:
        return (len(prompt.encode("utf-8", "replace")) + self._system_bytes) / BYTES_PER_TOKEN


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
