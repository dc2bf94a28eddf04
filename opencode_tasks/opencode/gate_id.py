"""Gate id: a digest of the model, the address of its provider and the credential."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.credentials import AUTH_CONTENT, read_store, user_store
from opencode_tasks.opencode.user_config import expand_references, read_user_config

# Variables of AWS that opencode does not list.
AWS_VARIABLES = ("AWS_PROFILE", "AWS_SESSION_TOKEN")


def gate_id(
    model_ref: str, spec: OpencodeSpec, environ: Mapping[str, str], variables: Collection[str] = ()
) -> str:
    """``provider/model#digest``, equal for all specs that reach a model by one address and credential.

    ``variables`` are the names of the variables from which opencode reads the keys of the provider. The
    digest is one-way. Only the presence of an OAuth login is part of it, since its tokens rotate. Raises
    SetupError if the user's login store cannot be read.
    """
    provider = model_ref.partition("/")[0]
    config = merge(read_user_config(), spec.config)
    options = mapping_in(mapping_in(mapping_in(config.get("provider")).get(provider)).get("options"))
    environ = {**environ, **spec.secrets.environment}
    text = expand_references(json.dumps(options, sort_keys=True), environ)
    login = mapping_in(read_store(user_store()).get(provider))
    credential = {"type": "oauth"} if login.get("type") == "oauth" else login
    if provider in spec.secrets.api_keys:
        credential = {"type": "api", "key": spec.secrets.api_keys[provider]}
    keys = {name: value for name, value in environ.items() if _selects(name, provider, variables)}
    digest = hashlib.sha256(json.dumps([text, credential, keys], sort_keys=True).encode()).hexdigest()
    return f"{model_ref}#{digest[:12]}"


def _selects(name: str, provider: str, variables: Collection[str]) -> bool:
    """Whether a variable of this name selects the credential of a provider."""
    prefix = re.sub(r"[^A-Z0-9]", "_", provider.upper())
    is_key = name == AUTH_CONTENT or (name.startswith(prefix) and "KEY" in name)
    uses_aws = any(variable.startswith("AWS_") for variable in variables)
    return is_key or name in variables or (uses_aws and name in AWS_VARIABLES)
