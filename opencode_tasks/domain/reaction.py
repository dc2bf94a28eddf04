"""The reaction to an error, as data: one value on each error class, read by every part that reacts.

``domain/policy.py`` decides about the row, ``ledger/gates.py`` about the gate, ``engine/limiter.py`` about
the rows in flight and ``ledger/commit.py`` about the partial text. None of them knows a class of error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["retry", "hold", "fail"]
Wait = Literal["none", "backoff", "until_reset"]
Counter = Literal["attempts", "cut_off_answers", "rate_limits"]
GateEffect = Literal["none", "open", "count_failure", "close_until_reset", "close_until_person"]
ConcurrencyEffect = Literal["none", "accepted", "refused", "refused_if_overloaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """The reaction to an attempt that ended in an error of one class.

    Attributes:
        action: The next state of the row. ``retry``: it is sent again, until its attempts are used up.
            ``hold``: it stays open until a person acts. ``fail``: it has failed.
        gate: Effect on the gate of the provider, model and credential. ``none``: nothing.
            ``open``: the provider answered, so the gate opens and its failures are forgotten.
            ``count_failure``: one failure more; the gate closes for a while after too many in a row.
            ``close_until_reset``: it closes until the provider's limit ends. ``close_until_person``: it
            closes until a person acts, unless other rows of the gate succeed.
        concurrency: Effect on the number of rows in flight. ``none``: nothing.
            ``accepted``: the provider accepts that number. ``refused``: it accepts fewer.
            ``refused_if_overloaded``: so if the provider says that it is overloaded, else nothing.
        wait: How long a retry waits. ``none``: not at all. ``backoff``: as long as the provider asks,
            else longer after each attempt. ``until_reset``: until the provider's limit ends.
        uses_attempt: Whether the attempt counts towards the row's limit of attempts.
        counter: Which of the row's attempts are counted for the next retry: all that count, or only those
            that ended in the same way.
        max_attempts: Number of that counter at which the row fails; None for the user's limit. Without
            effect if ``uses_attempt`` is False.
        keeps_partial_text: Whether the error's ``partial_text`` becomes the ``response`` of a failed row.
        continues_session: Whether the next attempt continues the session of an agent with finished steps.

    Examples:
        >>> from opencode_tasks import BillingError, ServerError
        >>> ServerError.reaction.action, ServerError.reaction.wait
        ('retry', 'backoff')
        >>> BillingError.reaction.gate
        'close_until_person'
    """

    action: Action
    gate: GateEffect
    concurrency: ConcurrencyEffect
    wait: Wait = "none"
    uses_attempt: bool = True
    counter: Counter = "attempts"
    max_attempts: int | None = None
    keeps_partial_text: bool = False
    continues_session: bool = True
