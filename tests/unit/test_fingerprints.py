from __future__ import annotations

from typing import Any

import pytest

from opencode_tasks.domain.fingerprints import config_without_secrets, fingerprint, row_keys
from opencode_tasks.domain.records import RemoteTool

BASE: dict[str, Any] = {
    "system": "s",
    "model_ref": "a/b",
    "agent": "x",
    "agent_config": {"prompt": "s", "options": {"apiKey": "one", "temperature": 0}},
    "tools": [RemoteTool(name="t", hostname="h")],
    "schema": {"type": "object", "properties": {"token": {"type": "string"}}},
    "variant": None,
    "settings": {"max_tokens": 5},
}


def key(prompt: str = "p", number: int = 0, **changes: Any) -> str:
    arguments: dict[str, Any] = {**BASE, **changes}
    return row_keys(**arguments)(prompt, None, number)


def test_the_key_is_stable() -> None:
    assert key() == row_keys(**dict(reversed(BASE.items())))("p", None, 0)
    assert key() == "4eeceeca14d331dededb3c0d81c81fb25672582f6bc4cd53a02ef8f7d9c22ae2"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "p "},
        {"system": ""},
        {"model_ref": "a/c"},
        {"agent": None},
        {"agent_config": {"prompt": "other", "options": {"temperature": 0}}},
        {"tools": []},
        {"tools": [RemoteTool(name="other", hostname="h")]},
        {"schema": {"type": "object", "properties": {"token": {"type": "number"}}}},
        {"variant": "high"},
        {"settings": {"max_tokens": 6}},
        {"number": 1},
    ],
)
def test_all_that_decides_the_answer_is_in_it(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_secrets_are_not_in_it() -> None:
    rotated = {"prompt": "s", "options": {"apiKey": "two", "temperature": 0, "baseURL": "http://x"}}
    assert key(agent_config=rotated) == key()


def test_tools_named_like_secrets_count() -> None:
    assert key(tools={"get_token": "allow"}) != key(tools={})


def test_a_lone_surrogate_has_a_key() -> None:
    assert key(prompt="\ud800") != key(prompt="\ud801")


@pytest.mark.parametrize(
    "name",
    ["apiKey", "api_key", "API_KEY", "key", "access_token", "token", "clientSecret", "secretAccessKey",
     "Authorization", "x-api-key", "password", "DB_PASSWORD", "apikey", "headers", "baseURL", "base_url"],
)  # fmt: skip
def test_secret_names(name: str) -> None:
    assert config_without_secrets({"options": [{name: "s3cret", "keep": 1}]}) == {"options": [{"keep": 1}]}


@pytest.mark.parametrize(
    "name", ["max_tokens", "maxTokens", "tokens", "key_columns", "monkey", "keybinds", "author", "model"]
)
def test_settings_that_only_sound_like_secrets(name: str) -> None:
    assert config_without_secrets({name: "5"}) == {name: "5"}


def test_names_that_users_choose_stay() -> None:
    config: dict[str, Any] = {
        "mcp": {"token": {"type": "remote", "headers": {"A": "b"}, "url": "http://u:p@h:1/x/mcp?apiKey=q"}},
        "provider": {"key": {"options": {"apiKey": "s", "setCacheKey": True}, "models": {"secret": {}}}},
        "permission": {"bash": {"cat token": "deny"}, "get_key": "allow"},
    }
    assert config_without_secrets(config) == {
        "mcp": {"token": {"type": "remote", "url": "http://h:1/x/mcp"}},
        "provider": {"key": {"options": {"setCacheKey": True}, "models": {"secret": {}}}},
        "permission": {"bash": {"cat token": "deny"}, "get_key": "allow"},
    }


def test_the_input_is_known_by_rows_and_order() -> None:
    rows = [("a", "1"), ("b", "2")]
    prints = {
        fingerprint(rows),
        fingerprint(rows[::-1]),
        fingerprint([]),
        fingerprint([("a", "1b"), ("", "2")]),
    }
    assert len(prints) == 4
    assert fingerprint(iter(rows)) == fingerprint(rows)


def test_the_own_system_text_of_a_row_is_in_its_key_as_that_of_the_run() -> None:
    key_of = row_keys(**BASE)
    assert key_of("p", "other") == key(system="other")
    assert len({key_of("p", None), key_of("p", "other"), key_of("p", "")}) == 3
