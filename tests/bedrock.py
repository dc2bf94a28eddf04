"""A loopback server for Bedrock's ConverseStream that checks the signature of each request.

botocore computes the expected signature (Signature Version 4).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from opencode_tasks.testing import Reply
from opencode_tasks.testing.wires.bedrock import BedrockStream
from opencode_tasks.testing.wires.event_stream import MEDIA_TYPE
from opencode_tasks.testing.wires.turn import Tokens, Turn

ACCESS_KEY, SECRET_KEY, REGION = "AKIDTEST", "test-secret-key", "us-east-1"
MODEL = "test.echo-v1:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCall:
    """One request: its headers with lower-case names, and whether its signature is valid."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]
    is_valid: bool


class BedrockServer:
    """Answers ``text`` to each request with a valid signature, and 403 to others; a context manager."""

    def __init__(self, text: str = "signed and sealed") -> None:
        self.calls: list[SignedCall] = []
        self.text = text
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The access keys as a user's environment has them."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}

    def opencode_config(self, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A config whose provider ``amazon-bedrock`` is this server; ``headers`` are the model's own."""
        model: dict[str, Any] = {
            "name": "Echo",
            "cost": {"input": 1.0, "output": 2.0},
            "limit": {"context": 100_000, "output": 4096},
            "headers": dict(headers or {}),
        }
        options = {"endpoint": self.url, "region": REGION}
        return {"provider": {"amazon-bedrock": {"options": options, "models": {MODEL: model}}}}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                is_valid = is_signed(f"{server.url}{self.path}", headers, body)
                server.calls.append(SignedCall(headers=headers, body=json.loads(body), is_valid=is_valid))
                if is_valid:
                    frames = converse_stream(server.text)
                    self._send(200, MEDIA_TYPE, frames)
                else:
                    words = "The request signature we calculated does not match the signature you provided."
                    self._send(403, "application/json", json.dumps({"message": words}).encode())

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
                return

        return Handler


def is_signed(url: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the request as received has the signature that botocore computes for it."""
    authorization = headers.get("authorization", "")
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^,]+), *SignedHeaders=([^,]+), *Signature=(\w+)", authorization
    )
    if found is None:
        return False
    key, _, region, service, _ = found[1].split("/")
    signed = {name: headers.get(name, "") for name in found[2].split(";") if name != "host"}
    request: Any = AWSRequest("POST", url, data=body, headers=signed)
    request.context["timestamp"] = headers.get("x-amz-date", "")
    signer = cast("Any", SigV4Auth(Credentials(key, SECRET_KEY), service, region))
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return key == ACCESS_KEY and expected == found[3]


def converse_stream(text: str) -> bytes:
    """An answer of the scripted provider, with 12 tokens in and 5 out."""
    tokens = Tokens(input=12, cache_read=0, cache_write=0, output=5, reasoning=0)
    stream = BedrockStream(Turn(model=MODEL, created=0, reply=Reply(), tokens=tokens))
    return stream.start() + stream.text(text) + stream.close() + stream.end()
