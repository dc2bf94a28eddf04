"""A second machine for Ray on this one: its own name, processes and files, and the same network.

Namespaces of the kernel: its folders for temporary files, and with them its home, are empty and its own. All
else, such as programs and the checkout, can be read only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from processes import kill_family

NAME = "other-machine"
ADDRESS = "127.0.0.2"
RAY = str(Path(sys.executable).with_name("ray"))
HOME = "/tmp/home"
DOWNLOADS = Path(os.environ["XDG_CACHE_HOME"], "opencode-tasks").resolve()
NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
# The folders of $SHARED are those of both machines. The programs of $HIDDEN are on the first one alone.
SCRIPT = f"""
set -e
hostname {NAME}
opened=()
for folder in $SHARED; do exec {{fd}}<"$folder"; opened+=("$fd $folder"); done
for folder in /tmp /var/tmp /dev/shm "$PYTEST_DEBUG_TEMPROOT"; do mount -t tmpfs tmpfs "$folder"; done
for one in "${{opened[@]}}"; do
    mkdir -p "${{one#* }}"
    mount --no-canonicalize --bind "/proc/self/fd/${{one%% *}}" "${{one#* }}"
done
mkdir -p {HOME}/cache
ln -s "{DOWNLOADS}" {HOME}/cache/opencode-tasks
for program in $HIDDEN; do mount --bind /dev/null "$(command -v "$program")"; done
mount -o remount,bind,ro /
exec "$@"
"""


def _unshared(command: Sequence[str]) -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *as_root, *NAMESPACES, "bash", "-c", *command]


@cache
def is_possible() -> bool:
    """Whether this machine lets us make one."""
    if shutil.which("unshare") is None:
        return False
    tried = _unshared(["mount -t tmpfs tmpfs /tmp && mount -o remount,bind,ro /"])
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@contextmanager
def other_node(
    address: str, *more: str, shared: Sequence[Path], hidden: str
) -> Generator[subprocess.Popen[bytes]]:
    """A node there of the Ray at an address, until it is killed.

    ``shared`` are folders of both machines, ``hidden`` are names of programs that it does not have.
    """
    own = {
        "HIDDEN": hidden,
        "SHARED": " ".join(map(str, shared)),
        "HOME": HOME,
        "TMPDIR": "/tmp",
        "RAY_AUTH_MODE": "token",
    }
    # Its data folder has the path of the one here, as on machines with the same users.
    own |= {f"XDG_{name}_HOME": f"{HOME}/{name.lower()}" for name in ("CACHE", "CONFIG", "STATE")}
    ray = [RAY, "start", "--block", "--disable-usage-stats", "--address", address]
    process = subprocess.Popen(
        _unshared([SCRIPT, "bash", *ray, "--node-ip-address", ADDRESS, *more]),
        env=os.environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_family(process)
