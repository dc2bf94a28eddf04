"""How opencode reaches a provider: its hosts, the variables with its keys, and whether it signs requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in

# Addresses in the clients of providers, by the name of their npm package (read in the clients that opencode
# 1.18.33 contains). opencode's catalogue has the addresses of all other providers.
ADDRESSES = {
    "@ai-sdk/anthropic": "https://api.anthropic.com/v1",
    "@ai-sdk/cerebras": "https://api.cerebras.ai/v1",
    "@ai-sdk/cohere": "https://api.cohere.com/v2",
    "@ai-sdk/deepinfra": "https://api.deepinfra.com/v1",
    "@ai-sdk/gateway": "https://ai-gateway.vercel.sh/v1",
    "@ai-sdk/google": "https://generativelanguage.googleapis.com/v1beta",
    "@ai-sdk/groq": "https://api.groq.com/openai/v1",
    "@ai-sdk/mistral": "https://api.mistral.ai/v1",
    "@ai-sdk/openai": "https://api.openai.com/v1",
    "@ai-sdk/perplexity": "https://api.perplexity.ai",
    "@ai-sdk/togetherai": "https://api.together.xyz/v1",
    "@ai-sdk/xai": "https://api.x.ai/v1",
    "venice-ai-sdk-provider": "https://api.venice.ai/api/v1",
}
BEDROCK, AZURE = "@ai-sdk/amazon-bedrock", "@ai-sdk/azure"
VERTEX = ("@ai-sdk/google-vertex", "@ai-sdk/google-vertex/anthropic")
BEDROCK_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
DEFAULT_REGION = "us-east-1"
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAccess:
    """How opencode reaches a provider.

    ``hosts`` (``host:port``) is empty if they are not known. ``variables`` are the environment variables from
    which opencode reads its keys and places. ``signs`` says that the key itself is needed where a request is
    made: the request is signed, or a token is fetched with it. ``has_login`` says that opencode renews a
    login in its store.
    """

    name: str
    hosts: tuple[str, ...]
    variables: tuple[str, ...] = ()
    signs: bool = False
    has_login: bool = False


def host_of(url: str) -> str | None:
    """``host:port`` of an http or https URL; None for another text."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None
    return f"{parts.hostname}:{port}" if parts.hostname and port and parts.scheme in PORTS else None


def access_to(
    provider: Mapping[str, Any], models: Sequence[str], login_type: str | None, environ: Mapping[str, str]
) -> ProviderAccess:
    """The access to a provider of opencode's list (``GET /config/providers``) for some of its models.

    ``login_type`` is that of the user's login at it, None without one.
    """
    options = mapping_in(provider.get("options"))
    variables = tuple(str(name) for name in list_in(provider.get("env")))
    known = mapping_in(provider.get("models"))
    apis = [mapping_in(mapping_in(known.get(name)).get("api")) for name in models]
    hosts: dict[str, None] = {}
    packages = {text_in(api.get("npm")) or "" for api in apis}
    for api in apis:
        for url in _addresses(api, options, environ):
            if (host := host_of(url)) is not None:
                hosts[host] = None
    has_token = login_type == "api" or bool(environ.get(BEDROCK_VARIABLE)) or bool(options.get("apiKey"))
    signs = not packages.isdisjoint(VERTEX) or (BEDROCK in packages and not has_token)
    base_urls = tuple(f"{name}_BASE_URL" for name in _prefixes(packages))
    return ProviderAccess(
        name=str(provider.get("id")),
        hosts=tuple(hosts),
        variables=(*variables, *base_urls),
        signs=signs,
        has_login=login_type == "oauth",
    )


def _addresses(api: Mapping[str, Any], options: Mapping[str, Any], environ: Mapping[str, str]) -> list[str]:
    package = text_in(api.get("npm")) or ""
    if (given := text_in(options.get("baseURL")) or text_in(options.get("endpoint"))) is not None:
        return [given]
    if package == BEDROCK:
        region = text_in(options.get("region")) or environ.get("AWS_REGION") or DEFAULT_REGION
        return [f"https://bedrock-runtime.{region}.amazonaws.com"]
    if package == AZURE:
        name = text_in(options.get("resourceName")) or environ.get("AZURE_RESOURCE_NAME")
        return [f"https://{name}.{rest}" for rest in ("openai.azure.com", "services.ai.azure.com") if name]
    if package in VERTEX:
        place = text_in(options.get("location")) or environ.get("GOOGLE_VERTEX_LOCATION") or "us-central1"
        names = (f"{place}-aiplatform", "aiplatform", "oauth2")
        return [f"https://{name}.googleapis.com" for name in names]
    of_environment = [
        environ[f"{name}_BASE_URL"] for name in _prefixes([package]) if environ.get(f"{name}_BASE_URL")
    ]
    return of_environment or [text_in(api.get("url")) or ADDRESSES.get(package, "")]


def _prefixes(packages: Any) -> list[str]:
    """The prefixes of the variables with an address that the clients read."""
    names = {"@ai-sdk/openai": "OPENAI", "@ai-sdk/anthropic": "ANTHROPIC"}
    return [names[package] for package in packages if package in names]
