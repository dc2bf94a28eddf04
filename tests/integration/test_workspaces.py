"""Workspaces: sources, private copies and changes, with real git and real archives."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from engine_runs import setting
from processes import WITHOUT_RIGHTS
from repositories import applied, git, repository, state

from opencode_tasks.domain.work import WorkspaceRequest, WorkspaceSource
from opencode_tasks.workspace.fault import WorkspaceFaultError
from opencode_tasks.workspace.file_store import FileStore, open_stored
from opencode_tasks.workspace.place import Workspace
from opencode_tasks.workspace.source import resolve, split_url


def workspace(folder: Path, text: str, ref: str | None = None) -> Workspace:
    made = Workspace(folder / "attempt")
    made.root.mkdir(parents=True)
    made.make(WorkspaceRequest(source=resolve(text, ref)))
    return made


def patch(made: Workspace) -> bytes:
    return made.changes.read().patch.read_bytes()


ODD = (
    "with space.txt",
    "new\nline.txt",
    "grün.txt",
    "-dash.txt",
    'quo"te.txt',
    "sub/deep/a.txt",
    "tab\t.txt",
)


def test_a_diff_of_all_kinds_of_changes_applies_to_a_fresh_checkout(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", dict.fromkeys(ODD, "one\ntwo\n") | {"crlf.txt": "a\r\nb\r\n"})
    (source / "binary").write_bytes(bytes(range(256)))
    (source / "link").symlink_to("crlf.txt")
    for name in ("script.sh", "gone.txt", "old name.txt", "to_link"):
        (source / name).write_text("echo hello\n" * 3)
    git(source, "add", "-A")
    git(source, "commit", "-qm", "more")
    before = state(source)
    made = workspace(tmp_path, f"{source}@main")
    tree = made.tree
    for name in ODD:
        (tree / name).write_text("one\nthree")
    (tree / "crlf.txt").write_bytes(b"a\r\nc\r\n")
    (tree / "binary").write_bytes(bytes(reversed(range(256))))
    (tree / "new binary").write_bytes(b"\0\1" * 50)
    (tree / "empty").touch()
    (tree / "link").unlink()
    (tree / "link").symlink_to("grün.txt")
    (tree / "to_link").unlink()
    (tree / "to_link").symlink_to("empty")
    (tree / "script.sh").chmod(0o755)
    (tree / "gone.txt").unlink()
    (tree / "old name.txt").rename(tree / "new name.txt")
    (tree / "latin.txt").write_bytes("grün\n".encode("latin-1"))
    changes = made.changes.read()
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "-q", str(source), str(fresh))
    applied(changes.patch.read_bytes(), fresh)

    def files(folder: Path) -> dict[str, str]:
        return {name: it for name, it in state(folder).items() if name.partition("/")[0] != ".git"}

    assert files(fresh) == files(tree)
    assert state(source) == before
    assert changes.files == len(ODD) + 11
    assert changes.lines_removed == len(ODD) + 1 + 3 + 3 + 3 + 1
    assert changes.lines_added == len(ODD) + 1 + 3 + 1 + 1 + 1


def test_a_repository_keeps_no_trace_of_its_workspaces_and_a_workspace_none_of_it(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n"})
    git(source, "tag", "v1")
    git(source, "commit", "-q", "--allow-empty", "-m", "later")
    before = state(source)
    made = workspace(tmp_path, f"git+file://{source}@v1")
    assert git(made.tree, "rev-parse", "HEAD") == git(source, "rev-parse", "v1")
    assert git(made.tree, "log", "--format=%s").split() == ["first"]
    assert str(source) not in "".join(path.read_text() for path in (made.tree / ".git").glob("[A-Zc]*"))
    git(made.tree, "commit", "-q", "--allow-empty", "-m", "own")
    assert state(source) == before


@pytest.mark.parametrize("name", ["repository", "folder"])
def test_hooks_and_settings_of_a_source_run_nothing(tmp_path: Path, name: str) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n", ".gitattributes": "* diff=bad filter=bad\n"})
    command = f"touch {tmp_path}/ran; cat"
    for key in ("core.fsmonitor", "diff.bad.command", "diff.bad.textconv", "diff.external"):
        git(source, "config", key, command)
    for key in ("filter.bad.clean", "filter.bad.smudge", "core.sshCommand", "core.pager"):
        git(source, "config", key, command)
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit"):
        path = source / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        path.chmod(0o755)
    made = workspace(tmp_path, f"{source}@main" if name == "repository" else str(source))
    (made.tree / "a.txt").write_text("two\n")
    assert b"+two" in patch(made)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["{}@main", "git+file://{}@main"])
@pytest.mark.parametrize(
    "settings",
    [
        {"remote.origin.url": "ssh://x/y", "core.sshCommand": "touch {ran}; false"},
        {"remote.origin.url": "{source}", "remote.origin.uploadpack": "touch {ran}; false"},
        {"remote.origin.url": "ext::touch {ran}", "protocol.ext.allow": "always"},
    ],
)
def test_a_partial_clone_runs_nothing_and_is_refused(
    tmp_path: Path, form: str, settings: dict[str, str]
) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n"})
    blob = git(source, "rev-parse", "HEAD:a.txt")
    (source / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    partial = {"core.repositoryFormatVersion": "1", "extensions.partialClone": "origin"}
    for key, value in (partial | {"remote.origin.promisor": "true"} | settings).items():
        git(source, "config", key, value.format(ran=tmp_path / "ran", source=source))
    with pytest.raises(WorkspaceFaultError) as caught:
        resolve(form.format(source))
    assert not (tmp_path / "ran").exists()
    assert "lacks the file 'a.txt'" in str(caught.value)


def test_the_repository_around_the_command_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = repository(tmp_path / "around", {"a.txt": "one\n"})
    git(around, "config", "core.sshCommand", f"touch {tmp_path}/ran; false")
    monkeypatch.chdir(around)
    with pytest.raises(WorkspaceFaultError):
        resolve("git+ssh://localhost:1/none.git@main")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["shared", "bare", "worktree", "shallow", "sha256"])
def test_repositories_of_all_kinds_are_checked_out(tmp_path: Path, kind: str) -> None:
    origin, source = tmp_path / "origin", tmp_path / "source"
    origin.mkdir()
    git(origin, "init", "-q", f"--object-format={'sha256' if kind == 'sha256' else 'sha1'}")
    (origin / "a.txt").write_text("one\n")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "first")
    git(origin, "pack-refs", "--all")
    if kind == "worktree":
        git(origin, "worktree", "add", "-q", str(source))
    else:
        options = {"bare": "--bare", "shared": "--shared", "shallow": "--depth=1"}.get(kind, "--quiet")
        git(
            tmp_path,
            "clone",
            "-q",
            options,
            f"file://{origin}" if kind == "shallow" else str(origin),
            "source",
        )
    for number, text in enumerate((f"{source}@HEAD", f"git+file://{source}@main")):
        made = workspace(tmp_path / str(number), text)
        assert (made.tree / "a.txt").read_text() == "one\n"
        assert git(made.tree, "status", "--porcelain") == ""


def test_files_that_are_ignored_are_in_the_diff_if_they_are_in_the_source(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", {"kept.log": "one\n"})
    (source / ".gitignore").write_text("*.log\n")
    made = workspace(tmp_path, str(source))
    (made.tree / "kept.log").write_text("two\n")
    (made.tree / "new.log").write_text("noise\n")
    assert b"kept.log" in patch(made)
    assert b"new.log" not in patch(made)


def test_a_repository_inside_of_a_workspace_does_not_prevent_the_diff(tmp_path: Path) -> None:
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "sub" / "old.txt").write_text("one\n")
    made = workspace(tmp_path, str(tmp_path / "source"))
    (made.tree / "a.txt").write_text("one\n")
    (made.tree / "own").mkdir()
    for folder in ("sub", "own"):
        git(made.tree / folder, "init", "-q")
    changes = made.changes.read()
    assert changes.files == 1
    assert b"a.txt" in changes.patch.read_bytes()


@pytest.mark.parametrize("name", [".gitignore", ".gitattributes", "sub/.gitignore", "sub/new", "sub/b.txt"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_pipe_or_socket_in_a_workspace_does_not_prevent_the_diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr("opencode_tasks.workspace.changes.FETCH_LIMIT_S", 5.0)
    made = workspace(
        tmp_path, f"{repository(tmp_path / 'source', {'a.txt': 'one', 'sub/b.txt': 'one'})}@main"
    )
    (made.tree / "a.txt").write_text("two\n")
    (made.tree / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(made.tree / name)
    else:
        monkeypatch.chdir(made.tree)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
    changes = made.changes.read()
    assert changes.files == (2 if name == "sub/b.txt" else 1)
    assert b"+two" in changes.patch.read_bytes()


@pytest.mark.parametrize(
    "name", ["git~1", "sub/GIT~1/x", ".GIT/x", "a\\.git\\b", ".git::x", ".g\u200cit/x", "con", ".git /x"]
)
def test_names_that_other_systems_reserve_do_not_prevent_the_diff(tmp_path: Path, name: str) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n"})
    made = workspace(tmp_path, f"{source}@main")
    (made.tree / name).parent.mkdir(parents=True, exist_ok=True)
    (made.tree / name).write_text("one\n")
    (made.tree / "a.txt").write_text("two\n")
    check = made.check("echo three > a.txt", 10, None)
    assert check.has_passed
    assert (made.tree / "a.txt").read_text() == "two\n"
    diff = patch(made)
    git(
        source,
        "-c",
        "core.protectNTFS=false",
        "-c",
        "core.protectHFS=false",
        "apply",
        "--check",
        str(made.changes.read().patch),
    )
    assert b"+two" in diff
    assert diff.count(b"diff --git") == (1 if name == ".GIT/x" else 2)


@pytest.mark.parametrize(
    "name", [".gitmodules", ".gitattributes", ".gitignore", ".mailmap", "sub/.gitmodules"]
)
def test_links_with_names_of_files_of_git_do_not_prevent_the_diff(tmp_path: Path, name: str) -> None:
    made = workspace(tmp_path, f"{repository(tmp_path / 'source', {'a.txt': 'one', 'sub/b': 'one'})}@main")
    (made.tree / name).symlink_to("a.txt")
    (made.tree / "a.txt").write_text("two\n")
    assert made.check("rm a.txt", 10, None).has_passed
    assert b"+two" in patch(made)
    assert (made.tree / name).is_symlink()


CHANGED_MODES = """
import sys
from pathlib import Path
from opencode_tasks.domain.work import WorkspaceRequest
from opencode_tasks.workspace.place import Workspace
from opencode_tasks.workspace.source import resolve, split_url

