"""The exceptions of this package.

``OpenCodeError`` and its subclasses describe why a row has no answer: one class for each reaction. The
others end a run or keep it from starting. All of them pickle with every field, so they cross Ray.

A class is declared here, with its ``error_type``, its ``reaction`` and its ``fix``.
``opencode_tasks/__init__.pyi`` exports it, and a rule in ``opencode_tasks/outcomes`` raises it. Nothing
else lists the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, TypeVar

from opencode_tasks.domain.reaction import Reaction
from opencode_tasks.domain.records import AttemptRecord
from opencode_tasks.domain.text import shorten
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.domain.work import WorkResult

Clock = Literal["first_event", "stall", "tool", "total"]

MESSAGE_LIMIT = 200

E = TypeVar("E", bound="OpenCodeTasksError")


class OpenCodeTasksError(Exception):
    """Base class of every exception of this package.

    Examples:
        >>> from opencode_tasks import InputError, OpenCodeTasksError, RateLimitError
        >>> issubclass(InputError, OpenCodeTasksError) and issubclass(RateLimitError, OpenCodeTasksError)
        True
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the constructor with ``args``, and constructors differ.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(
    cls: type[OpenCodeTasksError], args: tuple[Any, ...], fields: dict[str, Any]
) -> OpenCodeTasksError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class OpenCodeError(OpenCodeTasksError):
    """A row has no answer.

    Attributes:
        node_id: Ray's id of the node that processed the row; "unknown" outside Ray.
        error_type: Name of the kind of failure, as in the column ``error_type``.
        exit_code: Exit code of opencode; -1 if no process ended.
        raw_message: The provider's or opencode's message, as in the column ``error_message``.
        attempt: Sessions, usage and trace of the failed attempt; None if nothing is known of it.
        partial_text: Text that arrived before the failure; "" if there is none.
        retry_after: Seconds after which the provider accepts another request; None if it named no time.
        is_overload: Whether the provider says that it is overloaded.
        is_unavailable: Whether the provider as a whole does not answer, rather than this request.
        max_attempts: Attempts after which the row fails, if the user allows more: 1 if the same request
            would fail again. None for the user's limit.
        work: Changes of the workspace of the row up to the failure; without values for a row without one.
        concerns_all_rows: Whether every row of the run would fail in the same way, such as for a model
            that does not exist. The run then ends early.
        reaction: Effect on the row, its gate and the rows in flight.
        fix: Instruction for a person, without a capital and a full stop; ``{provider}`` is the provider.

    Examples:
        >>> from opencode_tasks import OpenCodeError
        >>> print(OpenCodeError("node-1", "unknown", raw_message="no answer"))
        unknown on node-1: no answer
    """

    reaction: ClassVar[Reaction] = Reaction(action="retry", wait="backoff", gate="none", concurrency="none")
    fix: ClassVar[str] = (
        "see `opencode-tasks show RUN_ID ROW_ID`, then run the command again; "
        "completed rows are not sent again"
    )
    error_type: str
    partial_text: str = ""
    retry_after: float | None = None
    is_overload: bool = False
    is_unavailable: bool = False
    max_attempts: int | None = None
    concerns_all_rows: bool = False

    def __init__(self, node_id: str, error_type: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, error_type, exit_code, raw_message)
        self.node_id = node_id
        self.error_type = error_type
        self.exit_code = exit_code
        self.raw_message = raw_message
        self.attempt: AttemptRecord | None = None
        self.work: WorkResult = WorkResult()

    def __str__(self) -> str:
        return f"{self.error_type} on {self.node_id}: {self.raw_message[:MESSAGE_LIMIT]}"

    @property
    def is_refusal(self) -> bool:
        """Whether the provider refused the request because it has too many."""
        effect = self.reaction.concurrency
        return effect == "refused" or (effect == "refused_if_overloaded" and self.is_overload)

    @property
    def named_reset_time(self) -> datetime | None:
        """The time (aware UTC) that the provider named for the end of its limit; None if it named none."""
        return None


