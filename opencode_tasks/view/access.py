"""Access to the page: for the person who has its address, from this machine alone."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opencode_tasks.system.loopback import LOOPBACK

TOKEN = "token"  # noqa: S105  the name of the parameter
REFUSED = "Open the address that opencode-tasks view printed: it has the token of this page.\n"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" a browser would send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Access:
    """Refuses requests without the token, for another host name, and from other pages, with status 403.

    The token in the address is exchanged for a cookie, so that it is not in the addresses that the browser
    keeps. Another host name is one of a foreign site that resolves to this machine (DNS rebinding).
    ``code`` is accepted once in place of the token: other users of this machine can see the address with
    which a browser is started.
    """

    def __init__(self, app: ASGIApp, *, token: str, code: str, port: int) -> None:
        self._app = app
        self._token = token
        self._code: str | None = code
        # Cookies of all ports of a host are sent to each of them.
        self._cookie = f"opencode_tasks_view_{port}"
        self._hosts = {f"{host}:{port}" for host in LOOPBACK if ":" not in host}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """The refusal of a request, or the redirect that sets the cookie; None if it may pass."""
        headers = Headers(scope=scope)
        refusal = PlainTextResponse(REFUSED, status_code=403)
        if headers.get("host", "") not in self._hosts:
            return refusal
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and scope["method"] != "GET":
            return refusal
        if "origin" in headers and headers["origin"] not in self._origins:
            return refusal
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == TOKEN]
        if given and scope["method"] == "GET" and self._lets_in(given[0]):
            rest = urlencode([(name, value) for name, value in query if name != TOKEN])
            # An address that begins with two slashes is one of another host.
            path = f"/{scope['path'].lstrip('/')}"
            redirect = RedirectResponse(f"{path}?{rest}" if rest else path, status_code=303)
            redirect.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
            return redirect
        return None if is_token(self._cookie_of(headers), self._token) else refusal

    def _lets_in(self, given: str) -> bool:
        if self._code is not None and is_token(given, self._code):
            self._code = None
            return True
        return is_token(given, self._token)

    def _cookie_of(self, headers: Headers) -> str:
        # As a browser sends them: ``http.cookies`` gives up on the cookies of some other programs.
        return cookie_parser(headers.get("cookie", "")).get(self._cookie, "")


def is_token(given: str, token: str) -> bool:
    """Whether a text is the token, compared in constant time."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())
