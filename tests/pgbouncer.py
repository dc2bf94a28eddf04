"""A real PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

MISSING = "PgBouncer is not installed (Debian: apt-get install pgbouncer)"
START_LIMIT_S = 20.0
SERVER_CONNECTIONS = 3


def is_installed() -> bool:
    """Whether there is a PgBouncer on this machine."""
    return _program() is not None


def _program() -> str | None:
    # Debian installs it in a folder that is not on the PATH of all users.
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pgbouncer(postgresql_url: str) -> Generator[str]:
    """URL of a pooler whose clients share a few connections, one transaction at a time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    info = conninfo_to_dict(postgresql_url)
    # It does not run as root; the user of PostgreSQL may use its socket.
    owner = Path(str(info["host"])).owner()
    folder = Path(tempfile.mkdtemp(prefix="pgb"))
    config = folder / "pgbouncer.ini"
    config.write_text(_config(info, port), encoding="utf-8")
    (folder / "users.txt").write_text(f'"{info["user"]}" ""\n', encoding="utf-8")
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, owner)
    program = _program()
    assert program is not None, MISSING
    as_owner = ["-u", owner] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, "-q", *as_owner, str(config)], cwd=folder)
    try:
        url = f"postgresql://{info['user']}@127.0.0.1:{port}/{info['dbname']}"
        _wait_for(url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(folder)


def _config(info: dict[str, str | int | None], port: int) -> str:
    name = info["dbname"]
    return f"""[databases]
{name} = host={info["host"]} port={info.get("port", 5432)} dbname={name} user={info["user"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = users.txt
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
"""


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