class RateLimitError(OpenCodeError):
    """The provider accepts no further request until ``reset_time``.

    HTTP 429, or a limit that the provider reports under another status or inside a stream.

    Attributes:
        reset_time: End of the limit (aware UTC).
        reset_is_named: Whether the provider named that time, or the period of its limit, such as a day; if
            not, ``reset_time`` is an estimate.

    Examples:
        >>> from datetime import UTC, datetime
        >>> from opencode_tasks import RateLimitError
        >>> error = RateLimitError("node-1", datetime(2026, 1, 1, 12, tzinfo=UTC), "HTTP 429: slow down")
        >>> print(error)
        rate_limit on node-1: HTTP 429: slow down
        >>> f"{error.reset_time:%H:%M} UTC"
        '12:00 UTC'
    """

    error_type = "rate_limit"
    fix = "wait for the end of the limit, or lower --concurrency or set --requests-per-minute"
    reaction: ClassVar[Reaction] = Reaction(
        action="retry",
        wait="until_reset",
        uses_attempt=False,
        counter="rate_limits",
        gate="close_until_reset",
        concurrency="refused",
    )

    def __init__(
        self, node_id: str, reset_time: datetime, raw_message: str = "", exit_code: int = -1
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.reset_time = reset_time
        self.reset_is_named = True

    @property
    def named_reset_time(self) -> datetime | None:
        """The time (aware UTC) that the provider named for the end of its limit; None if it named none."""
        return self.reset_time if self.reset_is_named else None


class AuthenticationError(OpenCodeError):
    """The provider refuses the credentials, or there are none.

    HTTP 401 or 403, a key or login that is refused under another status, no credentials at all, or a proxy
    or network that requires a login (HTTP 407 or 511) or refuses programs.

    Examples:
        >>> from opencode_tasks import AuthenticationError
        >>> error = AuthenticationError("node-1", raw_message="HTTP 401: invalid x-api-key")
        >>> error.error_type, error.reaction.action
        ('authentication_failed', 'hold')
    """

    error_type = "authentication_failed"
    fix = (
        "set the API key of provider {provider} in the environment, or run `opencode auth login`, "
        "on the machine that runs the rows"
    )
    reaction: ClassVar[Reaction] = Reaction(
        action="hold", uses_attempt=False, gate="close_until_person", concurrency="none"
    )

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)


class BillingError(OpenCodeError):
    """The account cannot pay: no credit, a used-up quota, or no subscription.

    HTTP 402, or an error about credit, a balance, a budget or a subscription under any status.

    Examples:
        >>> from opencode_tasks import BillingError
        >>> error = BillingError("node-1", raw_message="HTTP 402: no credit")
        >>> error.error_type, error.reaction.action
        ('billing_error', 'hold')
    """

    error_type = "billing_error"
    fix = "add credit to the account of provider {provider}, or use another model or key"
    reaction: ClassVar[Reaction] = Reaction(
        action="hold", uses_attempt=False, gate="close_until_person", concurrency="none"
    )

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)


class InvalidRequestError(OpenCodeError):
    """The provider or opencode refuses this request, and would refuse it again.

    Another HTTP status from 300, or a model, an agent or a config that opencode refuses. If every row
    would fail in the same way, such as for a model that does not exist or a wrong address (HTTP 404 or 405),
    the run ends early.

    Examples:
        >>> from opencode_tasks import InvalidRequestError
        >>> error = InvalidRequestError("node-1", raw_message="HTTP 400: the prompt is too long")
        >>> error.error_type, error.reaction.action
        ('invalid_request', 'fail')
    """

    error_type = "invalid_request"
    fix = "correct what the message names: the prompt, the model or its options"
    reaction: ClassVar[Reaction] = Reaction(action="fail", gate="open", concurrency="accepted")

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)


