"""Model catalogue: the models of all providers that opencode knows, and the part that a process needs.

The catalogue (models.dev) is the file that OPENCODE_MODELS_PATH names, or the one that opencode downloaded
last, or a copy inside its binary. It has 8,261 models of 225 providers (opencode 1.18.33). Each process of
opencode reads all of it and makes entries for it, about a third of the CPU time until its first request. A
process whose model is known gets the providers that it can use alone. ``benchmarks/catalogue.py`` measures
the difference.

The copy in the binary is JavaScript source text, such as ``{deepinfra:{id:"deepinfra",env:[…],…},…}``. The
binary is a Bun executable, which evaluates that text itself if BUN_BE_BUN is set (measured with 1.15.13 and
1.18.33). The result is stored in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.errors import SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.binary import cache_dir
from opencode_tasks.opencode.credentials import login_types
from opencode_tasks.opencode.user_config import config_texts, has_plugins, read_user_config
from opencode_tasks.system import run_command
from opencode_tasks.system.folders import home
from opencode_tasks.system.fork import free_after_fork

PATH_VARIABLE = "OPENCODE_MODELS_PATH"
EXTRACT_LIMIT_S = 60.0
# The catalogue is about 4.5 MB of source text.
MAX_SOURCE_BYTES = 64 * 1024 * 1024
_START = re.compile(rb'\{(?:"[^"\\]+"|[\w$]+):\{id:"[^"\\]+",env:\[')
# A string, or a bracket of an object. Brackets in strings do not count.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`(?:[^`\\]|\\.)*`|[{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Provider:
    """A provider of the catalogue: the variables with its keys, and its entry as JSON."""

    variables: tuple[str, ...]
    entry: str


_State = tuple[Path, int, int]
# What was read before, by the state of its file. The lock keeps threads from reading the same file at once.
MAX_REMEMBERED = 4
_read_before: dict[_State, Mapping[str, _Provider]] = {}
_lock = free_after_fork(threading.RLock())


def catalogue_path() -> Path | None:
    """Path of the catalogue file that opencode reads: the user's, or the one that it downloaded last.

    None if there is neither: opencode then uses the one inside its binary.
    """
    if named := os.environ.get(PATH_VARIABLE):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(home() / ".cache")
    path = Path(cache) / "opencode" / "models.json"
    return path if path.is_file() else None


def read_catalogue(binary: Path, providers: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The entries of some providers in the catalogue of opencode: of its file, else of its binary.

    A provider that is not in it is missing in the result, as are all without a catalogue that can be read.
    """
    path = catalogue_path()
    known = (path is not None and _read(path)) or _embedded(binary)
    return {name: json.loads(known[name].entry) for name in providers if name in known}


def write_needed_catalogue(folder: Path, spec: OpencodeSpec, environ: Mapping[str, str]) -> Path | None:
    """Write the providers that a process of opencode can use, as a catalogue file; returns its path.

    They are the provider of the model, those that the config names anywhere, and those with a login or a
    key in ``environ``. Without a known model, opencode chooses one of all, and a plugin of the user can name
    any: then it is the path of the whole catalogue. None if opencode has to read the copy in its binary.
    """
    source = catalogue_path()
    known = _embedded(spec.binary) if source is None else _read(source)
    needed = _needed(known, spec, environ)
    if needed is None:
        return source
    path = folder / "models.json"
    entries = ",".join(f"{json.dumps(name)}:{known[name].entry}" for name in needed)
    path.touch(mode=0o600)
    path.write_text(f"{{{entries}}}", encoding="utf-8")
    return path


def stored_catalogue(binary: Path) -> Path | None:
    """Path of the catalogue of a binary in the user's cache, where it is stored by the first call.

    None if it cannot be read or stored.
    """
    state = _state(binary)
    if state is None or not _embedded(binary):
        return None
    path = _place(state)
    return path if path.is_file() else None


def _needed(
    known: Mapping[str, _Provider], spec: OpencodeSpec, environ: Mapping[str, str]
) -> list[str] | None:
    """The ids of the providers, in the order of the catalogue; None if all are needed."""
    explicit = json.dumps(spec.config, default=str)
    model_ref = (
        spec.model_ref or text_in(spec.config.get("model")) or text_in(read_user_config().get("model"))
    )
    if not known or model_ref is None:
        return None
    files = config_texts(explicit)
    # A plugin of the user can name any model.
    if has_plugins(explicit, files):
        return None
    try:
        logins = login_types(spec.secrets)
    except (SetupError, ValueError):
        return None
    # A login of the type "wellknown" adds to the config and to the environment inside opencode.
    if "wellknown" in logins.values():
        return None
    provider = model_ref.partition("/")[0]
    texts = [explicit, *(text for _, text in files), " ".join(spec.extra_cli_args)]
    named = {*_named_in(texts, known), *mapping_in(spec.config.get("provider"))}
    if provider not in known and provider not in named:
        # The message about an unknown provider lists those that there are.
        return None
    named |= {provider, *logins}
    return [name for name, entry in known.items() if name in named or any(map(environ.get, entry.variables))]


