"""Clocks of this machine: the wall clock, which people and NTP may set, and the time since the boot."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_SESSION = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")


def wall_time() -> datetime:
    """Now by the wall clock (aware UTC). It can jump in both directions."""
    return datetime.now(UTC)


def seconds_since_boot() -> float:
    """Seconds since the boot, those in suspension included. All processes of the machine agree on it."""
    # On macOS the monotonic clock runs during suspension too.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@cache
def boot_id() -> str:
    """Name of this boot of the machine."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        # macOS. Unlike the time of the boot, it does not move when somebody sets the clock.
        asked = subprocess.run(BOOT_SESSION, capture_output=True, text=True, timeout=10, check=True)
        return asked.stdout.strip().lower()
