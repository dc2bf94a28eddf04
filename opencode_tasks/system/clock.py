"""Clocks of this machine: the wall clock, which people and NTP may set, and the time since the boot."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


def wall_time() -> datetime:
    """Now by the wall clock (aware UTC). It can jump in both directions."""
    return datetime.now(UTC)


def seconds_since_boot() -> float:
    """Seconds since the boot, those in suspension included. All processes of the machine agree on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """Name of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
