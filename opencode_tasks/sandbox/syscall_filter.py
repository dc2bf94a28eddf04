"""System calls that a sandbox refuses: those by which programs inside reach what no namespace separates.

The filter is a program of classic BPF, as seccomp(2) describes it.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import platform
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

# Numbers of add_key, request_key and keyctl, by the architecture of a call (AUDIT_ARCH_* of linux/audit.h):
# the keys of the session and the user outside. A machine runs 32-bit programs too, with other numbers.
KEYRINGS: Mapping[str, Mapping[int, Sequence[int]]] = {
    "x86_64": {0xC000003E: (248, 249, 250), 0x40000003: (286, 287, 288)},
    "aarch64": {0xC00000B7: (217, 218, 219), 0x40000028: (309, 310, 311)},
}
# io_uring_setup, io_uring_enter and io_uring_register, of all architectures. Many faults of kernels are
# there, and programs do without them.
IO_URING = (425, 426, 427)
# The flag of the calls of x32 programs.
NUMBER_MASK = 0x3FFFFFFF
_LOAD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def filter_program(machine: str) -> bytes | None:
    """The filter for a kind of machine, as ``platform.machine`` names it; None for an unknown one."""
    by_architecture = KEYRINGS.get(machine)
    if by_architecture is None:
        return None
    program = [_step(_LOAD, _ARCHITECTURE_OFFSET)]
    for architecture, keyrings in by_architecture.items():
        block = [_step(_LOAD, _NUMBER_OFFSET), _step(_AND, NUMBER_MASK)]
        for number in (*keyrings, *IO_URING):
            block += [_step(_IF_EQUAL, number, skipped=1), _step(_RETURN, _REFUSE)]
        block.append(_step(_RETURN, _ALLOW))
        program += [_step(_IF_EQUAL, architecture, skipped=len(block)), *block]
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def filter_path() -> Path | None:
    """A file with the filter of this machine, which exists as long as this process; None without a filter."""
    return _filter_path(os.getpid())


@functools.cache
def _filter_path(process: int) -> Path | None:
    program = filter_program(platform.machine())
    if program is None:
        return None
    # In memory, so that nothing is left and nobody can change it.
    file = os.memfd_create("opencode-tasks-filter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(file, program)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return Path(f"/proc/{process}/fd/{file}")


def _step(code: int, value: int, *, skipped: int = 0) -> bytes:
    """One instruction; ``skipped`` is the number of those that follow and do not apply if values differ."""
    return struct.pack("HBBI", code, 0, skipped, value)
