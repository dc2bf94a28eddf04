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
    if "://" not in text:
        return _repository_at_path(text, ref)
    address, own_ref = split_url(text)
    parts = urlsplit(address)
    if parts.password is not None or (parts.username and parts.scheme in _WEB):
        raise WorkspaceFaultError(
            "the URL holds a password, which would be stored; use SSH, or a program named by GIT_ASKPASS"
        )
    commit = repository.commit_of_remote(address, _one_ref(own_ref, ref) or DEFAULT_REF)
    return "git", address, f"git:{commit}"


def split_url(text: str) -> tuple[str, str | None]:
    """The URL of ``URL@REF``, and the ref; None without one.

    The ref begins at the first ``@`` of the path that does not begin the name of a folder. If the URL is that
    of a folder on this machine, it begins after that folder.
    """
    top = text.find("/", text.index("://") + len("://"))
    marks = [mark for mark in _marks(text) if mark > top >= 0 and text[mark - 1] != "/"]
    if not marks:
        return text, None
    here = text.startswith(repository.FILE_URL)
    first = next((mark for mark in marks if here and repository.path_of(text[:mark]).is_dir()), marks[0])
    return text[:first], text[first + 1 :]


def _repository_at_path(text: str, ref: str | None) -> _Resolved:
    """The repository of ``PATH`` or ``PATH@REF``, where each of them can have an ``@``."""
    path = Path(text).expanduser()
    if path.exists():
        return _local_repository(path, ref or DEFAULT_REF)
    fault: WorkspaceFaultError | None = None
    for mark in _marks(text):
        path, own_ref = Path(text[:mark]).expanduser(), text[mark + 1 :]
        if path.is_dir():
            try:
                return _local_repository(path, _one_ref(own_ref, ref) or own_ref)
            except WorkspaceFaultError as error:
                fault = fault or error
    raise fault or WorkspaceFaultError(f"there is no repository {text}")


def _marks(text: str) -> list[int]:
    return [place for place, sign in enumerate(text) if sign == "@"]


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
    if not path.exists() and "@" in text:
        return _repository_at_path(text, ref)
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
