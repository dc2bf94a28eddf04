"""What can go wrong with a row, one class per different reaction.

Every error pickles with all its fields (they cross Ray), so each constructor can be called with
its positional arguments alone. ``disposition`` says how the class is met: ``retry`` (a later
attempt may succeed), ``pause`` (only a person can mend it) or ``fail`` (this row cannot succeed).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

Disposition = Literal["retry", "pause", "fail"]
Clock = Literal["first_event", "stall", "total"]

MESSAGE_LIMIT = 200


class OpenCodeError(Exception):
    """A row could not be answered.

    ``node_id`` is Ray's node id ("unknown" outside Ray), ``exit_code`` that of opencode (-1 where
    no process ended), ``raw_message`` the provider's or opencode's own words. ``attempt`` is what
    the failed attempt left behind (sessions, usage, trace), None where nothing is known of it.
    """

    disposition: ClassVar[Disposition] = "retry"

    def __init__(self, node_id: str, error_type: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, error_type, exit_code, raw_message)
        self.node_id = node_id
        self.error_type = error_type
        self.exit_code = exit_code
        self.raw_message = raw_message
        self.attempt: Any = None

    def __str__(self) -> str:
        return f"{self.error_type} on {self.node_id}: {self.raw_message[:MESSAGE_LIMIT]}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way would call the constructor with the arguments of OpenCodeError.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[OpenCodeError], args: tuple[Any, ...], fields: dict[str, Any]) -> OpenCodeError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class RateLimitError(OpenCodeError):
    """The provider answers no more before ``reset_time`` (aware UTC).

    ``reset_is_named`` is False where the provider named no moment and ``reset_time`` is our guess.
    """

    disposition = "retry"

    def __init__(
        self, node_id: str, reset_time: datetime, raw_message: str = "", exit_code: int = -1
    ) -> None:
        super().__init__(node_id, "rate_limit", exit_code, raw_message)
        self.reset_time = reset_time
        self.reset_is_named = True


class AuthenticationError(OpenCodeError):
    """The provider refuses the credentials, or there are none."""

    disposition = "pause"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, "authentication_failed", exit_code, raw_message)


class BillingError(OpenCodeError):
    """The provider wants money: no credit, a spent quota, an unpaid subscription."""

    disposition = "pause"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, "billing_error", exit_code, raw_message)


class InvalidRequestError(OpenCodeError):
    """The provider or opencode refuses this request as it is; another try would be refused too."""

    disposition = "fail"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, "invalid_request", exit_code, raw_message)


class ServerError(OpenCodeError):
    """The provider or the way to it failed; ``retry_after`` is its wish in seconds, None without one.

    ``is_overload`` says that it has too much to do, by its own words.
    """

    disposition = "retry"

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(node_id, "server_error", exit_code, raw_message)
        self.retry_after = retry_after
        self.is_overload = False


class MaxOutputTokensError(OpenCodeError):
    """The answer or the conversation hit the model's token limit; ``partial_text`` is what came."""

    disposition = "retry"

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", partial_text: str = ""
    ) -> None:
        super().__init__(node_id, "max_output_tokens", exit_code, raw_message)
        self.partial_text = partial_text


class UnknownOpenCodeError(OpenCodeError):
    """Anything that no other class describes; ``stderr`` is what opencode wrote there."""

    disposition = "retry"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "", stderr: str = "") -> None:
        super().__init__(node_id, "unknown", exit_code, raw_message)
        self.stderr = stderr


class OpenCodeTimeoutError(OpenCodeError):
    """One of our clocks ran out: ``clock`` says which, ``seconds`` its limit."""

    disposition = "retry"

    def __init__(
        self,
        node_id: str,
        exit_code: int = -1,
        raw_message: str = "",
        clock: Clock = "total",
        seconds: float | None = None,
    ) -> None:
        super().__init__(node_id, "timeout", exit_code, raw_message)
        self.clock: Clock = clock
        self.seconds = seconds


class StructuredOutputError(OpenCodeError):
    """The answer does not fit the schema, after the repair turn too; ``text`` is that answer."""

    disposition = "fail"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "", text: str = "") -> None:
        super().__init__(node_id, "structured_output", exit_code, raw_message)
        self.text = text


class PermissionDeniedError(OpenCodeError):
    """The agent asked for ``tools`` that its config does not allow, and gave no answer without them."""

    disposition = "fail"

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", tools: tuple[str, ...] = ()
    ) -> None:
        super().__init__(node_id, "permission_denied", exit_code, raw_message)
        self.tools = tuple(tools)


class ContentFilteredError(OpenCodeError):
    """The provider's content filter stopped the answer; ``partial_text`` is what came before."""

    disposition = "fail"

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", partial_text: str = ""
    ) -> None:
        super().__init__(node_id, "content_filter", exit_code, raw_message)
        self.partial_text = partial_text


class BudgetExceededError(OpenCodeError):
    """The row has reached its limit: ``spent_usd`` of ``limit_usd``, or its most model calls (both None)."""

    disposition = "fail"

    def __init__(
        self,
        node_id: str,
        exit_code: int = -1,
        raw_message: str = "",
        limit_usd: float | None = None,
        spent_usd: float | None = None,
    ) -> None:
        super().__init__(node_id, "budget_exceeded", exit_code, raw_message)
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd


class SetupError(OpenCodeError):
    """Something that must be there before the first row is not; ``hint`` says what to do."""

    disposition = "fail"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "", hint: str = "") -> None:
        super().__init__(node_id, "setup", exit_code, raw_message)
        self.hint = hint


class RunPausedError(Exception):
    """A run that cannot go on now; its open rows are in the ledger, and ``resume`` goes on with them.

    ``until`` (aware UTC) is when it may go on, None where a person must mend something first.
    ``error_type`` and ``words`` say what is in the way, ``open_rows`` how many rows wait.
    """

    def __init__(
        self, run_id: str, until: datetime | None, error_type: str, words: str, open_rows: int
    ) -> None:
        super().__init__(run_id, until, error_type, words, open_rows)
        self.run_id = run_id
        self.until = until
        self.error_type = error_type
        self.words = words
        self.open_rows = open_rows

    def __str__(self) -> str:
        rows = "1 row waits" if self.open_rows == 1 else f"{self.open_rows} rows wait"
        when = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else " for a person"
        return f"run {self.run_id}: {rows}{when}: {self.error_type}: {self.words[:MESSAGE_LIMIT]}"


class TooManyFailedError(Exception):
    """More of a run's rows failed than were allowed. The output is written; ``summary`` tells of it."""

    def __init__(self, run_id: str, failed: int, allowed: int, summary: Mapping[str, Any]) -> None:
        super().__init__(run_id, failed, allowed, summary)
        self.run_id = run_id
        self.failed = failed
        self.allowed = allowed
        self.summary = summary

    def __str__(self) -> str:
        rows = "1 row" if self.failed == 1 else f"{self.failed} rows"
        return f"run {self.run_id}: {rows} failed, at most {self.allowed} may (--max-failed)"


class InputError(ValueError):
    """The input or an option is wrong; ``faults`` holds one line for each fault found."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(self.faults)
