"""The keys of servers and gates: what changes them, and what does not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.opencode.backend import Clocks, OpencodeSpec, Secrets
from opencode_tasks.opencode.credentials import user_store
from opencode_tasks.opencode.gate_id import gate_id
from opencode_tasks.opencode.server_group import ServerGroup, groups_to_end
from opencode_tasks.opencode.server_key import server_key
from opencode_tasks.opencode.server_rotation import limits_in_force
from opencode_tasks.opencode.user_config import user_config_path

MODEL = "acme/large"
Change = Callable[[Path], None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a login, a config file, an agent and a file with a key."""
    for name in [*os.environ]:
        if name.startswith(("OPENCODE", "XDG_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path), "ACME_KEY": "one"})
    put(user_store(), json.dumps({"acme": {"type": "api", "key": "one"}, "other": OAUTH}))
    put(user_config_path() / "opencode.json", json.dumps({"provider": {"acme": {"options": {}}}}))
    put(user_config_path() / "agent" / "judge.md", "Judge.")
    put(tmp_path / "key", "one")
    return tmp_path


OAUTH = {"type": "oauth", "refresh": "r", "access": "a", "expires": 1}


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def spec_of(home: Path) -> OpencodeSpec:
    options = {"headers": {"x-key": f"{{file:{home / 'key'}}}"}}
    return OpencodeSpec(
        binary=home / "opencode", config={"provider": {"acme": {"options": options}}}, model_ref=MODEL
    )


def variable(name: str) -> Change:
    return lambda _: os.environ.update({name: "two"})


def login(logins: dict[str, Any]) -> Change:
    return lambda _: put(user_store(), json.dumps(logins))


def config(text: str) -> Change:
    return lambda _: put(user_config_path() / "opencode.json", text)


def file(name: str) -> Change:
    return lambda home: put(home / name, "two")


BASE_URL = json.dumps({"provider": {"acme": {"options": {"baseURL": "http://two"}}}})
CHANGES = {
    "variable": (variable("ACME_KEY"), True),
    "listed variable": (variable("LARGE_TOKEN"), True),
    "other variable": (variable("ELSE"), False),
    "login": (login({"acme": {"type": "api", "key": "two"}, "other": OAUTH}), True),
    "other login": (login({"acme": {"type": "api", "key": "one"}}), False),
    "address": (config(BASE_URL), True),
    "setting": (config('{"model": "acme/small"}'), False),
    "key file": (file("key"), True),
    "agent": (file(".config/opencode/agent/judge.md"), False),
    "new plugin": (file(".config/opencode/plugin/new.js"), False),
    "agent in ~/.opencode": (file(".opencode/agent/judge.md"), False),
    "catalogue": (file(".cache/opencode/models.json"), False),
    "binary": (file("opencode"), False),
}


@pytest.mark.parametrize(("change", "changes_gate"), CHANGES.values(), ids=list(CHANGES))
def test_a_change_of_the_surroundings_changes_the_key(
    home: Path,
    change: Change,
    changes_gate: bool,
) -> None:
    spec = spec_of(home)
    key, gate = server_key(spec), gate_id(MODEL, spec, os.environ, ("LARGE_TOKEN",))
    assert server_key(spec_of(home)) == key
    change(home)
    assert server_key(spec).settings == key.settings
    assert server_key(spec).surroundings != key.surroundings
    assert (gate_id(MODEL, spec, os.environ, ("LARGE_TOKEN",)) != gate) == changes_gate


UNIMPORTANT = {
    "rotated token": login({"acme": {"type": "api", "key": "one"}, "other": {**OAUTH, "access": "b"}}),
    "test runner": variable("PYTEST_CURRENT_TEST"),
    "prefect": variable("PREFECT_API_URL"),
    "ray": variable("OMP_NUM_THREADS"),
    "tool folder": file(".opencode/bin/opencode"),
    "dependency": file(".config/opencode/plugin/node_modules/a.js"),
}


@pytest.mark.parametrize("change", UNIMPORTANT.values(), ids=list(UNIMPORTANT))
def test_what_changes_all_the_time_does_not_change_the_key(home: Path, change: Change) -> None:
    key = server_key(spec_of(home))
    change(home)
    assert server_key(spec_of(home)) == key


def test_the_settings_of_a_run_are_a_part_of_the_key(home: Path) -> None:
    spec = spec_of(home)
    key = server_key(spec)
    same = (replace(spec, system="Other."), replace(spec, model_ref="acme/small"))
    assert [server_key(one) for one in same] == [key, key]
    others = (
        replace(spec, model_ref="other/large"),
        replace(spec, clocks=Clocks(total_s=1)),
        replace(spec, secrets=Secrets(api_keys={"acme": "two"})),
    )
    assert len({server_key(one).settings for one in (spec, *others)}) == 4


def test_aws_accounts_have_their_own_gates(home: Path) -> None:
    def gate() -> str:
        return gate_id("amazon-bedrock/m", spec_of(home), os.environ, ("AWS_ACCESS_KEY_ID",))

    gates = {gate()}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        os.environ[name] = "two"
        gates.add(gate())
    assert len(gates) == 4


def group_of(spec: OpencodeSpec, last_used: float) -> ServerGroup:
    """A group with a backend, used at a time."""
    group = ServerGroup(server_key(spec), spec, limits_in_force())
    asyncio.run(group.backend(spec, "null", frozenset()))
    group.last_used = last_used
    return group


def test_idle_groups_end_by_age_and_by_number(home: Path) -> None:
    spec = spec_of(home)
    oldest, older, newer, newest = (group_of(spec, used) for used in (70.0, 80.0, 90.0, 99.0))
    groups = (newest, oldest, older, newer)
    assert list(groups_to_end(groups, now=100.0, idle_s=60.0)) == [older, oldest]
    assert list(groups_to_end(groups, now=100.0, idle_s=5.0)) == [newer, older, oldest]
    newest.is_superseded = True
    assert list(groups_to_end(groups, now=100.0, idle_s=60.0)) == [newest, oldest]
    with oldest.use(), newer.use():
        # Those that are used neither end nor count.
        assert list(groups_to_end((oldest, older, newer), now=100.0, idle_s=60.0)) == []
    asyncio.run(older.aclose())
    assert list(groups_to_end((older,), now=1000.0, idle_s=60.0)) == []