class ServerError(OpenCodeError):
    """The provider, or the connection to it, failed.

    HTTP 408, 409, 425, 499 or another 5xx, a connection that fails, or an answer that is cut.

    Attributes:
        retry_after: Seconds after which the provider accepts another request; None if it named no time.
        is_overload: Whether the provider says that it is overloaded.

    Examples:
        >>> from opencode_tasks import ServerError
        >>> error = ServerError("node-1", raw_message="HTTP 503: overloaded", retry_after=7)
        >>> error.retry_after, error.reaction.action
        (7, 'retry')
    """

    error_type = "server_error"
    fix = "run the command again later; completed rows are not sent again"
    reaction: ClassVar[Reaction] = Reaction(
        action="retry", wait="backoff", gate="count_failure", concurrency="refused_if_overloaded"
    )

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.retry_after = retry_after
        self.is_overload = False


class MaxOutputTokensError(OpenCodeError):
    """The answer reached the model's output limit, or the conversation its context limit.

    Finish reason ``length``, or a context overflow.

    Attributes:
        partial_text: Text of the answer up to the limit; "" if there is none.

    Examples:
        >>> from opencode_tasks import MaxOutputTokensError
        >>> error = MaxOutputTokensError("node-1", raw_message="cut at 8000 tokens", partial_text="The first")
        >>> error.partial_text, error.reaction.max_attempts
        ('The first', 2)
    """

    error_type = "max_output_tokens"
    fix = "raise limit.output of the model in the opencode config, or request shorter answers"
    # It is sent once more even if the user allows one attempt: the next answer is often shorter.
    reaction: ClassVar[Reaction] = Reaction(
        action="retry",
        counter="cut_off_answers",
        max_attempts=2,
        gate="open",
        concurrency="accepted",
        keeps_partial_text=True,
        # The next answer would be the rest of this one.
        continues_session=False,
    )

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", partial_text: str = ""
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.partial_text = partial_text


class UnknownOpenCodeError(OpenCodeError):
    """A failure that no other class describes.

    No answer and no error that opencode names, for example an empty response.

    Attributes:
        stderr: Text that opencode wrote to stderr; "" if it wrote none.

    Examples:
        >>> from opencode_tasks import UnknownOpenCodeError
        >>> error = UnknownOpenCodeError("node-1", raw_message="empty response", stderr="panic: no memory")
        >>> error.stderr
        'panic: no memory'
    """

    error_type = "unknown"
    reaction: ClassVar[Reaction] = Reaction(action="retry", wait="backoff", gate="none", concurrency="none")

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "", stderr: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.stderr = stderr


class OpenCodeTimeoutError(OpenCodeError):
    """One of the time limits of an attempt passed.

    No answer in time: a limit of ``--timeout``, ``--first-event-timeout``, ``--stall-timeout`` or
    ``--tool-timeout`` was reached.

    Attributes:
        clock: ``first_event``: no sign of an answer. ``stall``: the answer stopped for too long.
            ``tool``: a tool ran for too long. ``total``: the attempt took too long.
        seconds: That limit in seconds; None if it is unknown.

    Examples:
        >>> from opencode_tasks import OpenCodeTimeoutError
        >>> error = OpenCodeTimeoutError("node-1", raw_message="no answer in 600 s", seconds=600)
        >>> error.clock, error.seconds
        ('total', 600)
    """

    error_type = "timeout"
    fix = "raise the limit that the message names, or use a faster model"
    reaction: ClassVar[Reaction] = Reaction(
        action="retry", wait="backoff", gate="count_failure", concurrency="none"
    )

    def __init__(
        self,
        node_id: str,
        exit_code: int = -1,
        raw_message: str = "",
        clock: Clock = "total",
        seconds: float | None = None,
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.clock: Clock = clock
        self.seconds = seconds


class StructuredOutputError(OpenCodeError):
    """The answer does not fit the JSON schema, nor does the answer to the repair prompt.

    An answer that does not fit ``--schema``, twice.

    Attributes:
        text: The last answer; also ``partial_text``.

    Examples:
        >>> from opencode_tasks import StructuredOutputError
        >>> error = StructuredOutputError("node-1", raw_message="label: required", text="{}")
        >>> error.text == error.partial_text
        True
    """

    error_type = "structured_output"
    fix = "simplify the schema or the labels, raise --max-repairs, or use a model that follows them"
    reaction: ClassVar[Reaction] = Reaction(
        action="fail", gate="open", concurrency="accepted", keeps_partial_text=True
    )

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "", text: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.text = text
        self.partial_text: str = text


class PermissionDeniedError(OpenCodeError):
    """The agent requested tools that its config does not allow, and gave no answer without them.

    A tool call that the permissions of the agent forbid, and no answer.

    Attributes:
        tools: Names of the tools, in order of the requests.

    Examples:
        >>> from opencode_tasks import PermissionDeniedError
        >>> error = PermissionDeniedError("node-1", raw_message="bash is not allowed", tools=("bash",))
        >>> error.tools
        ('bash',)
    """

    error_type = "permission_denied"
    fix = "allow the tool in the config of the agent, or use an agent that needs no tool"
    reaction: ClassVar[Reaction] = Reaction(action="fail", gate="open", concurrency="accepted")

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", tools: tuple[str, ...] = ()
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.tools: Final = tuple(tools)


class AttachedFileError(OpenCodeError):
    """A file of the row cannot be attached to its prompt.

    It is not on the machine of the worker, it cannot be read, it has changed since the run began, or the
    model does not take it. The row was not sent with it.

    Examples:
        >>> from opencode_tasks import AttachedFileError
        >>> print(AttachedFileError("node-1", raw_message="there is no file '/data/1.png'"))
        attached_file on node-1: there is no file '/data/1.png'
    """

    error_type = "attached_file"
    fix = "make the files of --file readable where the rows run, and run the command again"
    reaction: ClassVar[Reaction] = Reaction(action="retry", wait="backoff", gate="none", concurrency="none")

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)


