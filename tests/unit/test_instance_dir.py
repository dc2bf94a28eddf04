"""The private directories and the environment of an opencode process."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.instance_dir import (
    STUB_PACKAGE,
    InstanceDir,
    environment,
    instance_dirs_root,
    make_instance_dir,
)


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new user: home, config and data directories, and no variables of opencode or Prefect."""
    for name in [*os.environ]:
        if name.startswith(("OPENCODE", "PREFECT", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def spec(**changes: Any) -> OpencodeSpec:
    return OpencodeSpec(binary=Path("/bin/opencode"), **changes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def env_of(instance_dir: InstanceDir, **changes: Any) -> dict[str, str]:
    return environment(instance_dir, spec(**changes), password="pw", journal_events=False)


def test_every_directory_is_private(user: Path) -> None:
    old = os.umask(0)
    try:
        instance_dir = make_instance_dir()
    finally:
        os.umask(old)
    assert instance_dir.root.parent == instance_dirs_root() == user / "data" / "opencode-tasks" / "opencode"
    made = [instance_dir.root, instance_dir.data, instance_dir.marks, instance_dir.work, instance_dir.run]
    made += [instance_dir.run / name for name in ("config", "config/opencode", "cache", "state", "tmp")]
    assert {mode(path) for path in made} == {0o700}
    assert list(instance_dir.work.iterdir()) == []


def test_two_instance_directories_differ(tmp_path: Path) -> None:
    assert make_instance_dir(tmp_path).root != make_instance_dir(tmp_path).root


def test_an_instance_directory_is_removed_completely(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path / "instances")
    instance_dir.mark("ses_1")
    instance_dir.unmark("ses_1")
    instance_dir.unmark("ses_1")
    instance_dir.remove()
    assert not instance_dir.root.exists()
    instance_dir.remove()


def test_the_data_of_an_unrecorded_session_stays(tmp_path: Path) -> None:
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


def test_variables_of_services_and_of_this_package_are_removed_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = (
        "PREFECT_API_KEY",
        "OPENCODE_TASKS_LEDGER",
        "OPENCODE_CONFIG_DIR",
        "OPENCODE_DB",
        "OPENCODE_SERVER_USERNAME",
    )
    for name in removed:
        monkeypatch.setenv(name, "secret-value")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-provider")
    env = env_of(make_instance_dir(tmp_path))
    assert not [name for name in env if name.startswith("PREFECT_")]
    assert "secret-value" not in env.values()
    # The keys of providers reach opencode by the environment.
    assert env["ANTHROPIC_API_KEY"] == "sk-provider"
    added = {name for name in env if name.startswith("OPENCODE_TASKS_")}
    names = ("CONTINUATION", "JOURNAL", "JOURNAL_EVENTS", "INLINE_WAIT_S", "MAX_STEPS", "PROVIDER_LIMITS")
    assert added == {f"OPENCODE_TASKS_{name}" for name in names}


def test_opencode_uses_the_instance_directory_only(tmp_path: Path) -> None:
    instance_dir = make_instance_dir(tmp_path)
    env = env_of(instance_dir)
    folders = [env[f"XDG_{kind}_HOME"] for kind in ("DATA", "CONFIG", "CACHE", "STATE")] + [env["TMPDIR"]]
    assert all(Path(folder).is_dir() and Path(folder).is_relative_to(instance_dir.root) for folder in folders)
    assert env["OPENCODE_SERVER_PASSWORD"] == "pw"
    assert env["OPENCODE_DISABLE_PROJECT_CONFIG"] == "1"
    assert "OPENCODE_SERVER_PASSWORD" not in environment(
        instance_dir, spec(), password=None, journal_events=True
    )


def test_the_config_file_is_private_and_the_fixed_config_is_applied_after_it(tmp_path: Path) -> None:
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


def test_the_stub_package_replaces_an_installation(tmp_path: Path) -> None:
    config = make_instance_dir(tmp_path).run / "config" / "opencode"
    package = json.loads((config / "node_modules" / STUB_PACKAGE / "package.json").read_text())
    assert package["name"] == STUB_PACKAGE
    assert json.loads((config / "package.json").read_text()) == {"dependencies": {STUB_PACKAGE: "*"}}


def test_the_global_config_of_the_user_is_linked(user: Path) -> None:
    source = user / "config" / "opencode"
    (source / "agent").mkdir(parents=True)
    (source / "opencode.json").write_text("{}")
    (source / "secrets.txt").write_text("not config")
    config = make_instance_dir().run / "config" / "opencode"
    assert (config / "opencode.json").resolve() == source / "opencode.json"
    assert (config / "agent").resolve() == source / "agent"
    assert not (config / "secrets.txt").exists()
    assert not (config / "node_modules").is_symlink()


def test_the_packages_of_the_user_replace_the_stub(user: Path) -> None:
    source = user / "config" / "opencode"
    (source / "node_modules").mkdir(parents=True)
    (source / "package.json").write_text("{}")
    config = make_instance_dir().run / "config" / "opencode"
    assert (config / "node_modules").resolve() == source / "node_modules"
    assert (config / "package.json").resolve() == source / "package.json"
