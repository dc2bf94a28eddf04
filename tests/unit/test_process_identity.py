"""Owner names of leases: whether the process of an owner has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from opencode_tasks.system.process_identity import at_work, is_dead, lease_owner, machine_id, owner_state

PRINT_OWNER = """
from opencode_tasks.system.process_identity import lease_owner
print(lease_owner("batch"), flush=True)
input()
"""


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process, and the name of its leases."""
    with subprocess.Popen(
        [sys.executable, "-c", PRINT_OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_process_is_dead_after_its_end_even_before_it_is_reaped(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    process, owner = other
    assert not is_dead(owner)
    psutil.Process(process.pid).kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(owner)
    process.wait()
    assert is_dead(owner)


def test_another_process_with_the_same_id_is_not_the_owner(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    machine, pid, start, batch = other[1].split("/")
    assert is_dead(f"{machine}/{pid}/{int(start) - 1}/{batch}")


def test_a_change_of_the_systems_time_does_not_change_the_owner(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    # psutil adds the boot time, which moves with the system's time; the ticks since the boot do not.
    process, owner = other
    start_s = int(owner.split("/")[2]) / os.sysconf("SC_CLK_TCK")
    assert abs(psutil.boot_time() + start_s - psutil.Process(process.pid).create_time()) < 1.5


def test_a_living_owner_of_an_earlier_version_is_not_dead(other: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = other
    created = psutil.Process(process.pid).create_time() - 75
    assert not is_dead(f"{machine_id()}/{process.pid}/{created:.2f}/batch")


def test_nothing_is_known_of_another_machine() -> None:
    _, pid, start, batch = lease_owner("batch").split("/")
    assert not is_dead(f"elsewhere.1/{pid}/{start}/{batch}")


def test_a_stopped_process_is_recognized_until_it_continues(other: tuple[subprocess.Popen[str], str]) -> None:
    process, owner = other
    assert owner_state(owner) == "running"
    for number, state in ((signal.SIGSTOP, "stopped"), (signal.SIGCONT, "running"), (signal.SIGKILL, "dead")):
        process.send_signal(number)
        deadline = time.monotonic() + 10
        while owner_state(owner) != state:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_batch_of_this_process_is_at_work_until_it_ends() -> None:
    owner = lease_owner("batch")
    with at_work(owner):
        assert owner_state(owner) == "at_work"
    assert owner_state(owner) == "over"