made = Workspace(Path(sys.argv[1]))
made.make(WorkspaceRequest(source=resolve(sys.argv[2])))
(made.tree / "a.txt").write_text("two\\n")
(made.tree / "sub" / "new.txt").write_text("new\\n")
(made.tree / "link").symlink_to(sys.argv[3])
path, mode = made.tree / sys.argv[4], int(sys.argv[5], 8)
path.chmod(mode)
command = f"chmod 700 .; chmod -R 700 sub; echo bad > sub/b.txt; chmod {mode:o} {path}"
assert made.check(command, 10, None).has_passed
assert (made.tree / "sub" / "b.txt").read_text() == "one\\n"
path.chmod(mode)
print(made.changes.read().patch.read_text())
"""


@pytest.mark.parametrize("mode", [0, 0o500, 0o300])
@pytest.mark.parametrize("name", ["sub/b.txt", "sub/new.txt", "sub", "."])
def test_files_and_folders_without_rights_do_not_prevent_the_diff(
    tmp_path: Path, name: str, mode: int
) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n", "sub/b.txt": "one\n"})
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    # Root reads everything; inside of bubblewrap it has the rights of a user.
    user = ["bwrap", "--unshare-user", "--uid", "1000", "--cap-drop", "ALL", "--dev-bind", "/", "/"]
    command = [sys.executable, "-c", CHANGED_MODES, tmp_path / "attempt", source, outside, name, f"{mode:o}"]
    done = subprocess.run(
        [*(user if os.geteuid() == 0 else []), *command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "+two" in done.stdout
    assert "+new" in done.stdout
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


def test_a_check_that_makes_repositories_is_undone(tmp_path: Path) -> None:
    source = repository(
        tmp_path / "source", {"a.txt": "1", "dir/f": "1", "dir/deep/f": "1", ".gitignore": "cache/"}
    )
    made = workspace(tmp_path, f"{source}@main")
    git(made.tree, "init", "-q", "own")
    (made.tree / "own" / "work.txt").write_text("work")
    check = (
        "mkdir dir/.git dir/deep/.git; echo x > dir/f; echo x > dir/new; git init -q new; touch new/x; "
        "git init -q cache/clone; rm a.txt; mkdir -p a.txt/.git; echo '*' > .gitignore"
    )
    assert made.check(check, 10, None).has_passed
    assert (made.tree / "dir" / "f").read_text() == "1"
    assert (made.tree / "a.txt").read_text() == "1"
    assert sorted(path.name for path in made.tree.iterdir()) == sorted(
        [".git", ".gitignore", "a.txt", "cache", "dir", "own"]
    )
    assert sorted(path.name for path in (made.tree / "dir").iterdir()) == ["deep", "f"]
    assert (made.tree / "own" / ".git" / "HEAD").exists()
    assert (made.tree / "own" / "work.txt").exists()
    assert (made.tree / "cache" / "clone" / ".git" / "HEAD").exists()
    (made.tree / "dir" / "deep" / "f").write_text("2")
    assert made.changes.read().files == 1


def test_a_diff_of_a_file_with_an_expanded_id_applies(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", {".gitattributes": "*.txt ident\n", "a.txt": "$Id$\none\n"})
    git(source, "rm", "-q", "--cached", "a.txt")
    git(source, "add", "a.txt")
    (source / "a.txt").unlink()
    git(source, "checkout", "a.txt")
    made = workspace(tmp_path, f"{source}@main")
    assert "$Id: " in (made.tree / "a.txt").read_text()
    (made.tree / "a.txt").write_text((made.tree / "a.txt").read_text() + "two\n")
    applied(patch(made), source)
    assert (source / "a.txt").read_text().endswith("one\ntwo\n")


def test_many_repositories_inside_of_a_workspace_do_not_prevent_the_diff(tmp_path: Path) -> None:
    made = workspace(tmp_path, f"{repository(tmp_path / 'source', {'a.txt': 'one'})}@main")
    deep = made.tree.joinpath(*["long" * 50] * 5)
    for number in range(2_500):
        (deep / f"{number}" / ".git").mkdir(parents=True)
    (made.tree / "a.txt").write_text("two\n")
    assert made.changes.read().files == 1


def test_a_linked_worktree_is_copied_without_its_link(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n"})
    git(source, "worktree", "add", "-q", str(tmp_path / "linked"))
    made = workspace(tmp_path, str(tmp_path / "linked"))
    assert sorted(path.name for path in made.tree.iterdir()) == ["a.txt"]


def test_the_identity_is_that_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    one = repository(tmp_path / "one", {"a.txt": "one\n", "run": "x"})
    git(tmp_path, "clone", "-q", str(one), str(tmp_path / "two"))
    two = tmp_path / "two"
    assert resolve(f"{one}@main").identity == resolve(str(two), "HEAD").identity
    assert resolve(f"git+{one}").identity == resolve(f"git+file://{two}@main").identity
    assert resolve(str(one)).identity == resolve(str(two)).identity
    folder = resolve(str(one)).identity
    (one / "run").chmod(0o755)
    executable = resolve(str(one)).identity
    (one / "a.txt").write_text("two\n")
    assert len({folder, executable, resolve(str(one)).identity}) == 3
    git(one, "commit", "-qam", "second")
    assert resolve(f"{one}@main").identity != resolve(f"{two}@main").identity


@pytest.mark.parametrize(
    "part",
    [".git", ".git/refs", ".git/refs/heads", ".git/objects", ".git/config", ".git/commondir", ".git/circle"],
)
def test_a_copy_of_a_folder_has_no_repository_that_is_shared_by_links(tmp_path: Path, part: str) -> None:
    real = repository(tmp_path / "real", {"a.txt": "one\n"})
    source = tmp_path / "source"
    shutil.copytree(real, source)
    if part == ".git/commondir":
        (source / part).write_text(str(real / ".git"))
    elif part == ".git/circle":
        (source / part).symlink_to("circle")
    else:
        shutil.rmtree(source / part) if (source / part).is_dir() else (source / part).unlink()
        (source / part).symlink_to(real / part)
    before = state(real)
    made = workspace(tmp_path, str(source))
    assert (made.tree / "a.txt").read_text() == "one\n"
    assert not os.path.lexists(made.tree / ".git")
    assert state(real) == before
    assert os.path.lexists(source / part)


def test_git_in_a_copy_of_a_folder_works_on_the_copy(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", {"a.txt": "one\n"})
    git(source, "config", "core.worktree", str(source))
    git(source, "config", "extensions.worktreeConfig", "true")
    git(source, "config", "--worktree", "core.worktree", str(source))
    git(source, "config", "user.nickname", "me")
    before = state(source)
    made = workspace(tmp_path, str(source))
    (made.tree / "a.txt").write_text("two\n")
    git(made.tree, "checkout", "-f", "HEAD")
    assert (made.tree / "a.txt").read_text() == "one\n"
    assert git(made.tree, "config", "user.nickname") == "me"
    assert state(source) == before


@pytest.mark.parametrize("branch", ["feature/x", "dep/@types/n", "feat@x", "x@y/z@w"])
@pytest.mark.parametrize("form", ["{}@{}", "git+{}@{}", "git+file://{}@{}", "./source@{1}"])
@pytest.mark.parametrize("folder", ["plain", "with@at", "@scope/a@b"])
def test_a_branch_can_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: str, form: str, folder: str
) -> None:
    source = repository(tmp_path / folder / "source", {"a.txt": "one\n"})
    git(source, "checkout", "-q", "-b", branch)
    git(source, "commit", "-q", "--allow-empty", "-m", "second")
    commit = git(source, "rev-parse", "HEAD")
    git(source, "checkout", "-q", "main")
    monkeypatch.chdir(source.parent)
    found = resolve(form.format(source, branch))
    assert found.identity == f"git:{commit}"
    assert found.address.endswith(f"{folder}/source")


def test_an_at_sign_in_the_name_of_a_folder_is_part_of_its_name(tmp_path: Path) -> None:
    repository(tmp_path / "a", {"a.txt": "one\n"})
    longer = repository(tmp_path / "a@b", {"a.txt": "two\n"})
    assert resolve(str(longer)).kind == "folder"
    assert resolve(f"{longer}@main").address == str(longer)


@pytest.mark.parametrize(
    ("text", "address", "ref"),
    [
        ("ssh://git@host/group/a.git@feature/x", "ssh://git@host/group/a.git", "feature/x"),
        ("https://host/a.git@dep/@types/n", "https://host/a.git", "dep/@types/n"),
        ("https://host/@scope/a@x@y", "https://host/@scope/a", "x@y"),
        ("https://host/a%40b/c@v1", "https://host/a%40b/c", "v1"),
        ("https://host/a", "https://host/a", None),
    ],
)
def test_the_ref_of_a_url_begins_at_the_first_at_sign_of_its_path(
    text: str, address: str, ref: str | None
) -> None:
    assert split_url(text) == (address, ref)


def tar(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def member(name: str, target: str | None = None, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    if target is not None:
        info.type, info.linkname = kind, target
    return info


def zipped(path: Path, names: Sequence[tuple[str, bytes, int]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data, mode in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return path


LINK = stat.S_IFLNK | 0o777


def below_links(to: Path, mode: int) -> list[tuple[str, bytes, int]]:
    """Links that climb to the root of the file system, and one that is made through them in ``to``."""
    folder = "/".join(f"p{number}" for number in range(len(to.parts) + 3))
    up = "/".join([".."] * (len(to.parts) + 3))
    return [
        ("top/f", b"x", 0),
        (f"{folder}/er", f"{up}/top".encode(), mode),
        (f"{folder}/er/l", up.encode(), mode),
        (f"{folder}/er/l{to}/home/.config/evil", b"../evil", mode),
    ]


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "tar with ..": lambda to: tar(to / "a.tar.gz", [(member("../evil"), b"x")]),
    "tar with an absolute path": lambda to: tar(to / "a.tgz", [(member("/tmp/evil"), b"x")]),
    "tar with a link out": lambda to: tar(to / "a.tar.gz", [(member("l", "../.."), b"")]),
    "tar with an absolute link": lambda to: tar(to / "a.tar.gz", [(member("l", "/etc"), b"")]),
    "tar with a hard link out": lambda to: tar(
        to / "a.tar.gz", [(member("l", "../../x", tarfile.LNKTYPE), b"")]
    ),
    "tar with a device": lambda to: tar(to / "a.tar.gz", [(member("fifo", "", tarfile.FIFOTYPE), b"")]),
    "zip with ..": lambda to: zipped(to / "a.zip", [("a/../../evil", b"x", 0o644)]),
    "zip with an absolute path": lambda to: zipped(to / "a.zip", [("/evil", b"x", 0o644)]),
    "zip with a link out": lambda to: zipped(to / "a.zip", [("l", b"../..", LINK)]),
    "zip with a link below links": lambda to: zipped(to / "a.zip", below_links(to, LINK)),
    "tar with a link below links": lambda to: tar(
        to / "a.tar.gz",
        [
            (member(name, data.decode() if mode else None), b"" if mode else data)
            for name, data, mode in below_links(to, LINK)
        ],
    ),
    "tar with links that lead out together": lambda to: tar(
        to / "a.tar.gz", [(member("b/c", ".."), b""), (member("a", "b/c/.."), b"")]
    ),
    "tar with a file below a link": lambda to: tar(
        to / "a.tar.gz", [(member("l", "b"), b""), (member("l/evil"), b"x")]
    ),
    "tar with a link in a circle": lambda to: tar(to / "a.tar.gz", [(member("l", "./l"), b"")]),
    "tar with a file that becomes a link": lambda to: tar(
        to / "a.tar.gz", [(member("l", "b"), b""), (member("l"), b"x")]
    ),
    "zip with a file below a file": lambda to: zipped(to / "a.zip", [("a/b", b"x", 0), ("a", b"x", 0)]),
}
REFUSED = (
    *("outside of it", "leaves it", "neither a file", "which is no folder"),
    *("in a circle", "of two kinds"),
)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_before_it_is_extracted(tmp_path: Path, kind: str) -> None:
    path = HOSTILE[kind](tmp_path)
    with pytest.raises(WorkspaceFaultError) as caught:
        resolve(str(path))
    assert any(words in str(caught.value) for words in REFUSED)
    source = WorkspaceSource(
        kind="archive",
        address=str(path),
        given=str(path),
        identity=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
    )
    made = Workspace(tmp_path / "in" / "attempt")
    with pytest.raises(WorkspaceFaultError):
        made.make(WorkspaceRequest(source=source))
    assert {one.name for one in tmp_path.iterdir()} == {path.name, "in"}


def test_hard_links_and_links_through_links_of_an_archive_are_kept(tmp_path: Path) -> None:
    members = [
        (member("sub/a"), b"text"),
        (member("sub/hard", "sub/a", tarfile.LNKTYPE), b""),
        (member("to", "sub"), b""),
        (member("sub/same", "./to", tarfile.LNKTYPE), b""),
        (member("through", "to/../sub/hard"), b""),
    ]
    made = workspace(tmp_path, str(tar(tmp_path / "a.tar.gz", members)))
    assert (made.tree / "sub" / "hard").samefile(made.tree / "sub" / "a")
    assert (made.tree / "through").read_text() == "text"
    assert (made.tree / "sub" / "same").readlink() == Path("sub")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_archives_of_all_kinds_become_workspaces(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run.sh").write_text("echo\n")
    (source / "sub" / "run.sh").chmod(0o755)
    (source / "link").symlink_to("sub/run.sh")
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        zipped(path, [("sub/run.sh", b"echo\n", 0o100755), ("link", b"sub/run.sh", stat.S_IFLNK | 0o777)])
    else:
        subprocess.run(["tar", "-caf", path, "-C", source, "."], check=True)
    for text in (str(path), path.as_uri()):
        folder = tmp_path / text[:4].strip("/")
        made = workspace(folder, text)
        assert (made.tree / "link").read_text() == "echo\n"
        assert os.access(made.tree / "sub" / "run.sh", os.X_OK)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nowhere", "there is no file or folder 'nowhere'"),
        ("{repo}@nowhere", "has no commit 'nowhere'"),
        ("{repo}@--help", "has no commit '--help'"),
        ("git+file://{repo}@nowhere", "has no branch or tag 'nowhere'"),
        ("git+file://{repo}/none@main", "cannot read file://"),
        ("{plain}@main", "not a git repository"),
        ("{repo}/sub@HEAD", "not a git repository"),
        ("{plain}/a.txt", "is neither a folder nor an archive"),
        ("{plain}/bad.zip", "is no valid archive"),
        ("https://example.com/x", "a URL must be that of an archive"),
        ("git+https://me:secret@example.com/x.git", "the URL holds a password"),
        ("git+https://token@example.com/x.git", "the URL holds a password"),
        ("git+ext::sh -c touch% {plain}/ran@main", "there is no repository"),
        ("{plain}/self", "by its absolute path"),
    ],
)
def test_a_source_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, fault: str) -> None:
    repo = repository(tmp_path / "repo", {"a.txt": "one\n", "sub/b.txt": "one\n"})
    plain = tmp_path / "plain"
    (plain / "self").mkdir(parents=True)
    (plain / "a.txt").write_text("one\n")
    (plain / "bad.zip").write_text("one\n")
    (plain / "self" / "link").symlink_to(plain / "self")
    with pytest.raises(WorkspaceFaultError) as caught:
        resolve(text.format(repo=repo, plain=plain))
    assert fault in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (plain / "ran").exists()


@pytest.mark.parametrize(("name", "value"), [("FILES", "2"), ("BYTES", "10")])
@pytest.mark.parametrize("kind", ["folder", "repository", "remote", "tar", "zip"])
def test_a_source_above_a_limit_is_refused(tmp_path: Path, kind: str, name: str, value: str) -> None:
    source = repository(tmp_path / "source", {f"{number}.txt": "four" for number in range(3)})
    subprocess.run(["tar", "-caf", "../a.tar.gz", "."], cwd=source, check=True)
    zipped(tmp_path / "a.zip", [(f"{number}", b"four", 0o644) for number in range(3)])
    texts = {
        "folder": str(source),
        "repository": f"{source}@main",
        "remote": f"git+file://{source}@main",
        "tar": str(tmp_path / "a.tar.gz"),
        "zip": str(tmp_path / "a.zip"),
    }
    made = Workspace(tmp_path / "attempt")
    with setting(f"MAX_WORKSPACE_{name}", value), pytest.raises(WorkspaceFaultError) as caught:
        made.make(WorkspaceRequest(source=resolve(texts[kind])))
    assert f"it has more than {value}" in str(caught.value)


def test_a_source_that_has_changed_since_it_was_resolved_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = resolve(str(tmp_path / "source"))
    (tmp_path / "source" / "late.txt").touch()
    with pytest.raises(WorkspaceFaultError, match="has changed since the run began"):
        Workspace(tmp_path / "attempt").make(WorkspaceRequest(source=source))


MADE_AGAIN = """
import os, sys
from pathlib import Path
from opencode_tasks.domain.work import WorkspaceRequest
from opencode_tasks.workspace.place import Workspace
from opencode_tasks.workspace.source import resolve
made = Workspace(Path(sys.argv[1], "attempt"))
for _ in range(2):
    made.make(WorkspaceRequest(source=resolve(sys.argv[2])))
    print(sorted(os.listdir(made.tree)))
    (made.tree / "sub" / "new").touch()
    (made.tree / "sub").chmod(0o500)
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_workspace_with_a_folder_without_rights_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "sub" / "a.txt").write_text("one")
    python = (*WITHOUT_RIGHTS, sys.executable, "-c", MADE_AGAIN)
    made = subprocess.run(
        [*python, tmp_path, tmp_path / "source"], check=False, capture_output=True, text=True
    )
    assert (made.stderr, made.stdout) == ("", "['sub']\n" * 2)


