"""A Prefect server of our own, for a run by hand where none is configured."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOGGING_TO_API_ENABLED,
    get_current_settings,
    temporary_settings,
)

from opencode_tasks.orchestration.local_server import API_URL, LocalServer

_is_our_own: ContextVar[bool] = ContextVar("is_our_own", default=False)


def is_private_server() -> bool:
    """Whether this process talks to a server that was started for it alone."""
    return _is_our_own.get()


def limit_retries() -> None:
    """Repeat failed requests to the Prefect API once from now on, in the whole process.

    Prefect 3.8 repeats them for a minute and more, and reports the end of a flow run after a stop too.
    """
    get_current_settings().client.max_retries = 1


@contextmanager
def prefect_api(say: Callable[[str], None], started: LocalServer | None = None) -> Generator[str]:
    """The URL of a Prefect API for this process and its workers.

    That of the server ``started`` early; else the configured one (environment or profile) where
    there is one; else a server is started, with a database of its own, that ends with the context
    or with this process. Raises SetupError where it does not answer in time.
    """
    configured = get_current_settings().api.url
    if started is None and configured:
        yield configured
        return
    is_own = _is_our_own.set(True)
    server: LocalServer | None = started
    try:
        server = server or LocalServer.start()
        server.wait()
        hint = f"set {API_URL} to use your own and keep the history"
        say(f"Prefect: a server for this run alone, {server.url} ({hint})")
        os.environ[API_URL] = server.url
        # Log records would be sent on after the server's end.
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield server.url
    finally:
        os.environ.pop(API_URL, None)
        _is_our_own.reset(is_own)
        if server is not None:
            server.stop()
