"""Drivers: the processes that work on a run. A stop ends one driver; the others continue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, select

from opencode_tasks.ledger.clock import lease_time
from opencode_tasks.ledger.database import insert_into
from opencode_tasks.ledger.operation_groups import Group, read, write
from opencode_tasks.ledger.runs import end_run
from opencode_tasks.ledger.schema import drivers, runs

HEARTBEAT_S = 15.0
# A driver that was silent for this long is lost: its process ended, or its machine did.
LOST_AFTER_S = 60.0


def start_driver(
    connection: Connection, driver_id: str, *, run_id: str, owner: str, host: str, now: datetime
) -> None:
    """Write a driver of a run; an existing one with this id is not changed."""
    values = {
        "driver_id": driver_id,
        "run_id": run_id,
        "owner": owner,
        "host": host,
        "started_at": now,
        "heartbeat_at": lease_time(connection),
    }
    connection.execute(insert_into(connection, drivers).values(**values).on_conflict_do_nothing())


def heartbeat_driver(connection: Connection, driver_id: str) -> None:
    """Write that a driver is at work."""
    is_driver = drivers.c.driver_id == driver_id
    connection.execute(drivers.update().where(is_driver).values(heartbeat_at=lease_time(connection)))


def stop_driver(connection: Connection, driver_id: str, *, now: datetime) -> None:
    """Ask the batches of a driver to end their rows; a repeated call keeps the first time."""
    connection.execute(
        drivers.update()
        .where(drivers.c.driver_id == driver_id, drivers.c.stopped_at.is_(None))
        .values(stopped_at=now)
    )


def is_stopped(connection: Connection, driver_id: str) -> bool:
    """Whether a driver was stopped or has ended, so that its batches must end."""
    # One lookup by the primary key: workers ask every second.
    query = select(drivers.c.stopped_at, drivers.c.ended_at).where(drivers.c.driver_id == driver_id)
    found = connection.execute(query).one_or_none()
    return found is None or found.stopped_at is not None or found.ended_at is not None


def end_driver(connection: Connection, driver_id: str, *, interrupts: bool, now: datetime) -> None:
    """Write the end of a driver. With ``interrupts``, its run is interrupted if it has no other driver."""
    found = connection.execute(select(drivers.c.run_id).where(drivers.c.driver_id == driver_id))
    run_id = found.scalar_one_or_none()
    if run_id is None:
        return
    # Of two drivers that end at once, the second one sees the end of the first.
    locked = select(runs.c.status).where(runs.c.run_id == run_id).with_for_update()
    status = connection.execute(locked).scalar_one_or_none()
    connection.execute(
        drivers.update()
        .where(drivers.c.driver_id == driver_id, drivers.c.ended_at.is_(None))
        .values(ended_at=now)
    )
    others = select(drivers.c.driver_id).where(drivers.c.run_id == run_id, _is_at_work(connection)).limit(1)
    if interrupts and status == "running" and connection.execute(others).first() is None:
        end_run(connection, run_id, status="interrupted", now=now)


def drivers_of(connection: Connection, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The drivers of some runs in the order of their starts.

    Keys: every column of ``drivers``, and ``status``: ``working``, ``ended`` or ``lost``.
    """
    query = select(drivers, _is_at_work(connection).label("is_at_work")).where(drivers.c.run_id.in_(run_ids))
    found = connection.execute(query.order_by(drivers.c.started_at, drivers.c.driver_id)).mappings()
    return [_listed(dict(driver)) for driver in found]


def _is_at_work(connection: Connection) -> ColumnElement[bool]:
    since = lease_time(connection) - timedelta(seconds=LOST_AFTER_S)
    return drivers.c.ended_at.is_(None) & (drivers.c.heartbeat_at > since)


def _listed(driver: dict[str, Any]) -> dict[str, Any]:
    is_at_work = driver.pop("is_at_work")
    status = "working" if is_at_work else "lost" if driver["ended_at"] is None else "ended"
    return driver | {"status": status}


class Drivers(Group):
    """``ledger.drivers``: the processes that work on a run."""

    start: Final = write(start_driver)
    heartbeat: Final = write(heartbeat_driver)
    stop: Final = write(stop_driver)
    is_stopped: Final = read(is_stopped)
    end: Final = write(end_driver)
    of: Final = read(drivers_of)
