"""Loopback addresses and HTTP proxies: no proxy reaches the servers of a run, which are on this machine."""

from __future__ import annotations

from collections.abc import Mapping

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def loopback_bypass(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep requests to this machine from the proxy of an environment; {} without a proxy."""
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return {}
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    value = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
    return {"NO_PROXY": value, "no_proxy": value}
