"""The scripted provider in its own process, with the time of each request and each answer.

    python benchmarks/provider_process.py DELAY_S CHUNKS

Echoes each prompt after ``DELAY_S`` seconds in ``CHUNKS`` chunks until standard input is closed. Prints its
URL and an opencode config as a line of JSON, and at the end one line of JSON for each call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, Self

from opencode_tasks.testing import Call, Reply, ScriptedProvider

# opencode asks the model for a title if a session has none: a call with the same prompt, but not a row.
TITLE_MARK = "title generator"


@dataclass(slots=True, kw_only=True)
class ServedCall:
    """One call with the times of its arrival and of the end of its answer in seconds since 1970.

    ``answered`` is 0 if no answer was sent completely.
    """

    prompt: str = ""
    is_title: bool = False
    arrived: float
    answered: float = 0.0


class CallRecorder:
    """An ASGI application that records when each call arrived and when its answer was sent."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.served: list[ServedCall] = []
        self._current: ContextVar[ServedCall] = ContextVar("current")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        current = ServedCall(arrived=time.time())
        self._current.set(current)

        async def send_and_record(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                current.answered = time.time()

        await self.app(scope, receive, send_and_record)

    def record(self, call: Call) -> bool:
        """Record the request that is being served; as the match of a rule, it matches every call."""
        current = self._current.get()
        current.prompt, current.is_title = call.prompt, TITLE_MARK in call.system
        self.served.append(current)
        return True


class ProviderProcess:
    """The process of the provider; a context manager that ends it."""

    def __init__(self, *, delay_s: float, chunks: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(delay_s), str(chunks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C must end this program first, which then ends the provider.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        address = json.loads(self._process.stdout.readline())
        self.base_url: str = address["base_url"]
        self.config: dict[str, Any] = address["config"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def stop(self) -> list[ServedCall]:
        """Stop the provider and return the calls that it served."""
        output, _ = self._process.communicate(timeout=30)
        return [ServedCall(**json.loads(line)) for line in output.splitlines()]


def main() -> None:
    """Serve until standard input is closed."""
    delay_s, chunks = float(sys.argv[1]), int(sys.argv[2])
    provider = ScriptedProvider()
    # The public interface does not report when an answer was sent.
    uvicorn_config = provider._server.config  # noqa: SLF001
    recorder = uvicorn_config.app = CallRecorder(uvicorn_config.app)
    provider.on(recorder.record, Reply(delay_s=delay_s, chunks=chunks))
    with provider:
        address = {"base_url": provider.base_url, "config": provider.opencode_config()}
        print(json.dumps(address), flush=True)
        sys.stdin.read()
    for served in recorder.served:
        print(json.dumps(asdict(served)))


if __name__ == "__main__":
    main()
