"""Loopback addresses and proxies: the user's exceptions are kept, in both spellings of their names."""

from __future__ import annotations

import pytest

from opencode_tasks.system.loopback import loopback_bypass

PROXY = {"https_proxy": "http://proxy:3128"}
HERE = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_every_kind_of_proxy_counts(name: str) -> None:
    assert loopback_bypass({name: "http://proxy:3128"}) == {"NO_PROXY": HERE, "no_proxy": HERE}


@pytest.mark.parametrize(
    ("variables", "hosts"),
    [
        ({"NO_PROXY": "a.example"}, f"a.example,{HERE}"),
        ({"no_proxy": "a.example, localhost"}, "a.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, f"b.example,a.example,{HERE}"),
        ({"NO_PROXY": "", "no_proxy": "*"}, f"*,{HERE}"),
    ],
)
def test_exceptions_of_the_user_are_kept(variables: dict[str, str], hosts: str) -> None:
    assert loopback_bypass(PROXY | variables) == {"NO_PROXY": hosts, "no_proxy": hosts}


def test_without_a_proxy_nothing_changes() -> None:
    assert loopback_bypass({"NO_PROXY": "a.example", "http_proxy": ""}) == {}