class WorkspaceError(OpenCodeError):
    """The workspace of the row cannot be made, or its changes cannot be read.

    A source that is not on the machine of the worker, that has changed since the run began, that is too large
    or that cannot be fetched. Nothing was sent, unless the message is about the changes.

    Examples:
        >>> from opencode_tasks import WorkspaceError
        >>> print(WorkspaceError("node-1", raw_message="cannot fetch 1234abcd of ssh://host/x.git"))
        workspace on node-1: cannot fetch 1234abcd of ssh://host/x.git
    """

    error_type = "workspace"
    fix = "make the source of the workspace readable where the rows run, and run the command again"
    reaction: ClassVar[Reaction] = Reaction(
        action="retry", wait="backoff", gate="none", concurrency="none", keeps_partial_text=True
    )

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", partial_text: str = ""
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.partial_text = partial_text


class CheckFailedError(OpenCodeError):
    """The check command of a row failed after the work of the agent, and the run requires it to pass.

    Attributes:
        partial_text: Answer of the agent.

    Examples:
        >>> from opencode_tasks import CheckFailedError
        >>> error = CheckFailedError("node-1", raw_message="exit code 1: 1 failed", partial_text="Done.")
        >>> error.error_type, error.partial_text
        ('check_failed', 'Done.')
    """

    error_type = "check_failed"
    fix = "read check_output and the diff of the row; --check-retries lets the agent correct its work"
    reaction: ClassVar[Reaction] = Reaction(
        action="fail", gate="open", concurrency="accepted", keeps_partial_text=True
    )

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", partial_text: str = ""
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.partial_text = partial_text


class SandboxLimitError(OpenCodeError):
    """The programs of a row exceeded a limit of their sandbox, and were ended.

    Limits are those of memory, number of processes, and number and size of the files that the row adds.

    Examples:
        >>> from opencode_tasks import SandboxLimitError
        >>> print(SandboxLimitError("node-1", raw_message="it used more than 512 processes"))
        sandbox_limit on node-1: it used more than 512 processes
    """

    error_type = "sandbox_limit"
    fix = "read the tool calls of the row; the message names the setting with the limit"
    reaction: ClassVar[Reaction] = Reaction(action="fail", gate="none", concurrency="none")

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "") -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)


