"""What Ray reports to the process that has joined it does not reach stdout, which is data."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]

REPORT_AN_ERROR = """
import sys, time
from opencode_tasks.orchestration.local_ray import running_ray

with running_ray(None):
    import ray
    from ray._private import worker
    from ray._private.utils import publish_error_to_driver

    published = worker.global_worker.gcs_client
    # The thread that prints subscribes after Ray has started.
    for _ in range(20):
        publish_error_to_driver("raylet_died", "Raylet is terminated.", gcs_client=published)
        time.sleep(0.1)
print("done")
"""


def test_an_error_of_the_cluster_is_not_printed() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", REPORT_AN_ERROR], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
