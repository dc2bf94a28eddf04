"""Nodes of a Ray, started as the how-to describes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import kill_family

from opencode_tasks.orchestration.local_ray import ray_folder

RAY = str(Path(sys.executable).with_name("ray"))
START_LIMIT_S = 60
NODES = """
import json, os, sys
os.environ["RAY_AUTH_MODE"] = "token"
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([node for node in ray.nodes() if node["Alive"]], default=str))
"""
CREDENTIALS = json.dumps({"opencode_creds": 1})


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running Ray: its address, and the processes of its nodes with credentials."""

    address: str
    nodes: list[subprocess.Popen[bytes]]

    def node_ids(self) -> dict[str, bool]:
        """Ids of the living nodes, and whether each has credentials."""
        command = [sys.executable, "-c", NODES, self.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        # Ray logs to stdout too.
        [nodes] = [line for line in done.stdout.splitlines() if line.startswith("[{")]
        return {node["NodeID"]: "opencode_creds" in node["Resources"] for node in json.loads(nodes)}


@contextmanager
def started(*arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """A node, until it is killed."""
    process = subprocess.Popen(
        [RAY, "start", "--block", "--disable-usage-stats", *arguments],
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_family(process)


@contextmanager
def head(*more: str) -> Generator[str]:
    """A head node with one CPU and without credentials; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with (
        ray_folder() as folder,
        started(
            *("--head", "--port", str(port), "--num-cpus", "1", *more),
            *("--include-dashboard", "false", "--temp-dir", str(folder)),
        ),
    ):
        wait_for_port(port)
        yield address


def wait_for_nodes(cluster: Cluster, count: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while len(cluster.node_ids()) != count:
        assert time.monotonic() < deadline


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the head of the cluster did not start")
