"""The Ray of a run starts only the processes that a run needs; a later one of the same process starts all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

LIMIT_S = 200.0
START = """
import json

import psutil

from opencode_tasks.orchestration.local_ray import ray_folder, ray_options, running_ray

UNUSED = ("monitor.py", "dashboard.py")


def unused():
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("raylet" in line for line in lines), lines
    return sorted({name for name in UNUSED for line in lines if name in line})


import ray

with running_ray(None):
    value = ray.get(ray.remote(lambda: 42).remote())
    ours = unused()
with ray_folder() as folder:
    ray.init(address="local", num_cpus=1, **ray_options(folder))
    theirs = unused()
    ray.shutdown()
print("found", json.dumps({"value": value, "ours": ours, "theirs": theirs}))
"""


@pytest.mark.nightly
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_ray_of_a_run_has_no_processes_that_nobody_asks() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", START],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.split("found ", 1)[1])
    assert found == {"value": 42, "ours": [], "theirs": ["dashboard.py", "monitor.py"]}
