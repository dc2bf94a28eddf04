"""Clock of the leases, which all workers share: the rows of a worker are its own until its lease expires.

It is read inside the transaction, after the wait for the lock on the database. On PostgreSQL it is the
server's clock, so that workers on machines with different clocks agree. On SQLite all workers are on
one machine, and it is the time since the boot plus a number that the first worker after a boot stores:
a change of the system's time does not move it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.schema import ledger_info
from opencode_tasks.system import clock

LEASE_CLOCK = "lease_clock"
BOOT = datetime(1970, 1, 1, tzinfo=UTC)


class Times(NamedTuple):
    """Now by the wall clock, and by the clock of the leases (aware UTC)."""

    now: datetime
    lease_now: datetime


def times(connection: Connection, given: datetime | None) -> Times:
    """Now by both clocks; a given time stands for both."""
    if given is not None:
        return Times(now=given, lease_now=given)
    return Times(now=clock.wall_time(), lease_now=lease_time(connection))


def lease_time(connection: Connection) -> datetime:
    """Now for the expiry of leases, probes, shares of concurrency and drivers (aware UTC)."""
    if connection.dialect.name == "postgresql":
        return connection.execute(select(func.clock_timestamp())).scalar_one().astimezone(UTC)
    return BOOT + timedelta(seconds=_boot_offset_s(connection) + clock.seconds_since_boot())


def _boot_offset_s(connection: Connection) -> float:
    """Seconds to add to the time since the boot; the same for all workers until the next boot."""
    query = select(ledger_info.c.value).where(ledger_info.c.name == LEASE_CLOCK)
    boot, _, offset_s = (connection.execute(query).scalar_one_or_none() or "").partition(" ")
    if boot == clock.boot_id():
        return float(offset_s)
    new_s = (clock.wall_time() - BOOT).total_seconds() - clock.seconds_since_boot()
    if connection.get_execution_options().get("ledger_write", False):
        value = f"{clock.boot_id()} {new_s}"
        insert = insert_into(connection, ledger_info).values(name=LEASE_CLOCK, value=value)
        connection.execute(
            insert.on_conflict_do_update(index_elements=["name"], set_={"value": insert.excluded.value})
        )
    return new_s
