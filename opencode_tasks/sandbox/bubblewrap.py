"""Sandbox by bubblewrap: namespaces of the kernel, without root and without a daemon.

Options are those of bubblewrap 0.4 and later (bwrap(1)).
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import sys
from pathlib import Path

from opencode_tasks.sandbox.syscall_filter import filter_path
from opencode_tasks.sandbox.view import OTHER_TEMP, TEMP, View
from opencode_tasks.system import run_command

PROGRAM = "bwrap"
PROBE_LIMIT_S = 20.0
FILTER_DESCRIPTOR = 9
# The system: programs and libraries. Homes, /opt, /srv, /var, /root and /run are not seen.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/run/current-system")
# Files in /etc that programs read. Other files there can hold passwords and keys.
ETC = (
    *("alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "crypto-policies"),
    *("debian_version", "fonts", "group", "host.conf", "hosts", "java", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "locale.alias", "locale.conf", "localtime", "magic", "mime.types", "nsswitch.conf"),
    *("os-release", "passwd", "pki", "profile", "profile.d", "protocols", "services", "ssl", "timezone"),
    *("perl", "python3", "xattr.conf"),
)
# Only with the network of the machine.
ETC_NETWORK = ("resolv.conf", "gai.conf")
# Private keys of servers of this machine.
EMPTY = ("/etc/ssl/private", "/etc/pki/tls/private")
SHARED_MEMORY = "/dev/shm"  # noqa: S108
SHARED_MEMORY_BYTES = 64_000_000


class Bubblewrap:
    """The sandbox ``bwrap``."""

    name = "bwrap"

    def problem(self) -> str | None:
        """Why bubblewrap cannot be used here; None if it can. It is tried once in each process."""
        return _problem()

    def command(self, args: list[str], view: View) -> list[str]:
        """See ``Sandbox.command``."""
        options = [PROGRAM, "--unshare-all", *(["--share-net"] if view.has_network else [])]
        options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", *_no_more_namespaces()]
        options += _system(has_network=view.has_network)
        for folder in (TEMP, OTHER_TEMP):
            options += ["--bind", str(view.temp), folder]
        for prefix in _python():
            options += ["--ro-bind", str(prefix), str(prefix)]
            if (settings := prefix / "pip.conf").is_file():
                # It can hold the password of an index of packages.
                options += ["--ro-bind", os.devnull, str(settings)]
        for path in view.readable:
            options += ["--ro-bind", str(path), str(path)]
        for path in view.writable:
            options += ["--bind", str(path), str(path)]
        for inside, outside in view.mounts.items():
            options += ["--ro-bind", str(outside), str(inside)]
        # What holds the places of these files is in memory.
        options += ["--remount-ro", "/dev", "--remount-ro", "/"]
        program = [*options, "--chdir", str(view.cwd), "--", *args]
        filter_file = filter_path()
        if filter_file is None:
            return program
        # bwrap reads the filter from a descriptor, which the shell opens.
        program[1:1] = ["--seccomp", str(FILTER_DESCRIPTOR)]
        return ["sh", "-c", f'exec "$@" {FILTER_DESCRIPTOR}< "$0"', str(filter_file), *program]


def _system(*, has_network: bool) -> list[str]:
    options: list[str] = []
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            options += ["--ro-bind", str(path), str(path)]
    for name in (*ETC, *(ETC_NETWORK if has_network else ())):
        path = Path("/etc", name)
        if path.exists():
            # A link can lead to a file that is not seen, such as the one of a resolver in /run.
            options += ["--ro-bind", str(path.resolve()), str(path)]
    for name in EMPTY:
        if Path(name).is_dir():
            options += ["--tmpfs", name, "--remount-ro", name]
    options += ["--proc", "/proc", "--dev", "/dev"]
    options += ["--size", str(SHARED_MEMORY_BYTES), "--tmpfs", SHARED_MEMORY]
    return options


def _python() -> list[Path]:
    """The folders of this Python environment, whose programs a check can need, outside of the system."""
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    return sorted(prefix for prefix in prefixes if not prefix.is_relative_to("/usr") and prefix != Path("/"))


@functools.cache
def _no_more_namespaces() -> list[str]:
    """The options by which programs inside make no namespaces, in which they could mount memory.

    Empty where they do not work: before bubblewrap 0.8, and if bwrap is a setuid program.
    """
    options = ["--unshare-user", "--disable-userns"]
    tried = run_command([PROGRAM, *options, "--ro-bind", "/", "/", "true"], timeout_s=PROBE_LIMIT_S)
    return options if tried.returncode == 0 else []


@functools.cache
def _problem() -> str | None:
    # On a cluster, one machine of several.
    machine = socket.gethostname()
    if shutil.which(PROGRAM) is None:
        return f"bubblewrap is not installed on {machine} (on Debian and Ubuntu: apt install bubblewrap)"
    view = View(temp=Path(TEMP), cwd=Path("/"))
    tried = run_command(Bubblewrap().command(["true"], view), timeout_s=PROBE_LIMIT_S)
    if tried.returncode == 0:
        return None
    reason = "it did not end" if tried.timed_out else tried.stderr.strip().partition("\n")[0]
    return (
        f"bubblewrap cannot make a sandbox on {machine} ({reason or 'it failed'}); a container needs "
        "permission for user namespaces, and Ubuntu 24.04 an AppArmor profile for bwrap"
    )
