"""What each service that starts early saves until the first recorded outcome.

    python benchmarks/early_starts.py [--times N]

Each is switched off alone, and measured in turn with the command as it is, N times (default 3); the fastest
runs are compared. Every run is cold, as in ``first_outcome.py``.

- opencode early: opencode starts while the command loads its modules (threads).
- Ray early: Ray starts while the command loads its modules.
- first task: the first worker of Ray starts its opencode before INPUT is read, and the plan takes the model
  and its prices from there, so that one server is started instead of two.
- fewer services: Ray starts without its autoscaler, log reader and API server.
"""

# ruff: noqa: PLC0415  a command that is measured does not load what measures it

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType

from opencode_tasks.cli import early_start
from opencode_tasks.orchestration import local_ray

HEAD = ("early start", "runner", "with s", "without s", "saved s", "ratio")


def replace(module: ModuleType, name: str, result: object) -> None:
    """Replace a function by one that does nothing but return a result."""

    def returns(*args: object, **options: object) -> object:
        del args, options
        return result

    setattr(module, name, returns)


def without_early_opencode() -> None:
    """Leave opencode to the check of the options."""
    replace(early_start, "_start_opencode", None)


def without_early_ray() -> None:
    """Leave Ray to the run, and opencode to the check of the options."""
    services = early_start.EarlyServices(may_use_prefect=False, ray=None)
    replace(early_start, "start_early", nullcontext(services))


def without_first_task() -> None:
    """Start opencode in the command, while Ray starts, and leave the worker to the first batch."""
    replace(early_start, "_may_have_many", False)


def with_all_services() -> None:
    """Start Ray as ``ray.init`` does."""
    local_ray.UNUSED_SERVICES = ()


def with_all() -> None:
    """Start as the command does."""


SWITCHES: dict[str, tuple[str, Callable[[], None]]] = {
    "nothing": ("", with_all),
    "opencode early": ("threads", without_early_opencode),
    "Ray early": ("ray", without_early_ray),
    "first task": ("ray", without_first_task),
    "fewer services": ("ray", with_all_services),
}


def main() -> None:
    """Measure, or run the command with a service switched off."""
    if sys.argv[1:2] == ["--without"]:
        SWITCHES[sys.argv[2]][1]()
        del sys.argv[1:3]
        from opencode_tasks.cli.app import main as run_command

        run_command()
    measure_all()


def measure_all() -> None:
    """Measure and print."""
    from first_outcome import measure
    from tables import format_table

    from opencode_tasks.opencode.binary import find_binary

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    find_binary(None)
    lines: list[list[str]] = []
    for name, (runner, _) in SWITCHES.items():
        if not runner:
            continue
        both: dict[str, list[float]] = {"nothing": [], name: []}
        for _ in range(times):
            for switched, seconds in both.items():
                command = (sys.executable, __file__, "--without", switched)
                seconds.append(measure(runner, command).seconds)
        # Other programs of the machine only add time.
        found, without = map(min, both.values())
        lines.append(
            [
                name,
                runner,
                f"{found:.1f}",
                f"{without:.1f}",
                f"{without - found:.1f}",
                f"{found / without:.2f}",
            ]
        )
    print(format_table(HEAD, lines, markdown=True))


if __name__ == "__main__":
    main()
