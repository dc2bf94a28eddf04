"""Runs behind an HTTP proxy: requests to this machine do not use it, and those to the provider do."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from cluster import Desk, Ran

from opencode_tasks.testing import ScriptedProvider

DEAD = "http://127.0.0.1:9"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# A name that only the proxy of the test can reach.
PROVIDER = "provider.example"
SCRIPT = """
import json, sys
from opencode_tasks import OpenCodeLLM, annotate
import pandas as pd

config, binary = json.loads(sys.argv[1]), sys.argv[2]
llm = OpenCodeLLM("fake/echo", opencode_bin=binary)
print(llm.prompt("hello").result)
frame = pd.DataFrame({"prompt": ["one"]})
result = annotate(frame, model="fake/echo", opencode_bin=binary, opencode_config=config, ledger="ledger.db")
print(result.frame["response"][0])
"""


def behind(proxy: str, *, lower: bool = False, no_proxy: str | None = None) -> dict[str, str | None]:
    """Environment with this proxy, and without a Prefect server."""
    cleared: dict[str, str | None] = {}
    for name in (*NAMES, "NO_PROXY"):
        cleared |= {name: None, name.lower(): None}
    cased = [name.lower() if lower else name for name in NAMES]
    return cleared | dict.fromkeys(cased, proxy) | {"NO_PROXY": no_proxy, "PREFECT_API_URL": None}


@contextmanager
def forwarding_proxy(provider: ScriptedProvider) -> Generator[tuple[str, list[str]]]:
    """A proxy that reaches the provider by its name; and the URLs that it was asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            with closing(http.client.HTTPConnection("127.0.0.1", provider.port)) as upstream:
                upstream.request("POST", url.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def annotate(desk: Desk, env: Mapping[str, str | None], *more: str) -> Ran:
    desk.write_csv("in.csv", [{"prompt": "one"}, {"prompt": "two"}])
    return desk.run(*desk.arguments("in.csv", "-o", "out.csv", *more), env=env)


def responses(desk: Desk) -> list[str]:
    return [row["response"] for row in desk.read_csv("out.csv")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "lower"), [("threads", False), pytest.param("ray", True, marks=pytest.mark.nightly)]
)
def test_a_run_reaches_this_machine_behind_a_dead_proxy(desk: Desk, runner: str, lower: bool) -> None:
    ran = annotate(desk, behind(DEAD, lower=lower), "--runner", runner)
    assert ran.code == 0, ran.stderr
    assert responses(desk) == ["one", "two"]


@pytest.mark.nightly
def test_a_script_reaches_this_machine_behind_a_dead_proxy(desk: Desk) -> None:
    env = {name: value for name, value in behind(DEAD, no_proxy="").items() if value is not None}
    desk.arguments()
    env["OPENCODE_CONFIG"] = str(desk.folder / "opencode.json")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(desk.provider.opencode_config()), str(desk.binary)],
        cwd=desk.folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(desk.folder), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.stdout.splitlines() == ["hello", "one"], ran.stderr


@pytest.mark.nightly
def test_doctor_reaches_a_prefect_server_here_behind_a_dead_proxy(desk: Desk, prefect_server: str) -> None:
    ran = desk.run("doctor", "--json", env=behind(DEAD) | {"PREFECT_API_URL": prefect_server})
    checks = json.loads(ran.stdout)
    assert checks["prefect"]["ok"], ran.stdout


@pytest.mark.slow
def test_requests_to_the_provider_use_the_proxy(desk: Desk) -> None:
    config = json.loads(json.dumps(desk.provider.opencode_config()).replace("127.0.0.1", PROVIDER))
    arguments = desk.arguments("in.csv", "-o", "out.csv")
    (desk.folder / "opencode.json").write_text(json.dumps(config))
    desk.write_csv("in.csv", [{"prompt": "one"}, {"prompt": "two"}])
    with forwarding_proxy(desk.provider) as (proxy, seen):
        ran = desk.run(*arguments, env=behind(proxy, no_proxy="internal.example"))
    assert ran.code == 0, ran.stderr
    assert responses(desk) == ["one", "two"]
    assert len(seen) == 2
    assert all(urlsplit(url).hostname == PROVIDER for url in seen)