def test_a_stored_file_on_another_machine_is_read_if_its_disk_is_here_too(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("text")
    stored = FileStore(str(tmp_path / "files")).put(tmp_path / "a b.txt", "run/row/a b.txt")
    for address in (stored, Path(stored).as_uri().replace("file://", "file://other")):
        with open_stored(address) as file:
            assert file.read() == b"text"
    with pytest.raises(WorkspaceFaultError) as caught, open_stored("file://other/none/a.txt"):
        pass
    assert str(caught.value) == "/none/a.txt is on the machine other; give --artifacts with a URL"


STORED = (
    *("std::vec.txt", "std::map.txt", "zip::f.txt", "memory::x", "a:b", "a%3Ab", "a b%20.txt"),
    *("a#b", "a?b", "a?c", "*.txt", "[a].txt", "a&token=b", "x\ny", "a\\b", "grün.txt", "~", "-"),
    *(os.fsdecode(b"g\xfc.txt"), os.fsdecode(b"g\xfd.txt")),
)


@pytest.mark.parametrize(
    "address",
    ["{}/files", "file://{}/files", "memory://{}/files", pytest.param("s3", marks=pytest.mark.slow)],
)
def test_each_address_of_a_stored_file_leads_to_it(
    tmp_path: Path, address: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("s3") if address == "s3" else address.format(tmp_path)
    store = FileStore(folder)
    addresses = dict[str, str]()
    for name in STORED:
        (tmp_path / "file").write_bytes(os.fsencode(name))
        addresses[name] = store.put(tmp_path / "file", f"d/{name}")
    for name, stored in addresses.items():
        opened: Any = fsspec.open(stored, "rb")
        with opened as file:
            assert file.read() == os.fsencode(name)
        with open_stored(stored) as file:
            assert file.read() == os.fsencode(name)
        assert store.get(f"d/{name}", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == os.fsencode(name)
    assert set(FileStore(f"{folder}/d").names()) == set(STORED)
    for name in STORED:
        store.remove(f"d/{name}")
        assert not store.get(f"d/{name}", tmp_path / "copy")


@pytest.mark.parametrize("chain", ["dir://sub::file://{folder}", "simplecache::file://{folder}/sub"])
def test_a_file_may_be_stored_through_a_chain_of_file_systems(tmp_path: Path, chain: str) -> None:
    (tmp_path / "file").write_text("text")
    stored = FileStore(chain.format(folder=tmp_path)).put(tmp_path / "file", "d/a::b")
    assert (tmp_path / "sub" / "d" / "a%3A%3Ab").read_text() == "text"
    with open_stored(stored) as file:
        assert file.read() == b"text"
