"""Repositories as sources: the commits that refs name, and checkouts of them.

A repository on this machine is read through a *view*: a private repository with its refs and objects, and
without its configuration, which could name programs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.git import FETCH_LIMIT_S, LOCAL, NO_PROTOCOL, REMOTE, checked_git, run_git
from opencode_tasks.workspace.limits import Size

FULL_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
FILE_URL = "file://"
# Parts of a repository that say where its commits are. A linked worktree shares all of them but HEAD.
_SHARED = ("objects", "refs", "packed-refs", "reftable", "shallow", "logs")
# Extensions that say how they are stored, with the values that are passed on.
_EXTENSIONS = {"objectformat": ("sha1", "sha256"), "refstorage": ("files", "reftable")}
_HEAD_BYTES = 4096
_SHA256_DIGITS = 64


def commit_of_local(repository: Path, ref: str) -> str:
    """The commit of a ref of a repository on this machine. Its files are counted.

    Raises WorkspaceFaultError if the folder is not the top of a repository, and above a limit.
    """
    with _view(repository) as view:
        done = run_git(
            ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"], git_dir=view
        )
        if done.returncode != 0:
            raise WorkspaceFaultError(f"the repository {repository} has no commit {ref!r}")
        commit = done.stdout.strip()
        _count_tree(view, commit)
    return commit


def commit_of_remote(url: str, ref: str) -> str:
    """The commit of a ref of a repository at a URL. A full commit id is not looked up."""
    if FULL_COMMIT.fullmatch(ref):
        return ref
    with _reachable(url) as (address, protocol):
        listed = checked_git(["ls-remote", "--", address], f"cannot read {url}", protocols=protocol)
        found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
        for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
            if name in found:
                if protocol == LOCAL:
                    _count_tree(Path(address), found[name])
                return found[name]
    raise WorkspaceFaultError(
        f"the repository {url} has no branch or tag {ref!r}; name a commit by all of its 40 digits"
    )


def check_out(source: str, commit: str, folder: Path) -> None:
    """Make a new repository with one commit of a source, without its history, and check it out.

    No file of it is linked to one of the source, and it has no remote.
    """
    folder.mkdir(parents=True, mode=0o700)
    git_dir = folder / ".git"

    def run(*args: str, what: str, protocols: str = NO_PROTOCOL) -> None:
        checked_git(
            args, what, git_dir=git_dir, work_tree=folder, protocols=protocols, timeout_s=FETCH_LIMIT_S
        )

    object_format = "sha256" if len(commit) == _SHA256_DIGITS else "sha1"
    run(
        "init",
        "--quiet",
        "--template=",
        f"--object-format={object_format}",
        what="cannot make a repository",
    )
    with _reachable(source) as (address, protocol):
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--")
        run(*fetch, address, commit, what=f"cannot fetch {commit[:12]} of {source}", protocols=protocol)
    _count_tree(git_dir, commit)
    run("checkout", "--quiet", "--detach", commit, what="cannot check out")
    (git_dir / "FETCH_HEAD").unlink(missing_ok=True)


def _count_tree(git_dir: Path, commit: str) -> None:
    """Count the files of a commit. Raises WorkspaceFaultError above a limit, and if a file is missing."""
    size = Size()
    listed = checked_git(
        ["ls-tree", "-r", "-l", "-z", "--full-tree", commit], "cannot list the commit", git_dir=git_dir
    )
    for entry in filter(None, listed.split("\0")):
        of_file, _, name = entry.partition("\t")
        digits = of_file.split()[-1]
        if digits == "BAD":
            raise WorkspaceFaultError(
                f"the repository lacks the file {name!r} of commit {commit[:12]}, as a partial clone does; "
                "use a complete clone"
            )
        size.add_file(int(digits) if digits.isdigit() else 0)


@contextmanager
def _reachable(source: str) -> Generator[tuple[str, str]]:
    """The address by which git reads a source, and the protocol for it."""
    if "://" in source and not source.startswith(FILE_URL):
        yield source, REMOTE
        return
    path = path_of(source)
    with _view(path, source) as view:
        yield str(view), LOCAL


def path_of(address: str) -> Path:
    """The path of a repository on this machine: a path, or a URL as git reads it."""
    if not address.startswith(FILE_URL):
        return Path(address)
    return Path(unquote(urlsplit(address, allow_fragments=False).path))


@contextmanager
def _view(path: Path, named: str | None = None) -> Generator[Path]:
    """A private bare repository with the refs and objects of the one at ``path``."""
    with tempfile.TemporaryDirectory(prefix="opencode-tasks-") as folder:
        view = Path(folder)
        try:
            _fill_view(view, *_directories(path, named or str(path)))
        except (OSError, ValueError) as error:
            raise WorkspaceFaultError(f"cannot read {named or path} as a repository: {error}") from error
        yield view


def _fill_view(view: Path, own: Path, shared: Path) -> None:
    with (own / "HEAD").open("rb") as head:
        (view / "HEAD").write_bytes(head.read(_HEAD_BYTES))
    for name in _SHARED:
        if (shared / name).exists():
            (view / name).symlink_to((shared / name).resolve())
    extensions = _extensions(shared / "config")
    settings = ["repositoryformatversion = 1", "bare = true"] if extensions else ["bare = true"]
    (view / "config").write_text("\n".join(["[core]", *settings, "[extensions]", *extensions, ""]))


def _directories(path: Path, named: str) -> tuple[Path, Path]:
    """The directory of a repository with its HEAD, and that with its refs and objects."""
    for place in (path / ".git", path, path.with_name(f"{path.name}.git")):
        own = _named_by(place, "gitdir:") if place.is_file() else place
        shared = _named_by(own / "commondir") if (own / "commondir").is_file() else own
        if (own / "HEAD").is_file() and (shared / "objects").is_dir() and (shared / "refs").is_dir():
            return own, shared
    raise WorkspaceFaultError(
        f"cannot read {named} as a repository: not a git repository; name the folder that has its .git"
    )


def _named_by(file: Path, prefix: str = "") -> Path:
    with file.open("rb") as opened:
        text = opened.read(_HEAD_BYTES).decode(errors="surrogateescape")
    return file.parent / text.removeprefix(prefix).strip()


def _extensions(config: Path) -> list[str]:
    """The lines of a configuration on how objects and refs are stored."""
    if not config.is_file():
        return []
    asked = ["config", "--file", str(config), "--no-includes", "--get"]
    lines: list[str] = []
    for name, values in _EXTENSIONS.items():
        value = run_git([*asked, f"extensions.{name}"]).stdout.strip().lower()
        if value in values:
            lines.append(f"{name} = {value}")
    return lines
