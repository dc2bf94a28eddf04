"""The scripted provider in a process of its own, and its record of when it was asked and answered.

    python benchmarks/scripted.py DELAY_S CHUNKS

answers each prompt with itself, ``DELAY_S`` seconds later and cut into so many pieces, until
standard input ends. It prints where it is, then, at the end, its record: a call a line of JSON.
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

# Opencode asks for a title where a session has none: a call of the same prompt that is no answer.
TITLE_MARK = "title generator"


@dataclass(slots=True, kw_only=True)
class Served:
    """One call: epoch seconds of its arrival and of the end of the answer (0: none was sent)."""

    prompt: str = ""
    is_title: bool = False
    arrived: float
    answered: float = 0.0


class Noting:
    """An ASGI application that notes when each call came and when its answer was sent off."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.served: list[Served] = []
        self._current: ContextVar[Served] = ContextVar("current")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        current = Served(arrived=time.time())
        self._current.set(current)

        async def sent(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                current.answered = time.time()

        await self.app(scope, receive, sent)

    def note(self, call: Call) -> bool:
        """Note what the request that is being served asks; a rule's match that fits every call."""
        current = self._current.get()
        current.prompt, current.is_title = call.prompt, TITLE_MARK in call.system
        self.served.append(current)
        return True


class Scripted:
    """The provider's process, as the one who starts it sees it; a context manager."""

    def __init__(self, *, delay_s: float, chunks: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(delay_s), str(chunks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C ends us, and then it.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        place = json.loads(self._process.stdout.readline())
        self.base_url: str = place["base_url"]
        self.config: dict[str, Any] = place["config"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.record()

    def record(self) -> list[Served]:
        """End the provider; what it served."""
        told, _ = self._process.communicate(timeout=30)
        return [Served(**json.loads(line)) for line in told.splitlines()]


def main() -> None:
    """Serve until standard input ends."""
    delay_s, chunks = float(sys.argv[1]), int(sys.argv[2])
    provider = ScriptedProvider()
    uvicorn_config = provider._server.config  # noqa: SLF001  nothing public tells when an answer was sent
    noting = uvicorn_config.app = Noting(uvicorn_config.app)
    provider.on(noting.note, Reply(delay_s=delay_s, chunks=chunks))
    with provider:
        place = {"base_url": provider.base_url, "config": provider.opencode_config()}
        print(json.dumps(place), flush=True)
        sys.stdin.read()
    for served in noting.served:
        print(json.dumps(asdict(served)))


if __name__ == "__main__":
    main()