def _named_in(texts: Iterable[str], names: Iterable[str]) -> set[str]:
    """The providers that texts name as in ``"acme"``, ``acme:``, or ``acme/model``."""
    longest_first = sorted(names, key=len, reverse=True)
    if not longest_first:
        return set()
    ids = "|".join(map(re.escape, longest_first))
    pattern = re.compile(rf"(?<![\w./-])({ids})(?=[\"'`/:\s]|$)")
    return {found[1] for text in texts for found in pattern.finditer(text)}


def _read(path: Path) -> Mapping[str, _Provider]:
    """The providers of a catalogue file; empty if it cannot be read."""
    key = _state(path)
    if key is None:
        return {}
    with _lock:
        if key not in _read_before:
            try:
                catalogue: Any = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                return {}
            _remember(key, mapping_in(catalogue))
        return _read_before[key]


def _embedded(binary: Path) -> Mapping[str, _Provider]:
    """The providers of the catalogue in a binary; empty without one. It is stored in the user's cache."""
    key = _state(binary)
    if key is None:
        return {}
    with _lock:
        if key in _read_before:
            return _read_before[key]
        path = _place(key)
        if found := _read(path):
            return found
        extracted: Mapping[str, Any] = {}
        with (
            contextlib.suppress(OSError),
            tempfile.TemporaryDirectory(prefix="oct-catalogue-") as folder,
        ):
            extracted = _extract(binary, Path(folder))
        _remember(key, extracted)
        with contextlib.suppress(OSError):
            _store(path, _read_before[key])
        return _read_before[key]


def _remember(key: _State, catalogue: Mapping[str, Any]) -> None:
    while len(_read_before) >= MAX_REMEMBERED:
        del _read_before[next(iter(_read_before))]
    _read_before[key] = {
        name: _Provider(tuple(map(str, list_in(mapping_in(entry).get("env")))), json.dumps(entry))
        for name, entry in catalogue.items()
    }


def _state(path: Path) -> _State | None:
    """Path, time of change and size of a file; None if there is none."""
    try:
        state = path.stat()
        return path.resolve(), state.st_mtime_ns, state.st_size
    except OSError:
        return None


def _place(state: _State) -> Path:
    """Where the catalogue of a binary in this state is stored."""
    name = hashlib.sha256(repr(state).encode(errors="surrogateescape")).hexdigest()[:24]
    return cache_dir() / "catalogues" / f"{name}.json"


def _store(path: Path, providers: Mapping[str, _Provider]) -> None:
    if not providers:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = ",".join(f"{json.dumps(name)}:{one.entry}" for name, one in providers.items())
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as folder:
        made = Path(folder, "catalogue.json")
        made.write_text(f"{{{entries}}}", encoding="utf-8")
        made.replace(path)


def _extract(binary: Path, folder: Path) -> Mapping[str, Any]:
    """The catalogue inside a binary, evaluated by the binary itself; empty if there is none."""
    source = _source(binary)
    script, output = folder / "catalogue.js", folder / "output.json"
    script.write_bytes(b"process.stdout.write(JSON.stringify(" + source + b"))")
    private = dict.fromkeys(
        ("TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), str(folder)
    )
    env = {**os.environ, **private, "BUN_BE_BUN": "1"}
    if source:
        run_command([str(binary), str(script)], env=env, cwd=folder, timeout_s=EXTRACT_LIMIT_S, stdout=output)
    with contextlib.suppress(OSError, ValueError):
        found = mapping_in(json.loads(output.read_text(encoding="utf-8")))
        if all(mapping_in(mapping_in(entry).get("models")) for entry in found.values()):
            return found
    return {}


def _source(binary: Path) -> bytes:
    """The source text of the catalogue in a binary; empty if there is none."""
    try:
        with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = _START.search(data)
            if start is None:
                return b""
            text = data[start.start() : start.start() + MAX_SOURCE_BYTES]
    except (OSError, ValueError):
        return b""
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {b"{": 1, b"}": -1}.get(token[0], 0)
        if depth == 0:
            return text[: token.end()]
    return b""
