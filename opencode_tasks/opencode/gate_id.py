"""What stands between us and a provider: its address and the credential, named without telling it."""

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
    """``provider/model#…``: the same for all who reach a model by the same address and credential.

    The part after ``#`` is a one-way digest. An OAuth login's tokens rotate, so of one only that
    it is there is in it.
    """
    provider = model_ref.partition("/")[0]
    options = mapping_in(mapping_in(mapping_in(spec.config.get("provider")).get(provider)).get("options"))
    environ = {**environ, **spec.secrets.environment}
    text = _VARIABLE.sub(lambda found: environ.get(found[1], ""), json.dumps(options, sort_keys=True))
    login = mapping_in(read_store(user_store()).get(provider))
    known = {"type": "oauth"} if login.get("type") == "oauth" else login
    if provider in spec.secrets.api_keys:
        known = {"type": "api", "key": spec.secrets.api_keys[provider]}
    prefix = re.sub(r"[^A-Z0-9]", "_", provider.upper())
    keys = {
        name: value
        for name, value in environ.items()
        if name == AUTH_CONTENT or (name.startswith(prefix) and "KEY" in name)
    }
    digest = hashlib.sha256(json.dumps([text, known, keys], sort_keys=True).encode()).hexdigest()
    return f"{model_ref}#{digest[:12]}"
