"""Whether a provider of opencode's catalogue has no key, so that its first request would be refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.opencode.provider_access import ADDRESSES, host_of

# Clients whose only credential is a key. Those of AWS, Azure, Google Cloud, GitHub, Vercel and others have
# further ways to log in.
_KEY_ONLY = {*ADDRESSES, "@openrouter/ai-sdk-provider", "@ai-sdk/openai-compatible"} - {"@ai-sdk/gateway"}
_GENERAL = "@ai-sdk/openai-compatible"
_OWN_ADDRESS = ("baseURL", "endpoint", "headers", "apiKey", "fetch")
_LOOPBACK = ("localhost:", "127.", "0.0.0.0:", "::1:", "host.docker.internal:")


def missing_key(
    provider: Mapping[str, Any],
    model: Mapping[str, Any],
    logins: Mapping[str, str],
    environ: Mapping[str, str],
) -> tuple[str, ...]:
    """The variables of which one should hold the key of a provider; empty unless it is certainly missing.

    ``provider`` and ``model`` are entries of opencode's list (``GET /config/providers``), ``logins`` the
    types of the logins by provider, ``environ`` the environment of opencode. A provider with an address,
    headers or a key in the config may accept requests without one, as a gateway does.
    """
    variables = tuple(str(name) for name in list_in(provider.get("env")))
    api, options = mapping_in(model.get("api")), mapping_in(provider.get("options"))
    package = text_in(api.get("npm")) or ""
    if package not in _KEY_ONLY or not variables or not all("KEY" in name for name in variables):
        return ()
    # A login of the type "wellknown" sets variables and the config inside opencode.
    has_login = str(provider.get("id")) in logins or "wellknown" in logins.values()
    if has_login or provider.get("key") or mapping_in(model.get("headers")):
        return ()
    if any(name in mapping_in(one) for name in _OWN_ADDRESS for one in (options, model.get("options"))):
        return ()
    prefix = package.rpartition("/")[2].upper()
    if any(environ.get(name) for name in (*variables, f"{prefix}_BASE_URL")):
        return ()
    host = host_of(text_in(api.get("url")) or "")
    is_local = host is not None and host.startswith(_LOOPBACK)
    return () if is_local or (package == _GENERAL and host is None) else variables
