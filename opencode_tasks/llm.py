"""OpenCodeLLM: a model behind opencode, without Prefect and without a ledger."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.domain.policy import AttemptCounts, Retry, RetryLimits, decide
from opencode_tasks.domain.prompt_faults import prompt_faults
from opencode_tasks.domain.records import TOKEN_COLUMNS, Answer, AttemptRecord, QueryResult, RemoteTool
from opencode_tasks.domain.usage import total_usage
from opencode_tasks.engine.ask import ask
from opencode_tasks.errors import (
    InputError,
    InvalidRequestError,
    OpenCodeError,
    OpenCodeTimeoutError,
    RateLimitError,
    SetupError,
    UnknownOpenCodeError,
)
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    DEFAULT_SYSTEM,
    BackendName,
    Clocks,
    OpencodeSpec,
    Request,
)
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.opencode.config import config_in_force
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.outcomes.session_messages import assistant_messages
from opencode_tasks.outcomes.trace import append_trace, render_trace
from opencode_tasks.plan.own_prices import own_prices
from opencode_tasks.settings import MAX_SECONDS
from opencode_tasks.system.ray_node import current_node_id

DEFAULT_BINARY_NAME = "opencode"
NO_MODEL = "<opencode default>"
RETURNED_ERRORS = (UnknownOpenCodeError, OpenCodeTimeoutError)


class Tool(Protocol):
    """Any object with the address of a remote MCP server, ``http://{hostname}:{port}/{name}/mcp``.

    An attribute ``node_id`` is reported in ``OpenCodeLLM.last_metadata`` if the object has one.

    Examples:
        A server that runs as a Ray actor, or any class of yours:

        >>> from dataclasses import dataclass
        >>> from opencode_tasks import Tool
        >>> @dataclass
        ... class Weather:
        ...     name: str = "weather"
        ...     hostname: str = "10.0.0.7"
        ...     port: int = 8000
        >>> tool: Tool = Weather()
        >>> f"http://{tool.hostname}:{tool.port}/{tool.name}/mcp"
        'http://10.0.0.7:8000/weather/mcp'
    """

    @property
    def name(self) -> str:
        """Name of the server, a part of its path."""
        ...

    @property
    def hostname(self) -> str:
        """Host on which the server listens."""
        ...

    @property
    def port(self) -> int:
        """Port on which the server listens."""
        ...


class OpenCodeLLM:
    """A model behind opencode, with retries and typed errors. Picklable, so that Ray can send it.

    It needs neither Prefect nor a ledger.

    Args:
        model: Model as ``provider/model``; None lets opencode choose, and logs that.
        system_message: System text of the default agent; "" for "You are a helpful assistant."
        timeout_seconds: Time limit of one attempt, in seconds.
        retries: Number of attempts, at least 1.
        logging_name: Name of the logger, and start of the name of the trace file.
        logging_level: Level of the log lines.
        log_dir: Folder to which the trace of each attempt is appended; None writes no trace.
        opencode_bin: Path of the opencode binary; "opencode" for the one that ``opencode-tasks setup``
            installed, or the one on PATH.
        agent_name: The default agent, which has no tools, or an agent of the user's opencode config.
        work_dir: Folder in which opencode works; None for a fixed, empty folder.
        extra_cli_args: Further arguments of ``opencode run``, for the backend ``cli`` alone.
        backend: ``server`` (a long-running process) or ``cli`` (a process per prompt).
        config: opencode config, merged over the user's global one; None adds nothing.
        variant: Variant of the model, such as its reasoning effort; None for the model's default.
        clocks: Time limits in detail; they replace ``timeout_seconds``. None derives them from it.
        limits: Retry limits in detail; they replace ``retries``. None derives them from it.

    Attributes:
        last_metadata: Description of the last attempt: ``model``, ``tools``, ``usage`` (tokens by kind),
            ``turns``, ``cost`` (US dollars) and ``session_id``. Unknown values are None. Empty before the
            first prompt.

    Raises:
        ValueError: If an argument is invalid.

    Examples:
        >>> from opencode_tasks import InvalidRequestError, OpenCodeLLM
        >>> llm = OpenCodeLLM("anthropic/claude-haiku-4-5", system_message="Answer with one word.")
        >>> answer = llm.prompt("Is 7 a prime number?")
        >>> answer.success, answer.result
        (True, 'yes')
        >>> llm.last_metadata["model"], llm.last_metadata["turns"]
        ('anthropic/claude-haiku-4-5', 1)

        An error that a retry cannot fix is raised:

        >>> try:
        ...     OpenCodeLLM("anthropic/no-such-model").prompt("Is 7 a prime number?")
        ... except InvalidRequestError as error:
        ...     print(error.error_type)
        invalid_request
    """

    def __init__(
        self,
        model: str | None = None,
        system_message: str = "",
        timeout_seconds: float = 600,
        retries: int = 3,
        logging_name: str = "opencode",
        logging_level: int = logging.DEBUG,
        log_dir: str | Path | None = None,
        opencode_bin: str = DEFAULT_BINARY_NAME,
        agent_name: str = DEFAULT_AGENT,
        work_dir: str | Path | None = None,
        extra_cli_args: Sequence[str] | None = None,
        *,
        backend: BackendName = "server",
        config: Mapping[str, Any] | None = None,
        variant: str | None = None,
        clocks: Clocks | None = None,
        limits: RetryLimits | None = None,
    ) -> None:
        texts: dict[str, Any] = {
            "system_message": system_message,
            "logging_name": logging_name,
            "opencode_bin": opencode_bin,
            "agent_name": agent_name,
        }
        for name, value in {**texts, "model": model or "", "variant": variant or ""}.items():
            _require(isinstance(value, str), f"{name}: {value!r} is not text")
        is_count = type(retries) is int and retries >= 1
        _require(is_count, f"retries: {retries!r} is not a number of attempts of at least 1")
        is_time = type(timeout_seconds) in (int, float) and 0 < timeout_seconds <= MAX_SECONDS
        _require(is_time, f"timeout_seconds: {timeout_seconds!r} is not a number of seconds above 0")
        _require(
            extra_cli_args is None or _are_texts(extra_cli_args),
            f"extra_cli_args: {extra_cli_args!r} is not a list of texts, such as ['--flag', 'value']",
        )
        backends = [name for name, kind in BACKENDS.items() if kind.runs_opencode]
        if backend not in backends:
            raise ValueError(f"backend is {' or '.join(map(repr, backends))}, not {backend!r}")
        self.model = model
        self.system_message = system_message
        self.timeout_seconds = timeout_seconds
        self.retries = retries
        self.logging_name = logging_name
        self.logging_level = logging_level
        self.log_dir: Final = Path(log_dir) if log_dir else None
        self.opencode_bin = opencode_bin
        self.agent_name = agent_name
        self.work_dir: Final = Path(work_dir).resolve() if work_dir else None
        self.extra_cli_args: Final = tuple(extra_cli_args or ())
        self.backend: BackendName = backend
        self.config: Final = dict(config or {})
        self.variant = variant
        self.clocks: Final = clocks or Clocks.within(timeout_seconds)
        self.limits: Final = limits or RetryLimits(max_attempts=retries)
        self.started: Final = datetime.now(UTC)
        self.last_metadata: dict[str, Any] = {}

    def prompt(self, user_message: str, tools: Sequence[Tool] | None = None) -> QueryResult:
        """Send a prompt and return the answer, after retries if they can help.

        An answer that is cut at the token limit is retried once, then raised. A server error is raised when
        the attempts are used up. After unknown errors and timeouts that used up the attempts, the result has
        ``success=False`` and the last cause in ``stderr``.

        Args:
            user_message: The prompt. It is sent as it is: nothing in it is expanded.
            tools: Remote MCP servers whose tools the agent may use; None for none.

        Returns:
            The answer, its trace, and whether there is one.

        Raises:
            InputError: If the prompt is empty or an argument is invalid. Nothing has been sent.
            RateLimitError: Immediately, if the provider limits the rate.
            AuthenticationError: Immediately, if the provider refuses the credentials or there are none.
            BillingError: Immediately, if the account cannot pay.
            InvalidRequestError: Immediately, if the provider or opencode refuses the request.
            ServerError: If the last attempt ended in a failure of the provider.
            MaxOutputTokensError: If the answer was cut at the token limit twice.
            ContentFilteredError: Immediately, if the provider's filter stopped the answer.
            PermissionDeniedError: Immediately, if the agent needs a tool that it may not use.
            BudgetExceededError: Immediately, if the prompt reached its number of model calls.
            SetupError: If opencode is missing or cannot be started.

        Examples:
            >>> from opencode_tasks import OpenCodeLLM
            >>> OpenCodeLLM("anthropic/claude-haiku-4-5").prompt("Is 7 a prime number?").result
            'yes'
        """
        if faults := prompt_faults(user_message, tools or ()):
            raise InputError(tuple(faults))
        if self.model is None:
            self._log("no model is set: opencode chooses its default")
        spec = self._spec(tuple(_remote(tool) for tool in tools or ()))
        counts = AttemptCounts()
        while True:
            try:
                answer = server_pool.call(self._ask, spec, user_message)
            except SetupError as error:
                self._record(None, user_message, tools, str(error))
                raise
            except OpenCodeError as error:
                self._record(error.attempt, user_message, tools, str(error))
                decision = decide(error, counts.count(error), datetime.now(UTC), self.limits)
                if isinstance(error, RateLimitError) or not isinstance(decision, Retry):
                    if isinstance(error, RETURNED_ERRORS):
                        return _failure(error)
                    raise
                self._log(f"attempt {counts.used} failed ({error}); next at {decision.at:%H:%M:%S} UTC")
                # A caller waits for this method: not for longer than our own backoff.
                wait_s = (decision.at - datetime.now(UTC)).total_seconds()
                time.sleep(min(self.limits.backoff_max_s, max(0.0, wait_s)))
            else:
                self._record(answer.attempt, user_message, tools, None)
                return _success(answer)

    async def _ask(self, spec: OpencodeSpec, user_message: str) -> Answer:
        try:
            catalog = await server_pool.catalog(spec, self.variant, self.backend)
        except InputError as error:
            raise InvalidRequestError(current_node_id(), -1, str(error)) from None
        prices, faults = own_prices()
        if faults:
            raise InvalidRequestError(current_node_id(), -1, "; ".join(faults))
        request = Request(
            prompt=user_message,
            model_ref=catalog.model_ref,
            agent=self.agent_name,
            system=spec.system if self.agent_name == DEFAULT_AGENT else (self.system_message or None),
            variant=self.variant,
            prices=replace(prices, configured=catalog.prices),
        )
        session: list[str] = []
        async with server_pool.use(spec, self.backend, catalog.unpriced) as backend:
            try:
                return await ask(backend, request, node_id=current_node_id(), on_session=session.append)
            finally:
                # Without a ledger, the session is not needed again.
                for session_id in session[-1:]:
                    backend.release_session(session_id)

    def _spec(self, tools: tuple[RemoteTool, ...]) -> OpencodeSpec:
        explicit = None if self.opencode_bin == DEFAULT_BINARY_NAME else self.opencode_bin
        return OpencodeSpec(
            binary=find_binary(explicit),
            config=config_in_force(self.config, os.environ),
            model_ref=self.model,
            system=self.system_message or DEFAULT_SYSTEM,
            agent=self.agent_name,
            tools=tools,
            clocks=self.clocks,
            work_dir=self.work_dir,
            extra_cli_args=self.extra_cli_args,
        )

    def _record(
        self,
        record: AttemptRecord | None,
        user_message: str,
        tools: Sequence[Tool] | None,
        failure: str | None,
    ) -> None:
        record = record or AttemptRecord()
        usage = total_usage(record)
        messages = [message for session in record.sessions for message in session.messages]
        self.last_metadata = {
            "model": self.model or NO_MODEL,
            "tools": [_tool_metadata(tool) for tool in tools or ()],
            "usage": {name: getattr(usage, name) for name in TOKEN_COLUMNS},
            "turns": len(assistant_messages(messages)),
            "cost": pico_to_usd(usage.cost_pico),
            "session_id": record.session_id,
        }
        for note in record.notes:
            self._log(note)
        if self.log_dir is not None:
            trace = "\n\n".join(filter(None, [render_trace(messages), failure and f"[Error]\n{failure}"]))
            append_trace(
                self.log_dir,
                self.logging_name,
                self.started,
                prompt=user_message,
                session_id=record.session_id,
                trace=trace,
                at=datetime.now(UTC),
            )

    def _log(self, message: str) -> None:
        logging.getLogger(self.logging_name).log(self.logging_level, message)


def _require(is_valid: bool, message: str) -> None:  # noqa: FBT001  the condition of an assertion
    """Raise ValueError with the message if a condition does not hold."""
    if not is_valid:
        raise ValueError(message)


def _are_texts(values: Any) -> bool:
    """Whether the values are a list or tuple of texts. A text is a sequence of texts too, but not meant."""
    return isinstance(values, list | tuple) and all(
        isinstance(value, str) for value in cast("list[Any]", values)
    )


def _remote(tool: Tool) -> RemoteTool:
    return RemoteTool(name=tool.name, hostname=tool.hostname, port=getattr(tool, "port", 8000))


def _tool_metadata(tool: Tool) -> dict[str, Any]:
    remote = _remote(tool)
    node_id = getattr(tool, "node_id", None)
    return {"name": remote.name, "hostname": remote.hostname, "port": remote.port, "node_id": node_id}


def _success(answer: Answer) -> QueryResult:
    trace = render_trace([m for session in answer.attempt.sessions for m in session.messages])
    return QueryResult(answer.text, 0, answer.attempt.stderr, trace, True)


def _failure(error: OpenCodeError) -> QueryResult:
    record: AttemptRecord = error.attempt or AttemptRecord()
    events = record.events or [message for session in record.sessions for message in session.messages]
    raw = "\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    stderr = getattr(error, "stderr", "")
    cause = f"{error.raw_message}\n{stderr}".strip()
    return QueryResult("", error.exit_code, cause, raw, False)
