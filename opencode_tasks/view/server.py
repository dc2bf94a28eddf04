"""Serves the pages on this machine."""

from __future__ import annotations

import os
import secrets
import socket

import uvicorn

from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.system.loopback import LOOPBACK
from opencode_tasks.view.access import TOKEN
from opencode_tasks.view.app import ViewOptions, view_app

TOKEN_BYTES = 24
# Requests that are being answered at a stop.
SHUTDOWN_S = 2


class ViewServer:
    """A server for the pages of a run; only this machine can reach it.

    ``port`` 0 is a free one. ``by`` is the name under which reviews are written. ``address`` is for people,
    ``address_once`` for the start of a browser: it can be opened once. Raises InputError if the port cannot
    be used.
    """

    def __init__(self, ledger: Ledger, run_id: str, *, by: str, port: int = 0) -> None:
        self._socket = _listening(port)
        bound: int = self._socket.getsockname()[1]
        token, code = (secrets.token_urlsafe(TOKEN_BYTES) for _ in range(2))
        options = ViewOptions(run_id=run_id, by=by, token=token, code=code, port=bound)
        config = uvicorn.Config(
            view_app(ledger, options),
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        self._server = uvicorn.Server(config)
        start = f"http://{LOOPBACK[0]}:{bound}/?{TOKEN}="
        self.address: str = start + token
        self.address_once: str = start + code

    def run(self) -> None:
        """Serve until ``stop``. In a thread that is not the main one, uvicorn takes no signals."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Ask ``run`` to return."""
        self._server.should_exit = True


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK[0], port))
    except (OSError, OverflowError) as error:
        cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no such port"
        raise InputError(
            (f"--port: {port} cannot be used ({cause}); give another one, or leave it out",)
        ) from None
