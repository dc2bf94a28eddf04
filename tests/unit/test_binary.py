"""Which opencode is found, and which versions are taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode import binary
from opencode_tasks.opencode.binary import (
    BINARY_VARIABLE,
    MAX_VERSION_EXCLUSIVE,
    MIN_VERSION,
    PINNED_VERSION,
    UNTESTED_FROM,
    check_version,
    find_binary,
    is_untested,
    machine_packages,
    native_binary,
    package_names,
    pinned_path,
    version_of,
)


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No opencode anywhere: an empty cache, an empty PATH, no variable."""
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)


def native(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF and so on")
    path.chmod(0o755)
    return path


def script(path: Path, *lines: str, interpreter: str = "/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([f"#!{interpreter}", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("system", "machine", "libc", "has_avx2", "expected"),
    [
        ("Linux", "x86_64", "glibc", True, ("opencode-linux-x64", "opencode-linux-x64-baseline")),
        ("Linux", "x86_64", "glibc", False, ("opencode-linux-x64-baseline",)),
        ("Linux", "x86_64", "", True, ("opencode-linux-x64-musl", "opencode-linux-x64-baseline-musl")),
        ("Linux", "x86_64", "", False, ("opencode-linux-x64-baseline-musl",)),
        ("Linux", "aarch64", "glibc", False, ("opencode-linux-arm64",)),
        ("Linux", "aarch64", "", False, ("opencode-linux-arm64-musl",)),
        ("Linux", "riscv64", "glibc", False, ()),
        ("Darwin", "arm64", "", False, ("opencode-darwin-arm64",)),
        ("Darwin", "x86_64", "", True, ("opencode-darwin-x64", "opencode-darwin-x64-baseline")),
        ("Windows", "AMD64", "", True, ()),
    ],
)
def test_package_of_a_machine(
    system: str, machine: str, libc: str, has_avx2: bool, expected: tuple[str, ...]
) -> None:
    assert package_names(system, machine, libc, has_avx2=has_avx2) == expected


@pytest.mark.parametrize("version", [MIN_VERSION, PINNED_VERSION, "1.16.0", "1.18.99", "v1.17.2"])
def test_tested_versions_are_taken(version: str) -> None:
    check_version(version)
    assert not is_untested(version)


@pytest.mark.parametrize("version", [UNTESTED_FROM, "1.19.0-beta.1", "1.100.0"])
def test_later_versions_are_taken_and_are_untested(version: str) -> None:
    check_version(version)
    assert is_untested(version)


@pytest.mark.parametrize("version", ["2.0.0", "2.3.2", "v2.0.0-beta", "3.1.0"])
def test_the_next_major_version_has_a_line_of_its_own(version: str) -> None:
    with pytest.raises(SetupError) as caught:
        check_version(version)
    assert f"opencode {version.removeprefix('v')[0]} is not supported yet" in str(caught.value)
    assert f"installs {PINNED_VERSION} beside it" in caught.value.hint


@pytest.mark.parametrize("version", ["1.15.12", "0.99.99", "local", ""])
def test_other_versions_are_refused_with_the_range_and_the_way_out(version: str) -> None:
    with pytest.raises(SetupError) as caught:
        check_version(version)
    message = str(caught.value)
    assert f"opencode {version} " in message
    assert MIN_VERSION in message
    assert MAX_VERSION_EXCLUSIVE in message
    assert "opencode-tasks setup" in caught.value.hint


def test_nothing_found_names_the_command() -> None:
    with pytest.raises(SetupError, match="neither") as caught:
        find_binary(None)
    assert "opencode-tasks setup" in caught.value.hint


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = native(tmp_path / "path" / "opencode")
    assert find_binary(None) == on_path
    pinned = native(pinned_path(machine_packages()[-1]))
    assert find_binary(None) == pinned
    variable = native(tmp_path / "variable")
    monkeypatch.setenv(BINARY_VARIABLE, str(variable))
    assert find_binary(None) == variable
    explicit = native(tmp_path / "explicit")
    assert find_binary(str(explicit)) == explicit


def test_explicit_is_a_name_on_path_too(tmp_path: Path) -> None:
    mine = native(tmp_path / "path" / "opencode-nightly")
    assert find_binary("opencode-nightly") == mine


def test_explicit_may_be_relative_or_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = native(tmp_path / "mine" / "opencode")
    monkeypatch.chdir(tmp_path)
    assert find_binary("./mine/opencode") == mine
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_binary("~/mine/opencode") == mine


@pytest.mark.parametrize("name", ["/nowhere/opencode", "no-such-opencode"])
def test_a_missing_explicit_binary_names_the_option(name: str) -> None:
    with pytest.raises(SetupError, match=f"--opencode-bin.*{name}") as caught:
        find_binary(name)
    assert "opencode-tasks setup" in caught.value.hint


def test_a_missing_binary_of_the_variable_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native(tmp_path / "path" / "opencode")
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(SetupError, match=BINARY_VARIABLE):
        find_binary(None)


def test_a_file_that_cannot_be_executed_is_missing(tmp_path: Path) -> None:
    mine = native(tmp_path / "opencode")
    mine.chmod(0o644)
    with pytest.raises(SetupError, match="--opencode-bin"):
        find_binary(str(mine))


@pytest.mark.parametrize(
    "package_folder",
    ["lib/node_modules", "lib/node_modules/opencode-ai/node_modules"],
    ids=["flat", "nested"],
)
def test_npms_script_is_looked_through(tmp_path: Path, package_folder: str) -> None:
    shim = script(tmp_path / "lib/node_modules/opencode-ai/bin/opencode.exe", interpreter="/usr/bin/env node")
    (tmp_path / "path" / "opencode").symlink_to(shim)
    behind = native(tmp_path / package_folder / machine_packages()[0] / "bin" / "opencode")
    assert find_binary(None) == behind
    assert find_binary(str(shim)) == behind


def test_the_fastest_package_wins(tmp_path: Path) -> None:
    shim = script(tmp_path / "node_modules/opencode-ai/bin/opencode")
    for package in ("slow", "fast"):
        native(tmp_path / "node_modules" / package / "bin" / "opencode")
    found = native_binary(shim, ("fast", "slow"))
    assert found == tmp_path / "node_modules" / "fast" / "bin" / "opencode"


def test_a_wrapper_of_the_users_own_stays(tmp_path: Path) -> None:
    wrapper = script(tmp_path / "path" / "opencode", "exec /opt/opencode")
    assert find_binary(None) == wrapper


def test_the_version_is_asked_once_for_each_state_of_the_file(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    program = script(tmp_path / "opencode", f"echo x >> {asked}", "echo 1.17.3")
    assert [version_of(program), version_of(program)] == ["1.17.3", "1.17.3"]
    assert asked.read_text() == "x\n"
    script(program, f"echo x >> {asked}", "echo v1.18.0-next")
    assert version_of(program) == "1.18.0-next"
    assert asked.read_text() == "x\nx\n"


def test_asking_the_version_leaves_the_users_folders_alone(tmp_path: Path) -> None:
    program = script(
        tmp_path / "opencode", f'echo "$TMPDIR $XDG_DATA_HOME $1" > {tmp_path}/said', "echo 1.17.3"
    )
    version_of(program)
    temporary, data, argument = (tmp_path / "said").read_text().split()
    assert argument == "--version"
    assert "opencode-tasks-version-" in temporary
    assert not Path(temporary).exists()
    assert not Path(data).exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("echo it was not installed >&2", "exit 1"), "it was not installed"),
        (("echo hello",), "hello"),
        (("exit 3",), "exit code 3"),
    ],
)
def test_a_binary_without_a_version_says_why(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        version_of(script(tmp_path / "opencode", *lines))


def test_a_binary_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read"):
        version_of(tmp_path / "gone")


def test_the_cache_is_the_users(tmp_path: Path) -> None:
    assert binary.cache_dir() == Path(os.environ["XDG_CACHE_HOME"]) / "opencode-tasks"
    assert not binary.cache_dir().exists()
