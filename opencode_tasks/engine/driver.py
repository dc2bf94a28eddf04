"""Driver: this process at work on a run, as the ledger and the other drivers of the run see it."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import Ledger
from opencode_tasks.ledger.drivers import HEARTBEAT_S
from opencode_tasks.system.process_identity import is_dead, lease_owner, pid_of


@contextmanager
def driving(ledger: Ledger, run_id: str) -> Generator[str]:
    """Be a driver of a run; yields the driver's id.

    The batches of the driver end when it is stopped or has ended. An exception (but not
    RunPausedError) interrupts the run if no other driver works on it.
    """
    driver_id = uuid.uuid4().hex[:8]
    ledger.drivers.start(
        driver_id, run_id=run_id, owner=lease_owner(driver_id), host=socket.gethostname(), now=_now()
    )
    has_ended = threading.Event()
    beats = threading.Thread(
        target=_beat, args=(ledger, driver_id, has_ended), name=f"opencode-driver-{driver_id}", daemon=True
    )
    beats.start()
    try:
        yield driver_id
    except RunPausedError:
        _end(ledger, run_id, driver_id, interrupts=False)
        raise
    except BaseException as error:
        _end(ledger, run_id, driver_id, interrupts=True)
        if (lost := ledger.keep_lost_file()) is not None:
            raise lost from error
        raise
    else:
        _end(ledger, run_id, driver_id, interrupts=False)
        ledger.keep_lost_file()
    finally:
        has_ended.set()


def listed_drivers(ledger: Ledger, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The drivers of some runs, as ``ledger.drivers.of``; those that died on this machine are ``lost``."""
    found = ledger.drivers.of(run_ids)
    for driver in found:
        if driver["status"] == "working" and is_dead(driver["owner"]):
            driver["status"] = "lost"
    return found


def other_drivers(ledger: Ledger, run_id: str, driver_id: str) -> list[dict[str, Any]]:
    """The drivers that work on a run beside this one."""
    found = listed_drivers(ledger, [run_id])
    return [one for one in found if one["status"] == "working" and one["driver_id"] != driver_id]


def driver_text(driver: dict[str, Any]) -> str:
    """A driver for people: its process, its machine and its start."""
    pid, since = pid_of(driver["owner"]), driver["started_at"]
    return f"process {pid} on {driver['host']}, since {since:%Y-%m-%d %H:%M:%S} UTC"


def _beat(ledger: Ledger, driver_id: str, has_ended: threading.Event) -> None:
    while not has_ended.wait(HEARTBEAT_S):
        # A ledger that is away for a while does not end the run.
        with suppress(Exception):
            ledger.drivers.heartbeat(driver_id)


def _end(ledger: Ledger, run_id: str, driver_id: str, *, interrupts: bool) -> None:
    for lost in ledger.drivers.of([run_id]):
        if lost["status"] == "working" and is_dead(lost["owner"]):
            ledger.drivers.end(lost["driver_id"], interrupts=False, now=_now())
    ledger.drivers.end(driver_id, interrupts=interrupts, now=_now())


def _now() -> datetime:
    return datetime.now(UTC)
