"""Gate id: a digest of the model, the address of its provider and the credential."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.instance_dir import AUTH_CONTENT, read_store, user_store

_VARIABLE = re.compile(r"\{env:([^}]+)\}")


def gate_id(model_ref: str, spec: OpencodeSpec, environ: Mapping[str, str]) -> str:
    """``provider/model#digest``, equal for all specs that reach a model by one address and credential.

    The digest is one-way. Only the presence of an OAuth login is part of it, since its tokens rotate.
    Raises SetupError if the user's login store cannot be read.
    """
    provider = model_ref.partition("/")[0]
    options = mapping_in(mapping_in(mapping_in(spec.config.get("provider")).get(provider)).get("options"))
    environ = {**environ, **spec.secrets.environment}
    text = _VARIABLE.sub(lambda found: environ.get(found[1], ""), json.dumps(options, sort_keys=True))
    login = mapping_in(read_store(user_store()).get(provider))
    credential = {"type": "oauth"} if login.get("type") == "oauth" else login
    if provider in spec.secrets.api_keys:
        credential = {"type": "api", "key": spec.secrets.api_keys[provider]}
    prefix = re.sub(r"[^A-Z0-9]", "_", provider.upper())
    keys = {
        name: value
        for name, value in environ.items()
        if name == AUTH_CONTENT or (name.startswith(prefix) and "KEY" in name)
    }
    digest = hashlib.sha256(json.dumps([text, credential, keys], sort_keys=True).encode()).hexdigest()
    return f"{model_ref}#{digest[:12]}"
