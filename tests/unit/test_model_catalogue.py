"""The part of the model catalogue that a process of opencode gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from opencode_tasks.opencode.backend import OpencodeSpec, Secrets
from opencode_tasks.opencode.binary import NO_BINARY
from opencode_tasks.opencode.credentials import user_store
from opencode_tasks.opencode.model_catalogue import (
    catalogue_path,
    read_catalogue,
    stored_catalogue,
    write_needed_catalogue,
)
from opencode_tasks.opencode.user_config import user_config_path

FREE = {"cost": {"input": 0, "output": 0}}
CATALOGUE: dict[str, Any] = {
    name: {"id": name, "env": [f"{name.upper()}_KEY"], "models": {"m/1": {"name": "é 模"}}}
    for name in ("acme", "acme-eu", "bird", "cup", "opencode")
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    source = tmp_path / "all.json"
    source.write_text(json.dumps(CATALOGUE))
    monkeypatch.setenv("OPENCODE_MODELS_PATH", str(source))


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def written(folder: Path, environ: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """The catalogue of a process, or its path if it is the whole one."""
    spec = OpencodeSpec(binary=NO_BINARY, **settings)
    path = write_needed_catalogue(folder, spec, environ or {})
    return path if path == catalogue_path() else json.loads((path or Path()).read_text())


def test_a_process_gets_the_provider_of_its_model(tmp_path: Path) -> None:
    assert written(tmp_path, model_ref="acme/m/1") == {"acme": CATALOGUE["acme"]}
    # A config of the run alone makes this provider.
    assert written(tmp_path, model_ref="own/x", config={"provider": {"own": {}}}) == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"agent": {"judge": {"model": "bird/m/1"}}}', ["bird"]),
        ('{"small_model": "acme-eu/m/1"}', ["acme-eu"]),
        ("{provider: {cup: {options: {}}}}", ["cup"]),
        ('{"disabled_providers": ["cup", "bird"]}', ["bird", "cup"]),
        ('{"username": "acme-euro", "note": "a cup, /home/opencode/x and bird.example.com"}', []),
    ],
)
def test_a_process_gets_the_providers_that_a_config_names(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    put(user_config_path() / "opencode.jsonc", text)
    assert list(written(tmp_path, model_ref="acme/m/1")) == ["acme", *names]


def test_a_process_gets_the_providers_of_agents_keys_and_logins(tmp_path: Path) -> None:
    put(user_config_path() / "agents" / "judge.md", "---\nmodel: bird/m/1\n---\nJudge.")
    assert list(written(tmp_path, model_ref="acme/m/1")) == ["acme", "bird"]
    assert list(written(tmp_path, {"CUP_KEY": "k", "OPENCODE_KEY": ""}, model_ref="acme/m/1")) == [
        *("acme", "bird", "cup")
    ]
    put(user_store(), json.dumps({"acme-eu": {"type": "api", "key": "k"}}))
    with_key = written(tmp_path, model_ref="acme/m/1", secrets=Secrets(api_keys={"opencode": "k"}))
    assert list(with_key) == ["acme", "acme-eu", "bird", "opencode"]


def test_without_a_known_model_a_process_gets_the_whole_catalogue(tmp_path: Path) -> None:
    assert written(tmp_path) == catalogue_path()
    # The message about an unknown provider lists all that have a key.
    assert written(tmp_path, model_ref="acne/m/1") == catalogue_path()
    assert written(tmp_path, model_ref="acme/m/1", config={"plugin": ["some-plugin"]}) == catalogue_path()
    put(user_config_path() / "plugins" / "own.ts", "export default async () => ({})")
    assert written(tmp_path, model_ref="acme/m/1") == catalogue_path()
    (user_config_path() / "plugins" / "own.ts").unlink()
    put(user_config_path() / "opencode.json", '{"model": "bird/m/1"}')
    assert list(written(tmp_path)) == ["bird"]
    put(
        user_store(),
        json.dumps({"https://acme.example.com": {"type": "wellknown", "key": "K", "token": "t"}}),
    )
    assert written(tmp_path) == catalogue_path()


def test_logins_of_the_environment_replace_those_of_the_store(tmp_path: Path) -> None:
    put(user_store(), json.dumps({"cup": {"type": "api", "key": "k"}}))

    def with_logins(content: str) -> Any:
        secrets = Secrets(environment={"OPENCODE_AUTH_CONTENT": content})
        return written(tmp_path, model_ref="acme/m/1", secrets=secrets)

    assert list(with_logins('{"bird": {"type": "api", "key": "k"}}')) == ["acme", "bird"]
    assert with_logins('{"https://x": {"type": "wellknown"}}') == catalogue_path()
    assert with_logins("no") == catalogue_path()


@pytest.mark.parametrize("text", [None, "no", "[]", "{}"])
def test_a_catalogue_that_cannot_be_read_is_left_to_opencode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    path = tmp_path / "odd.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("OPENCODE_MODELS_PATH", str(path))
    assert read_catalogue(NO_BINARY, ["acme"]) == {}
    assert written(tmp_path, model_ref="acme/m/1", config={"provider": {"acme": {}}}) == path


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF nothing", b'x={acme:{id:"acme",env:["A"],models:{', b'{"a":{id:"a",env:[]}}']
)
def test_a_binary_without_a_catalogue_reads_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.delenv("OPENCODE_MODELS_PATH")
    binary = tmp_path / "opencode"
    # The script fails when it is asked to evaluate.
    binary.write_bytes(b"#!/bin/sh\nexit 3\n" + content)
    binary.chmod(0o700)
    spec = OpencodeSpec(binary=binary, model_ref="acme/m/1", config={"provider": {"acme": {}}})
    assert write_needed_catalogue(tmp_path, spec, {}) is None
    assert read_catalogue(binary, ["acme"]) == {}


BUN = """#!/bin/sh
# {acme:{id:"acme",env:["ACME_KEY"],models:{"m/1":{cost:{input:0,output:0}}}}}
echo start >> "$0.starts"
echo '{"acme": {"id": "acme", "env": ["ACME_KEY"], "models": {"m/1": {"cost": {"input": 0, "output": 0}}}}}'
"""


@pytest.mark.parametrize("has_cache", [True, False])
def test_the_catalogue_of_a_binary_is_evaluated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_cache: bool
) -> None:
    monkeypatch.delenv("OPENCODE_MODELS_PATH")
    if not has_cache:
        # A file in the place of the folder: no user can write there.
        put(tmp_path / "XDG_CACHE_HOME", "")
    binary = tmp_path / "opencode"
    binary.write_text(BUN)
    binary.chmod(0o700)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read_catalogue(binary, ["acme", "bird"]), range(8)))
    assert found == [{"acme": {"id": "acme", "env": ["ACME_KEY"], "models": {"m/1": FREE}}}] * 8
    assert (tmp_path / "opencode.starts").read_text() == "start\n"
    assert (stored_catalogue(binary) is not None) == has_cache
    # A file of the user that cannot be read is left to opencode; prices come from the binary.
    monkeypatch.setenv("OPENCODE_MODELS_PATH", str(tmp_path / "missing.json"))
    assert list(read_catalogue(binary, ["acme"])) == ["acme"]
    spec = OpencodeSpec(binary=binary, model_ref="acme/m/1")
    assert write_needed_catalogue(tmp_path, spec, {}) == tmp_path / "missing.json"
