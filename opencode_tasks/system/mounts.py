"""File systems of paths, by Linux's list of mounts: whether SQLite's locks and shared memory work there."""

from __future__ import annotations

from pathlib import Path

# proc_pid_mountinfo(5). Other systems have no such file.
MOUNTINFO = Path("/proc/self/mountinfo")
# Index of the field.
MOUNT_POINT = 4

# Network file systems, and folders of a host in a virtual machine or container.
SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre"),
        *("beegfs", "gpfs", "davfs", "ncpfs", "coda", "ocfs2", "gfs2", "pvfs2", "orangefs", "wekafs"),
        *("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fakeowner", "osxfs", "grpcfuse"),
    }
)
# Every other FUSE file system is taken for a network one: s3fs, gcsfuse, rclone, goofys, sshfs and others.
# Several object stores have no name of a kind ("fuse").
LOCAL_FUSE = frozenset(
    f"fuse.{name}"
    for name in (
        *(
            "fuse-overlayfs",
            "bindfs",
            "ntfs-3g",
            "exfat",
            "unionfs",
            "mergerfs",
            "zfs",
            "lxcfs",
            "squashfuse",
        ),
        *("gocryptfs", "cryfs", "encfs", "securefs", "veracrypt"),
    )
)


def shared_file_system(path: Path) -> str | None:
    """Type of the file system of an absolute path if it is a network file system or a host's folder.

    None for a local one and if the type is unknown, as on macOS. The path need not exist.
    """
    try:
        mounts = MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        return None
    kind = file_system(path, mounts)
    return kind if is_shared(kind) else None


def is_shared(kind: str) -> bool:
    """Whether a type of file system is a network file system, or a folder of a host."""
    return kind in SHARED or kind == "fuse" or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system of a path by the text of mountinfo; "" if unknown."""
    types: dict[Path, str] = {}
    for line in mountinfo.split("\n"):
        # The number of optional fields before the separator varies.
        mount, separator, device = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) <= MOUNT_POINT:
            continue
        mount_point = Path(_unescaped(fields[MOUNT_POINT]))
        # A later mount hides earlier ones at the same point and below it.
        types = {point: kind for point, kind in types.items() if not point.is_relative_to(mount_point)}
        types[mount_point] = device.split(" ")[0]
    found = [point for point in types if path.is_relative_to(point)]
    return types[max(found, key=lambda point: len(point.parts))] if found else ""


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
