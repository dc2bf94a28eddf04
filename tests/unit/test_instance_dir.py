"""The private folders of an opencode process and the logins within its reach."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.instance_dir import (
    STUB_PACKAGE,
    Credentials,
    InstanceDir,
    environment,
    instance_dirs_root,
    make_instance_dir,
    needs_owner,
    read_store,
    user_store,
)

KEY = {"type": "api", "key": "sk-1"}
OAUTH = {"type": "oauth", "refresh": "r", "access": "a", "expires": 1}


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of our own: their home, config and data folders, and nothing in the environment."""
    for name in [*os.environ]:
        if name.startswith(("OPENCODE", "PREFECT", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def spec(**changes: Any) -> OpencodeSpec:
    return OpencodeSpec(binary=Path("/bin/opencode"), **changes)


def log_in(**entries: Any) -> None:
    user_store().parent.mkdir(parents=True, exist_ok=True)
    user_store().write_text(json.dumps(entries))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def env_of(instance_dir: InstanceDir, **changes: Any) -> dict[str, str]:
    return environment(instance_dir, spec(**changes), password="pw", journal_events=False)


def test_every_folder_is_its_owners_alone(user: Path) -> None:
    old = os.umask(0)
    try:
        instance_dir = make_instance_dir()
    finally:
        os.umask(old)
    assert instance_dir.root.parent == instance_dirs_root() == user / "data" / "opencode-tasks" / "opencode"
    own = [instance_dir.root, instance_dir.data, instance_dir.marks, instance_dir.work, instance_dir.run]
    own += [instance_dir.run / name for name in ("config", "config/opencode", "cache", "state", "tmp")]
    assert {mode(path) for path in own} == {0o700}
    assert list(instance_dir.work.iterdir()) == []


def test_two_homes_are_apart(tmp_path: Path) -> None:
    assert make_instance_dir(tmp_path).root != make_instance_dir(tmp_path).root


def test_removal_leaves_nothing(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path / "homes")
    instance_dir.mark("ses_1")
    instance_dir.unmark("ses_1")
    instance_dir.unmark("ses_1")
    instance_dir.remove()
    assert not instance_dir.root.exists()
    instance_dir.remove()


def test_a_session_that_is_not_recorded_keeps_its_data(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path)
    (instance_dir.data / "opencode.db").write_text("rows")
    instance_dir.mark("ses_1")
    instance_dir.mark("ses_2")
    instance_dir.unmark("ses_2")
    instance_dir.remove()
    assert (instance_dir.data / "opencode.db").read_text() == "rows"
    assert [mark.name for mark in instance_dir.marks.iterdir()] == ["ses_1"]
    assert mode(instance_dir.marks / "ses_1") == 0o600
    assert not instance_dir.run.exists()


def test_what_is_ours_or_a_services_is_kept_from_opencode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (
        "PREFECT_API_KEY",
        "OPENCODE_TASKS_LEDGER",
        "OPENCODE_CONFIG_DIR",
        "OPENCODE_DB",
        "OPENCODE_SERVER_USERNAME",
    )
    for name in kept:
        monkeypatch.setenv(name, "secret-value")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-provider")
    env = env_of(make_instance_dir(tmp_path))
    assert not [name for name in env if name.startswith("PREFECT_")]
    assert "secret-value" not in env.values()
    # Providers' keys reach opencode by the environment.
    assert env["ANTHROPIC_API_KEY"] == "sk-provider"
    ours = {name for name in env if name.startswith("OPENCODE_TASKS_")}
    names = ("JOURNAL", "JOURNAL_EVENTS", "INLINE_WAIT_S", "MAX_STEPS")
    assert ours == {f"OPENCODE_TASKS_{name}" for name in names}


def test_opencode_sees_its_own_folders_only(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path)
    env = env_of(instance_dir)
    folders = [env[f"XDG_{kind}_HOME"] for kind in ("DATA", "CONFIG", "CACHE", "STATE")] + [env["TMPDIR"]]
    assert all(Path(folder).is_dir() and Path(folder).is_relative_to(instance_dir.root) for folder in folders)
    assert env["OPENCODE_SERVER_PASSWORD"] == "pw"
    assert env["OPENCODE_DISABLE_PROJECT_CONFIG"] == "1"
    assert "OPENCODE_SERVER_PASSWORD" not in environment(
        instance_dir, spec(), password=None, journal_events=True
    )


def test_the_config_file_is_private_and_the_safety_keys_go_over_it(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path)
    env = env_of(instance_dir, config={"share": "auto", "provider": {"p": {"options": {"apiKey": "sk-2"}}}})
    written = Path(env["OPENCODE_CONFIG"])
    assert mode(written) == 0o600
    assert json.loads(written.read_text())["provider"]["p"]["options"]["apiKey"] == "sk-2"
    assert json.loads(env["OPENCODE_CONFIG_CONTENT"])["share"] == "disabled"
    assert "sk-2" not in str(env)


def test_the_model_calls_of_a_prompt_are_bounded_by_the_spec_or_the_setting(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path)
    assert env_of(instance_dir)["OPENCODE_TASKS_MAX_STEPS"] == "500"
    assert env_of(instance_dir, max_steps=7)["OPENCODE_TASKS_MAX_STEPS"] == "7"


def test_the_stub_spares_an_install(tmp_path: Path) -> None:
    config = make_instance_dir(tmp_path).run / "config" / "opencode"
    package = json.loads((config / "node_modules" / STUB_PACKAGE / "package.json").read_text())
    assert package["name"] == STUB_PACKAGE
    assert json.loads((config / "package.json").read_text()) == {"dependencies": {STUB_PACKAGE: "*"}}


def test_the_users_global_config_stays_in_force(user: Path) -> None:
    own = user / "config" / "opencode"
    (own / "agent").mkdir(parents=True)
    (own / "opencode.json").write_text("{}")
    (own / "secrets.txt").write_text("not config")
    config = make_instance_dir().run / "config" / "opencode"
    assert (config / "opencode.json").resolve() == own / "opencode.json"
    assert (config / "agent").resolve() == own / "agent"
    assert not (config / "secrets.txt").exists()
    assert not (config / "node_modules").is_symlink()


def test_the_users_own_packages_come_before_the_stub(user: Path) -> None:
    own = user / "config" / "opencode"
    (own / "node_modules").mkdir(parents=True)
    (own / "package.json").write_text("{}")
    config = make_instance_dir().run / "config" / "opencode"
    assert (config / "node_modules").resolve() == own / "node_modules"
    assert (config / "package.json").resolve() == own / "package.json"


def test_api_keys_go_by_the_environment(tmp_path: Path) -> None:
    log_in(p=KEY, q={"type": "wellknown", "key": "k", "token": "t"})
    instance_dir = make_instance_dir(tmp_path)
    added = Credentials("p").install(instance_dir)
    assert json.loads(added["OPENCODE_AUTH_CONTENT"]) == read_store(user_store())
    assert list(instance_dir.data.iterdir()) == []


def test_where_there_is_no_login_nothing_is_added(tmp_path: Path) -> None:
    assert Credentials(None).install(make_instance_dir(tmp_path)) == {}


def test_a_login_of_the_environment_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(p=KEY)
    monkeypatch.setenv("OPENCODE_AUTH_CONTENT", '{"p": {"type": "api", "key": "given"}}')
    added = Credentials("p").install(make_instance_dir(tmp_path))
    assert json.loads(added["OPENCODE_AUTH_CONTENT"])["p"]["key"] == "given"


def test_an_oauth_login_of_another_provider_is_not_forked(tmp_path: Path) -> None:
    log_in(p=KEY, q=OAUTH)
    added = Credentials("p").install(make_instance_dir(tmp_path))
    assert json.loads(added["OPENCODE_AUTH_CONTENT"]) == {"p": KEY}


def test_an_oauth_login_is_linked_and_has_one_owner_at_a_time(tmp_path: Path) -> None:
    log_in(p=OAUTH)
    first, second = Credentials("p"), Credentials("p")
    instance_dir, other = make_instance_dir(tmp_path), make_instance_dir(tmp_path)
    assert first.install(instance_dir) == {}
    link = instance_dir.data / "opencode" / "auth.json"
    assert link.is_symlink()
    assert link.resolve() == user_store()
    with pytest.raises(SetupError, match="another process is using") as refused:
        second.install(other)
    assert refused.value.hint
    assert not (other.data / "opencode" / "auth.json").exists()
    first.close()
    first.close()
    assert second.install(other) == {}
    second.close()


def test_logins_of_two_users_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(p=OAUTH)
    first = Credentials("p")
    first.install(make_instance_dir(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
    log_in(p=OAUTH)
    second = Credentials("p")
    assert second.install(make_instance_dir(tmp_path)) == {}
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("entries", "provider", "needed"),
    [
        ({}, None, False),
        ({}, "p", False),
        ({"p": KEY}, "p", False),
        ({"p": OAUTH}, "p", True),
        ({"p": KEY, "q": OAUTH}, "p", False),
        ({"p": KEY, "q": OAUTH}, "q", True),
        # Which provider opencode will choose is not known.
        ({"p": KEY, "q": OAUTH}, None, True),
        ({"p": KEY}, None, False),
        ({"q": OAUTH}, "p", False),
    ],
)
def test_whose_tokens_rotate(entries: dict[str, Any], provider: str | None, needed: bool) -> None:
    assert needs_owner(entries, provider) is needed
    log_in(**entries)
    assert Credentials(provider).needs_owner is needed


@pytest.mark.parametrize(
    ("content", "store"),
    [
        ('{"p": {"type": "api"}, "q": "odd"}', {"p": {"type": "api"}}),
        ("[]", {}),
        ("null", {}),
    ],
)
def test_reading_a_store(tmp_path: Path, content: str, store: dict[str, Any]) -> None:
    path = tmp_path / "auth.json"
    path.write_text(content)
    assert read_store(path) == store
    assert read_store(tmp_path / "nothing.json") == {}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_a_store_that_cannot_be_read_is_a_setup_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "auth.json"
    path.write_bytes(content)
    with pytest.raises(SetupError, match="cannot read the opencode logins"):
        read_store(path)
