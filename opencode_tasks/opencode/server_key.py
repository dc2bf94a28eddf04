"""Server key: digests of everything that an opencode server depends on.

A server keeps the environment, the logins and the config with which it was started. If one of them changes
while this process runs, such as a key that a user corrects, the next prompt needs another server.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import mapping_in
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.credentials import read_store, user_store
from opencode_tasks.opencode.instance_dir import REMOVED_VARIABLES
from opencode_tasks.opencode.model_catalogue import catalogue_path
from opencode_tasks.opencode.user_config import config_digest

# Variables that shells, test runners and Ray change while a process runs, and that decide no answer.
CHANGING_PREFIXES = ("PYTEST_", "RAY_", "CUDA_VISIBLE_", "OTEL_")
CHANGING_VARIABLES = frozenset(
    ("_", "PWD", "OLDPWD", "SHLVL", "LINES", "COLUMNS", "OMP_NUM_THREADS", "TRACEPARENT", "TRACESTATE")
)


@dataclass(frozen=True, slots=True)
class ServerKey:
    """Rows can share a server if both parts are equal.

    Attributes:
        settings: Digest of the spec. The system text is not part of it, since each message carries it. Of
            the model only the provider is.
        surroundings: Digest of what the process and the machine add: environment, logins, config files,
            binary, model catalogue.
    """

    settings: str
    surroundings: str


def server_key(spec: OpencodeSpec) -> ServerKey:
    """Key of the servers of a spec now."""
    return ServerKey(settings_digest(spec), _surroundings_digest(spec))


def settings_digest(spec: OpencodeSpec) -> str:
    """The part of the key that does not change while the process runs."""
    values = asdict(spec)
    values.pop("system")
    # No server is in a sandbox.
    values.pop("sandbox")
    values["model_ref"] = spec.model_ref.partition("/")[0] if spec.model_ref else None
    return _digest(values)


def _surroundings_digest(spec: OpencodeSpec) -> str:
    catalogue = catalogue_path()
    return _digest(
        {
            "environment": _lasting(os.environ),
            "logins": _logins(),
            "config": config_digest(json.dumps(spec.config, default=str)),
            "binary": _file_state(spec.binary),
            "catalogue": catalogue and _file_state(catalogue),
        }
    )


def _lasting(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that reach opencode, without those that change all the time."""
    left_out = (*REMOVED_VARIABLES, *CHANGING_PREFIXES)
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(left_out) and name not in CHANGING_VARIABLES
    }


def _logins() -> Any:
    """The logins of the user. Of an OAuth login only the presence counts: its tokens rotate in the store."""
    try:
        logins = read_store(user_store())
    except SetupError as error:
        # It is raised when opencode is started.
        return str(error)
    rotating = {"type": "oauth"}
    return {
        name: rotating if login.get("type") == "oauth" else mapping_in(login)
        for name, login in logins.items()
    }


def _file_state(path: Path) -> list[Any]:
    """Path, size and time of change of a file, which is too large to be read."""
    try:
        state = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), state.st_size, state.st_mtime_ns]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