class ContentFilteredError(OpenCodeError):
    """The provider's content filter stopped the answer.

    Finish reason ``content-filter``, or a blocked prompt.

    Attributes:
        partial_text: Text of the answer before the filter stopped it; "" if there is none.

    Examples:
        >>> from opencode_tasks import ContentFilteredError
        >>> error = ContentFilteredError("node-1", raw_message="SAFETY", partial_text="The first")
        >>> error.error_type, error.partial_text
        ('content_filter', 'The first')
    """

    error_type = "content_filter"
    fix = "change the prompt: the content filter of provider {provider} refuses it"
    reaction: ClassVar[Reaction] = Reaction(
        action="fail", gate="open", concurrency="accepted", keeps_partial_text=True
    )

    def __init__(
        self, node_id: str, exit_code: int = -1, raw_message: str = "", partial_text: str = ""
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.partial_text = partial_text


class BudgetExceededError(OpenCodeError):
    """The row has reached a limit: its cost, or its number of model calls.

    The cost is above ``--max-row-cost``, or the model calls are above ``OPENCODE_TASKS_MAX_STEPS``.

    Attributes:
        limit_usd: The row's limit in US dollars; None if the limit is the number of model calls.
        spent_usd: The cost of the row so far in US dollars; None if it is unknown.

    Examples:
        >>> from opencode_tasks import BudgetExceededError
        >>> error = BudgetExceededError("node-1", raw_message="limit reached", limit_usd=0.5, spent_usd=0.52)
        >>> error.spent_usd > error.limit_usd
        True
    """

    error_type = "budget_exceeded"
    fix = "raise --max-cost, or --max-row-cost for a single row"
    reaction: ClassVar[Reaction] = Reaction(action="fail", gate="open", concurrency="accepted")

    def __init__(
        self,
        node_id: str,
        exit_code: int = -1,
        raw_message: str = "",
        limit_usd: float | None = None,
        spent_usd: float | None = None,
    ) -> None:
        super().__init__(node_id, self.error_type, exit_code, raw_message)
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd


def all_classes() -> tuple[type[OpenCodeTasksError], ...]:
    """Return every exception of this package, the base class first, in the order of their declaration."""
    return tuple(_family(OpenCodeTasksError))


def row_error_classes() -> tuple[type[OpenCodeError], ...]:
    """Return every subclass of ``OpenCodeError``, in the order of their declaration."""
    return tuple(_family(OpenCodeError))[1:]


def _family(cls: type[E]) -> Iterator[type[E]]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _family(subclass)


def error_types(matches: Callable[[Reaction], bool]) -> tuple[str, ...]:
    """Return the ``error_type`` of every class whose reaction matches."""
    return tuple(cls.error_type for cls in row_error_classes() if matches(cls.reaction))


class SetupError(OpenCodeTasksError):
    """Something that a run needs is missing: a program, a ledger, a server, a Ray cluster.

    It is no failure of a row: rows stay open.

    Attributes:
        node_id: Ray's id of the node that found the fault; "unknown" outside Ray.
        error_type: "setup".
        exit_code: Exit code of the program that failed; -1 if no process ended.
        raw_message: What is missing or failed.
        hint: What to do about it; "" if nothing is known.

    Examples:
        >>> from opencode_tasks import SetupError
        >>> error = SetupError("unknown", raw_message="there is no opencode", hint="opencode-tasks setup")
        >>> error.hint
        'opencode-tasks setup'
    """

    error_type = "setup"

    def __init__(self, node_id: str, exit_code: int = -1, raw_message: str = "", hint: str = "") -> None:
        super().__init__(node_id, exit_code, raw_message, hint)
        self.node_id = node_id
        self.exit_code = exit_code
        self.raw_message = raw_message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.error_type} on {self.node_id}: {self.raw_message[:MESSAGE_LIMIT]}"


