"""Logins that opencode's own plugins refresh, if the refresh is refused."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rig import Rig

from opencode_tasks.errors import AuthenticationError
from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.opencode.server_pool import server_pool

# A plugin of a user that sends requests for tokens to the server of the test.
REDIRECT = """
const fetch = globalThis.fetch
const HOSTS = ["auth.openai.com", "auth.x.ai"]
const redirected = (input, init) => {
  const url = new URL(String(input?.url ?? input))
  return fetch(HOSTS.includes(url.host) ? `${process.env.TOKEN_SERVER}/${url.host}` : input, init)
}
globalThis.fetch = Object.assign(redirected, fetch)
export const Redirect = async () => ({})
"""
LOGIN = {"type": "oauth", "refresh": "old", "access": "", "expires": 1}
WORDS = {"openai": "Token refresh failed: 400", "xai": "xAI token refresh failed (400)"}


class TokenServer(BaseHTTPRequestHandler):
    """Refuses each refresh as OAuth 2.0 defines it: https://www.rfc-editor.org/rfc/rfc6749#section-5.2."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"error": "invalid_grant", "error_description": "the refresh token is revoked"}'
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
        return


@pytest.fixture(scope="module")
def token_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


@pytest.mark.slow
def test_a_refused_refresh_is_a_failed_login(
    opencode_binary: Path, token_server: str, tmp_path: Path
) -> None:
    store = Path(os.environ["XDG_DATA_HOME"]) / "opencode" / "auth.json"
    store.parent.mkdir(exist_ok=True)
    store.write_text(json.dumps(dict.fromkeys(WORDS, LOGIN)))
    store.chmod(0o600)
    plugin = tmp_path / "redirect.js"
    plugin.write_text(REDIRECT)
    rig = Rig(opencode_binary, extra={"plugin": [f"file://{plugin}"]})
    # Without a model, the process may use the logins of all providers.
    environment = Secrets(environment={"TOKEN_SERVER": token_server})
    rig.spec = replace(rig.spec, model_ref=None, secrets=environment)

    async def models() -> dict[str, str]:
        providers = (await (await rig.server()).get("/config/providers"))["providers"]
        return {one["id"]: f"{one['id']}/{next(iter(one['models']))}" for one in providers}

    try:
        with rig:
            found = server_pool.call(models)
            for provider, words in WORDS.items():
                asked = rig.ask(model=found[provider])
                assert words in asked.failed(AuthenticationError).raw_message
    finally:
        store.unlink()
