"""Cost of the model catalogue in a start of opencode.

    python benchmarks/catalogue.py [--times 5]

Starts `opencode run` with one prompt, in turn with the whole catalogue and with the part that it needs. The
scripted provider answers at once. Prints the medians of the seconds until its request and of the CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Sequence

from opencode_tasks.opencode.backend import OpencodeSpec, Request
from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.opencode.cli_backend import run_arguments
from opencode_tasks.opencode.instance_dir import environment, make_instance_dir
from opencode_tasks.opencode.model_catalogue import PATH_VARIABLE, catalogue_path, stored_catalogue
from opencode_tasks.testing import ScriptedProvider

LIMIT_S = 120
WAYS = ("whole", "needed")


def measured(spec: OpencodeSpec, provider: ScriptedProvider, way: str) -> tuple[float, float]:
    """Seconds from the start to the request, and CPU seconds of the process."""
    instance_dir = make_instance_dir()
    try:
        env = environment(instance_dir, spec, password=None, journal_events=False)
        if way == "whole":
            env[PATH_VARIABLE] = str(catalogue_path() or stored_catalogue(spec.binary))
        arguments = run_arguments(Request(prompt="row", model_ref=spec.model_ref), spec, instance_dir)
        before = sum(os.times()[2:4])
        started = time.time()
        with instance_dir.output.open("w") as output:
            subprocess.run(
                arguments,
                env=env,
                cwd=instance_dir.work,
                input=b"row",
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=LIMIT_S,
                check=True,
            )
        return provider.calls[-1].at - started, sum(os.times()[2:4]) - before
    finally:
        instance_dir.remove()


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    with ScriptedProvider() as provider:
        spec = OpencodeSpec(
            binary=find_binary(None), config=provider.opencode_config(), model_ref="fake/echo"
        )
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(times):
            for way in WAYS:
                found[way].append(measured(spec, provider, way))
    print(line(("catalogue", "first request s", "CPU s")))
    print(line(("---", "---:", "---:")))
    for way in WAYS:
        seconds, cpu = (statistics.median(values) for values in zip(*found[way], strict=True))
        print(line((way, f"{seconds:.2f}", f"{cpu:.2f}")))


if __name__ == "__main__":
    main()
