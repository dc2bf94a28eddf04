"""Versions of opencode that nobody has tested: what a server must be able to do before it gets a row."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from cluster import Desk
from rig import Rig

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode import binary
from opencode_tasks.opencode.capabilities import check_capabilities
from opencode_tasks.opencode.server_pool import server_pool

# A program that answers every route with a page, as opencode 2 answers those of opencode 1.
PROGRAM = """#!{python}
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

if "--version" in sys.argv:
    print("{version}")
    sys.exit()


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>opencode</title>")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Page)
print(f"listening on http://127.0.0.1:{{server.server_port}}", flush=True)
server.serve_forever()
"""


def program(folder: Path, version: str) -> Path:
    path = folder / "opencode"
    path.write_text(PROGRAM.format(python=sys.executable, version=version))
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_an_untested_version_that_passes_the_checks_runs_with_a_warning(
    opencode_binary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(binary, "UNTESTED_FROM", "1.18.0")
    with caplog.at_level(logging.WARNING), Rig(opencode_binary) as rig:
        assert rig.ask(prompt="hello").text == "hello"
        (line,) = [record.getMessage() for record in caplog.records if "has not been tested" in record.msg]
        assert f"opencode {binary.PINNED_VERSION} has not been tested" in line
        # The checks call no provider.
        assert rig.provider.prompts() == ["hello"]


@pytest.mark.slow
def test_a_version_that_does_not_load_the_plugin_is_refused(unplugged: Rig) -> None:
    async def check() -> None:
        await check_capabilities(await unplugged.server(), "1.20.0", needs_plugin=True)

    with pytest.raises(SetupError, match=r"opencode 1\.20\.0 cannot be used: .* it loads our plugin"):
        server_pool.call(check)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.3.2", "opencode 2 is not supported yet, and this is opencode 2.3.2"),
        ("1.20.0", "opencode answered /agent with something else than JSON; is this opencode 2?"),
    ],
)
def test_a_program_with_other_routes_is_refused_in_one_line(desk: Desk, version: str, said: str) -> None:
    desk.write_csv("in.csv", [{"prompt": "hello"}])
    other = program(desk.folder, version)
    ran = desk.annotate("in.csv", "-o", "out.csv", "--opencode-bin", str(other))
    assert ran.code in (2, 70)
    assert said in ran.stderr
    assert f"`opencode-tasks setup`: it installs {binary.PINNED_VERSION}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert desk.provider.calls == []
