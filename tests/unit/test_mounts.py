"""File systems of paths, by lists of mounts of real systems."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from opencode_tasks.opencode.instance_dir import instance_dirs_root
from opencode_tasks.system import folders, mounts
from opencode_tasks.system.mounts import file_system, is_shared, shared_file_system

MOUNTINFO = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
24 21 0:22 / /proc rw,nosuid shared:5 - proc proc rw
30 21 0:40 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/near rw - tmpfs tmpfs rw
32 21 0:42 / /mnt/my\\040share rw - cifs //box/share rw,vers=3.1.1
33 21 0:43 / /mnt/c rw,noatime - 9p drvfs rw,aname=drvfs;path=C:\\134
34 21 0:44 / /work rw,relatime - virtiofs work rw
35 21 0:45 / /media/sf_shared rw - vboxsf shared rw
36 21 0:46 / /mnt/far rw,nosuid,nodev - fuse.sshfs me@host: rw,user_id=0
37 21 0:47 / /mnt/s3 rw - fuse.s3fs s3fs rw
38 21 0:48 / /mnt/gcs rw - fuse.gcsfuse bucket rw
39 21 0:49 / /mnt/rclone rw - fuse.rclone remote:x rw
40 21 0:50 / /mnt/goofys rw - fuse bucket rw
41 21 0:51 / /var/lib/box rw - overlay overlay rw,lowerdir=/l,upperdir=/u
42 21 254:0 /srv/data /home/me/bound rw shared:1 - ext4 /dev/vda1 rw
43 21 8:17 / /media/disk rw - fuseblk /dev/sdb1 rw
44 21 0:52 / /mnt/hidden/below rw - nfs4 server:/x rw
45 21 8:18 / /mnt/hidden rw - xfs /dev/sdc1 rw
46 21 8:19 / /mnt/twice rw - xfs /dev/sdd1 rw
47 46 0:53 / /mnt/twice rw - smb3 //box/twice rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/var/ledger.db", "ext4", False),
        ("/homes/ledger.db", "ext4", False),
        ("/home/x/new/ledger.db", "nfs4", True),
        ("/home/me/near/ledger.db", "tmpfs", False),
        ("/home/me/bound/ledger.db", "ext4", False),
        ("/mnt/my share/ledger.db", "cifs", True),
        ("/mnt/c/Users/ledger.db", "9p", True),
        ("/work/ledger.db", "virtiofs", True),
        ("/media/sf_shared/ledger.db", "vboxsf", True),
        ("/mnt/far/ledger.db", "fuse.sshfs", True),
        ("/mnt/s3/ledger.db", "fuse.s3fs", True),
        ("/mnt/gcs/ledger.db", "fuse.gcsfuse", True),
        ("/mnt/rclone/ledger.db", "fuse.rclone", True),
        ("/mnt/goofys/ledger.db", "fuse", True),
        ("/var/lib/box/ledger.db", "overlay", False),
        ("/media/disk/ledger.db", "fuseblk", False),
        ("/mnt/hidden/below/ledger.db", "xfs", False),
        ("/mnt/twice/ledger.db", "smb3", True),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str, shared: bool) -> None:
    assert file_system(Path(path), MOUNTINFO) == kind
    assert is_shared(kind) is shared


def test_lines_without_a_file_system_are_skipped() -> None:
    assert file_system(Path("/x"), "") == ""
    assert file_system(Path("/x"), "garbage\n1 2 3\n") == ""


def test_a_system_without_a_list_of_mounts_has_no_known_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "none")
    assert shared_file_system(tmp_path) is None


def test_opencode_runs_on_a_local_disk_if_the_home_is_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    assert instance_dirs_root() == home / "opencode-tasks" / "opencode"
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"{MOUNTINFO}90 21 0:60 / {home} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", mountinfo)
    monkeypatch.setattr(folders, "LASTING_TEMP", tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    local = instance_dirs_root()
    assert local.is_relative_to(tmp_path)
    assert local.parent.stat().st_mode & 0o077 == 0
    # Another user may have made it: the next directory for temporary files is used.
    local.parent.chmod(0o777)
    assert instance_dirs_root().is_relative_to(tmp_path / "tmp")