class RunPausedError(OpenCodeTasksError):
    """A run is on hold. Its open rows are in the ledger, and ``resume`` sends them later.

    Attributes:
        run_id: The run.
        until: Time (aware UTC) at which rows can be sent again; None if a person must act first.
        error_type: Kind of the failure that holds the run, for example "rate_limit".
        message: Message of that failure.
        open_rows: Number of rows without an outcome.
        model_ref: Model whose provider is the cause, in a run with several; None for the only one.

    Examples:
        >>> from opencode_tasks import RunPausedError
        >>> print(RunPausedError("r1", None, "billing_error", "HTTP 402: no credit", 3))
        run r1: 3 rows wait for a person: billing_error: HTTP 402: no credit
    """

    def __init__(
        self,
        run_id: str,
        until: datetime | None,
        error_type: str,
        message: str,
        open_rows: int,
        model_ref: str | None = None,
    ) -> None:
        super().__init__(run_id, until, error_type, message, open_rows, model_ref)
        self.run_id = run_id
        self.until = until
        self.error_type = error_type
        self.message = message
        self.open_rows = open_rows
        self.model_ref = model_ref

    def __str__(self) -> str:
        rows = "1 row waits" if self.open_rows == 1 else f"{self.open_rows} rows wait"
        when = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else " for a person"
        return f"run {self.run_id}: {rows}{when}: {self.error_type}: {shorten(self.message, MESSAGE_LIMIT)}"


class TooManyFailedError(OpenCodeTasksError):
    """More rows of a run failed than ``max_failed`` allows. The output is written.

    Attributes:
        run_id: The run.
        failed: Number of failed rows.
        allowed: Number of rows that may fail.
        summary: The run's summary, as ``annotate --json`` prints it.

    Examples:
        >>> from opencode_tasks import TooManyFailedError
        >>> print(TooManyFailedError("r1", 3, 2, {}))
        run r1: 3 rows failed, and --max-failed allows 2
    """

    def __init__(self, run_id: str, failed: int, allowed: int, summary: Mapping[str, Any]) -> None:
        super().__init__(run_id, failed, allowed, summary)
        self.run_id = run_id
        self.failed = failed
        self.allowed = allowed
        self.summary = summary

    def __str__(self) -> str:
        rows = "1 row" if self.failed == 1 else f"{self.failed} rows"
        return f"run {self.run_id}: {rows} failed, and --max-failed allows {self.allowed}"


class LowAccuracyError(OpenCodeTasksError):
    """The answers of a run are less accurate than ``min_accuracy`` requires. The output is written.

    Attributes:
        run_id: The run.
        field: Field of the answers; ``response`` for answers without fields.
        accuracy: Share of answers that equal the gold value; None if no row with one has an answer.
        required: Share that is required.
        summary: The run's summary, as ``annotate --json`` prints it.

    Examples:
        >>> from opencode_tasks import LowAccuracyError
        >>> print(LowAccuracyError("r1", "response", 0.8125, 0.9, {}))
        run r1: accuracy of response is 81.2 %, and --min-accuracy requires 90 %
    """

    def __init__(
        self, run_id: str, field: str, accuracy: float | None, required: float, summary: Mapping[str, Any]
    ) -> None:
        super().__init__(run_id, field, accuracy, required, summary)
        self.run_id = run_id
        self.field = field
        self.accuracy = accuracy
        self.required = required
        self.summary = summary

    def __str__(self) -> str:
        found = "unknown" if self.accuracy is None else f"{self.accuracy * 100:.3g} %"
        return (
            f"run {self.run_id}: accuracy of {self.field} is {found}, "
            f"and --min-accuracy requires {self.required * 100:g} %"
        )


class InputError(OpenCodeTasksError, ValueError):
    """The input or an option is wrong. Nothing was sent.

    Attributes:
        faults: One line for each fault, with the row or option, the reason and what to do. Passwords, tokens
            and signatures of URLs are replaced by ``***``.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import InputError, annotate
        >>> try:
        ...     annotate(pd.DataFrame({"text": ["one"]}), backend="null", max_attempts=0)
        ... except InputError as error:
        ...     print(len(error.faults))
        2
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        shown = tuple(without_url_secrets(fault) for fault in faults)
        super().__init__(shown)
        self.faults: Final = shown

    def __str__(self) -> str:
        return "\n".join(self.faults)
