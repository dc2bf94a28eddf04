"""The user's opencode logins, and how an opencode process gets them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import Secrets
from opencode_tasks.opencode.credentials import Credentials, has_rotating_login, read_store, user_store

KEY = {"type": "api", "key": "sk-1"}
OAUTH = {"type": "oauth", "refresh": "r", "access": "a", "expires": 1}


@pytest.fixture(autouse=True)
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without logins and without opencode variables in the environment."""
    for name in [*os.environ]:
        if name.startswith(("OPENCODE", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory of an opencode process."""
    return directory(tmp_path / "data")


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def log_in(**logins: Any) -> None:
    user_store().parent.mkdir(parents=True, exist_ok=True)
    user_store().write_text(json.dumps(logins))


def test_api_keys_are_passed_by_the_environment(data_dir: Path) -> None:
    log_in(p=KEY, q={"type": "wellknown", "key": "k", "token": "t"})
    variables = Credentials("p").install(data_dir)
    assert json.loads(variables["OPENCODE_AUTH_CONTENT"]) == read_store(user_store())
    assert list(data_dir.iterdir()) == []


def test_without_a_login_no_variable_is_set(data_dir: Path) -> None:
    assert Credentials(None).install(data_dir) == {}


def test_logins_in_the_environment_are_passed_on(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(p=KEY)
    monkeypatch.setenv("OPENCODE_AUTH_CONTENT", '{"p": {"type": "api", "key": "given"}}')
    variables = Credentials("p").install(data_dir)
    assert json.loads(variables["OPENCODE_AUTH_CONTENT"])["p"]["key"] == "given"


def test_the_keys_of_a_run_override_both_the_store_and_the_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(p=KEY)
    secrets = Secrets(api_keys={"p": "sk-run"})
    run_key = {"type": "api", "key": "sk-run"}
    variables = Credentials("p", secrets).install(data_dir)
    assert json.loads(variables["OPENCODE_AUTH_CONTENT"]) == {"p": run_key}
    monkeypatch.setenv("OPENCODE_AUTH_CONTENT", '{"p": {"type": "api", "key": "k"}, "q": {"type": "api"}}')
    variables = Credentials("p", secrets).install(data_dir)
    assert json.loads(variables["OPENCODE_AUTH_CONTENT"]) == {"p": run_key, "q": {"type": "api"}}


def test_an_oauth_login_of_another_provider_is_not_copied(data_dir: Path) -> None:
    log_in(p=KEY, q=OAUTH)
    variables = Credentials("p").install(data_dir)
    assert json.loads(variables["OPENCODE_AUTH_CONTENT"]) == {"p": KEY}


def test_an_oauth_login_is_linked_and_used_by_one_process_at_a_time(tmp_path: Path, data_dir: Path) -> None:
    log_in(p=OAUTH)
    first, second = Credentials("p"), Credentials("p")
    other = directory(tmp_path / "other")
    assert first.install(data_dir) == {}
    link = data_dir / "opencode" / "auth.json"
    assert link.is_symlink()
    assert link.resolve() == user_store()
    with pytest.raises(SetupError, match="another process is using") as refused:
        second.install(other)
    assert refused.value.hint
    assert not (other / "opencode" / "auth.json").exists()
    first.close()
    first.close()
    assert second.install(other) == {}
    second.close()


def test_the_logins_of_two_users_are_locked_separately(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(p=OAUTH)
    first = Credentials("p")
    first.install(data_dir)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "second user"))
    log_in(p=OAUTH)
    second = Credentials("p")
    assert second.install(directory(tmp_path / "other")) == {}
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("logins", "provider", "is_exclusive"),
    [
        ({}, None, False),
        ({}, "p", False),
        ({"p": KEY}, "p", False),
        ({"p": OAUTH}, "p", True),
        ({"p": KEY, "q": OAUTH}, "p", False),
        ({"p": KEY, "q": OAUTH}, "q", True),
        # The provider that opencode will choose is not known.
        ({"p": KEY, "q": OAUTH}, None, True),
        ({"p": KEY}, None, False),
        ({"q": OAUTH}, "p", False),
    ],
)
def test_an_oauth_login_is_exclusive(
    logins: dict[str, Any], provider: str | None, is_exclusive: bool
) -> None:
    assert has_rotating_login(logins, provider) is is_exclusive
    log_in(**logins)
    assert Credentials(provider).is_exclusive is is_exclusive


@pytest.mark.parametrize(
    ("content", "store"),
    [
        ('{"p": {"type": "api"}, "q": "odd"}', {"p": {"type": "api"}}),
        ("[]", {}),
        ("null", {}),
    ],
)
def test_a_store_is_read(tmp_path: Path, content: str, store: dict[str, Any]) -> None:
    path = tmp_path / "auth.json"
    path.write_text(content)
    assert read_store(path) == store
    assert read_store(tmp_path / "missing.json") == {}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_an_unreadable_store_is_a_setup_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "auth.json"
    path.write_bytes(content)
    with pytest.raises(SetupError, match="cannot read the opencode logins") as caught:
        read_store(path)
    assert "opencode auth login" in caught.value.hint
