"""git, run so that neither the user's settings nor those of a repository have an effect.

No hook, filter, external diff or monitor of a repository is run, and no password is asked for. Each call
names a private repository, or none: a configuration that others wrote is not read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from opencode_tasks.system import CommandResult, run_command
from opencode_tasks.workspace.fault import WorkspaceFaultError

LIMIT_S = 120.0
FETCH_LIMIT_S = 600.0
# Variables that say how a server is reached; all others with this prefix come from a git around this process.
KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_PROXY_COMMAND")
# No file can be here: git goes without it.
NOTHING = f"{os.devnull}/nothing"
# Ways to other repositories: none, one on this machine, one at a URL.
NO_PROTOCOL, LOCAL, REMOTE = "none", "file", "git:http:https:ssh"
SETTINGS = (
    *(f"core.{name}={NOTHING}" for name in ("hooksPath", "excludesFile", "attributesFile")),
    *("core.fsmonitor=false", "core.untrackedCache=false", "core.autocrlf=false"),
    *("core.symlinks=true", "core.fileMode=true", "gc.auto=0", "maintenance.auto=false"),
    *("safe.directory=*", "submodule.recurse=false", "fetch.recurseSubmodules=false"),
    *("advice.detachedHead=false", "protocol.ext.allow=never"),
)
_MESSAGE_CHARS = 300


def run_git(
    args: Sequence[str],
    *,
    git_dir: Path | None = None,
    work_tree: Path | None = None,
    protocols: str = NO_PROTOCOL,
    timeout_s: float = LIMIT_S,
    stdout: Path | None = None,
) -> CommandResult:
    """Run git in ``work_tree`` with the repository ``git_dir``, or without a repository. It never raises.

    ``protocols`` are those by which it may reach other repositories, as ``GIT_ALLOW_PROTOCOL`` has them.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in KEPT}
    env |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": NOTHING,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_DIR": str(git_dir or NOTHING),
        "LC_ALL": "C",
    }
    if work_tree is not None:
        env["GIT_WORK_TREE"] = str(work_tree)
    options = [word for setting in SETTINGS for word in ("-c", setting)]
    return run_command(["git", *options, *args], env=env, cwd=work_tree, timeout_s=timeout_s, stdout=stdout)


def checked_git(
    args: Sequence[str],
    what: str,
    *,
    git_dir: Path | None = None,
    work_tree: Path | None = None,
    protocols: str = NO_PROTOCOL,
    timeout_s: float = LIMIT_S,
    stdout: Path | None = None,
    accepted: Sequence[int] = (0,),
) -> str:
    """Run git and return its output.

    Raises WorkspaceFaultError, with ``what`` failed, if its exit code is not an accepted one.
    """
    done = run_git(
        args, git_dir=git_dir, work_tree=work_tree, protocols=protocols, timeout_s=timeout_s, stdout=stdout
    )
    if done.timed_out:
        raise WorkspaceFaultError(f"{what}: git did not end within {timeout_s:g} s")
    if done.returncode not in accepted:
        raise WorkspaceFaultError(f"{what}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("fatal:", "error:"))] or text.splitlines()
    return (lines[0] if lines else "git failed")[:_MESSAGE_CHARS]
