"""git, run so that neither the user's settings nor those of a repository have an effect.

No hook, filter, external diff or monitor of a repository is run, and no password is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from opencode_tasks.system import CommandResult, run_command
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.limits import Size

LIMIT_S = 120.0
FETCH_LIMIT_S = 600.0
# Variables that say how a server is reached; all others with this prefix come from a git around this process.
KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_PROXY_COMMAND")
# No file can be here: git goes without it.
NOTHING = f"{os.devnull}/nothing"
SETTINGS = (
    *(f"core.{name}={NOTHING}" for name in ("hooksPath", "excludesFile", "attributesFile")),
    *("core.fsmonitor=false", "core.untrackedCache=false", "core.autocrlf=false"),
    *("core.symlinks=true", "core.fileMode=true", "gc.auto=0", "maintenance.auto=false"),
    *("safe.directory=*", "submodule.recurse=false", "fetch.recurseSubmodules=false"),
    *("advice.detachedHead=false", "protocol.ext.allow=never"),
)
FULL_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MESSAGE_CHARS = 300


def run_git(
    args: Sequence[str],
    *,
    git_dir: Path | None = None,
    work_tree: Path | None = None,
    timeout_s: float = LIMIT_S,
    stdout: Path | None = None,
) -> CommandResult:
    """Run git in ``work_tree``, with its own repository or with ``git_dir``. It never raises."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in KEPT}
    env |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": NOTHING,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "LC_ALL": "C",
    }
    if git_dir is not None:
        env |= {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(work_tree)}
    options = [word for setting in SETTINGS for word in ("-c", setting)]
    return run_command(["git", *options, *args], env=env, cwd=work_tree, timeout_s=timeout_s, stdout=stdout)


def checked_git(
    args: Sequence[str],
    what: str,
    *,
    git_dir: Path | None = None,
    work_tree: Path | None = None,
    timeout_s: float = LIMIT_S,
    stdout: Path | None = None,
) -> str:
    """Run git and return its output. Raises WorkspaceFaultError, with ``what`` failed, if git fails."""
    done = run_git(args, git_dir=git_dir, work_tree=work_tree, timeout_s=timeout_s, stdout=stdout)
    if done.timed_out:
        raise WorkspaceFaultError(f"{what}: git did not end within {timeout_s:g} s")
    if done.returncode != 0:
        raise WorkspaceFaultError(f"{what}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("fatal:", "error:"))] or text.splitlines()
    return (lines[0] if lines else "git failed")[:_MESSAGE_CHARS]


def commit_of_local(repository: Path, ref: str) -> str:
    """The commit of a ref of a repository on this machine."""
    checked_git(["rev-parse", "--git-dir"], f"cannot use {repository} as a repository", work_tree=repository)
    done = run_git(
        ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"], work_tree=repository
    )
    if done.returncode != 0:
        raise WorkspaceFaultError(f"the repository {repository} has no commit {ref!r}")
    return done.stdout.strip()


def commit_of_remote(url: str, ref: str) -> str:
    """The commit of a ref of a repository at a URL. A full commit id is not looked up."""
    if FULL_COMMIT.fullmatch(ref):
        return ref
    listed = checked_git(["ls-remote", "--", url], f"cannot read {url}", timeout_s=LIMIT_S)
    found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        if name in found:
            return found[name]
    raise WorkspaceFaultError(
        f"the repository {url} has no branch or tag {ref!r}; name a commit by all of its 40 digits"
    )


def count_tree(repository: Path, commit: str) -> None:
    """Count the files of a commit. Raises WorkspaceFaultError above a limit."""
    size = Size()
    listed = checked_git(
        ["ls-tree", "-r", "-l", "-z", "--full-tree", commit], "cannot list the commit", work_tree=repository
    )
    for entry in filter(None, listed.split("\0")):
        digits = entry.partition("\t")[0].split()[-1]
        size.add_file(int(digits) if digits.isdigit() else 0)


def check_out(source: str, commit: str, folder: Path) -> None:
    """Make a new repository with one commit of a source, without its history, and check it out.

    No file of it is linked to one of the source, and it has no remote.
    """
    folder.mkdir(parents=True, mode=0o700)
    checked_git(["init", "--quiet", "--template=", "--", "."], "cannot make a repository", work_tree=folder)
    fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", source, commit]
    checked_git(fetch, f"cannot fetch {commit[:12]} of {source}", work_tree=folder, timeout_s=FETCH_LIMIT_S)
    count_tree(folder, commit)
    checked_git(["checkout", "--quiet", "--detach", commit], "cannot check out", work_tree=folder)
    (folder / ".git" / "FETCH_HEAD").unlink(missing_ok=True)
