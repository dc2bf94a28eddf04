"""Sources of workspaces: what a text names, resolved to its content before anything is sent."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from opencode_tasks.domain.work import SourceKind, WorkspaceSource
from opencode_tasks.workspace import archive, folder, repository
from opencode_tasks.workspace.fault import WorkspaceFaultError

GIT_URL = "git+"
DEFAULT_REF = "HEAD"
# A user name in their URL can be a token.
_WEB = ("http", "https")


def resolve(text: str, ref: str | None = None) -> WorkspaceSource:
    """The source that a text names: a folder, an archive, or a repository with a ref.

    Forms: the path of a folder; a path or fsspec URL of an archive; ``git+URL@REF``; the path of a local
    repository as ``PATH@REF``, or with ``ref``. A repository without a ref has that of HEAD if the text
    begins with ``git+``. Raises WorkspaceFaultError if it cannot be used. A repository at a URL is asked for
    the commit of a branch or tag.
    """
    given, text = text, text.strip()
    if text.startswith(GIT_URL):
        kind, address, identity = _repository(text.removeprefix(GIT_URL), ref)
    elif "://" in text:
        kind, address, identity = _archive_at_url(text, ref)
    else:
        kind, address, identity = _local(text, ref)
    return WorkspaceSource(kind=kind, address=address, identity=identity, given=given, ref=ref)


_Resolved = tuple[SourceKind, str, str]


def _repository(text: str, ref: str | None) -> _Resolved:
    address, own_ref = _split_ref(text)
    if "://" not in address:
        return _local_repository(Path(address), _one_ref(own_ref, ref) or DEFAULT_REF)
    parts = urlsplit(address)
    if parts.password is not None or (parts.username and parts.scheme in _WEB):
        raise WorkspaceFaultError(
            "the URL holds a password, which would be stored; use SSH, or a program named by GIT_ASKPASS"
        )
    commit = repository.commit_of_remote(address, _one_ref(own_ref, ref) or DEFAULT_REF)
    return "git", address, f"git:{commit}"


def _split_ref(text: str) -> tuple[str, str | None]:
    """The address of ``git+ADDRESS@REF``, and the ref; None without one."""
    scheme, mark, rest = text.partition("://")
    host, slash, path = rest.partition("/") if mark else ("", "", scheme)
    path, at, ref = path.rpartition("@") if "@" in path else (path, "", "")
    return (f"{scheme}://{host}{slash}{path}" if mark else path), (ref if at else None)


def _one_ref(own: str | None, of_row: str | None) -> str | None:
    if own is not None and of_row is not None and own != of_row:
        raise WorkspaceFaultError(f"it names the ref {own!r}, and --workspace-ref names {of_row!r}")
    return own if own is not None else of_row


def _archive_at_url(address: str, ref: str | None) -> _Resolved:
    _no_ref(ref)
    parts = urlsplit(address)
    if parts.password is not None or (parts.username and parts.scheme in _WEB):
        raise WorkspaceFaultError(
            "the URL holds a password, which would be stored; use the driver's settings"
        )
    if not archive.is_archive(parts.path):
        raise WorkspaceFaultError(
            f"a URL must be that of an archive ({', '.join(archive.SUFFIXES)}), or begin with {GIT_URL}"
        )
    return _archive(address)


def _local(text: str, ref: str | None) -> _Resolved:
    path = Path(text).expanduser()
    if not path.exists() and "@" in path.name:
        base, _, own_ref = text.rpartition("@")
        return _local_repository(Path(base).expanduser(), _one_ref(own_ref, ref) or own_ref)
    if not text or not path.exists():
        raise WorkspaceFaultError(f"there is no file or folder {text!r}")
    if ref is not None:
        return _local_repository(path, ref)
    path = path.absolute()
    if path.is_dir():
        return "folder", str(path), f"sha256:{folder.digest_of(path)}"
    if not archive.is_archive(path.name):
        raise WorkspaceFaultError(
            f"{path} is neither a folder nor an archive ({', '.join(archive.SUFFIXES)})"
        )
    return _archive(str(path))


def _archive(address: str) -> _Resolved:
    with archive.local_archive(address) as path:
        archive.check(path)
        return "archive", address, f"sha256:{archive.digest_of(path)}"


def _local_repository(path: Path, ref: str) -> _Resolved:
    if not path.is_dir():
        raise WorkspaceFaultError(f"there is no repository {path}")
    commit = repository.commit_of_local(path.absolute(), ref)
    return "git", str(path.absolute()), f"git:{commit}"


def _no_ref(ref: str | None) -> None:
    if ref is not None:
        raise WorkspaceFaultError(f"an archive has no ref {ref!r} (--workspace-ref)")
