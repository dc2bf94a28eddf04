"""Loopback addresses and HTTP proxies: no proxy reaches the servers of a run, which are on this machine."""

from __future__ import annotations

from collections.abc import Mapping

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
MAX_PORT = 65_535
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def loopback_bypass(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep requests to this machine from the proxy of an environment; {} without a proxy.

    The user's exceptions are kept. Programs read one or the other spelling of ``NO_PROXY``, so both are set.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return {}
    named = [environment.get("no_proxy", ""), environment.get("NO_PROXY", ""), *LOOPBACK]
    hosts = [host.strip() for host in ",".join(named).split(",") if host.strip()]
    value = ",".join(dict.fromkeys(hosts))
    return {"NO_PROXY": value, "no_proxy": value}
