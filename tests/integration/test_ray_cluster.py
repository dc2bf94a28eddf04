"""A Ray of three nodes, started as the how-to describes: one has no credentials, one is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Desk, Ran
from processes import kill_family

from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.local_ray import ray_folder
from opencode_tasks.testing import Reply

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


@pytest.fixture
def cluster() -> Generator[Cluster]:
    """A head node without credentials and two nodes with them, with one CPU each."""
    with head() as address:
        more = ("--address", address, "--num-cpus", "1", "--resources", CREDENTIALS)
        # One after the other: two that start at once on one machine use the same ports.
        with started(*more) as first:
            wait_for_nodes(Cluster(address, [first]), 2)
            with started(*more) as second:
                made = Cluster(address, [first, second])
                wait_for_nodes(made, 3)
                yield made


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


def annotated(desk: Desk, cluster: Cluster, rows: int, *, kill_after: int | None = None) -> Ran:
    desk.write_csv("in.csv", [{"prompt": f"row {i:03}"} for i in range(rows)])
    fixed = desk.arguments("in.csv", "-o", "out.csv", "--json")
    more = ("--runner", "ray", "--ray-address", cluster.address, "--concurrency", "4", "--batch-size", "4")
    with desk.start(*fixed, *more) as process:
        if kill_after is not None:
            deadline = time.monotonic() + 200
            while len(desk.provider.calls) < kill_after:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            kill_family(cluster.nodes[1])
        out, err = process.communicate(timeout=300)
    return Ran(code=process.returncode, stdout=out, stderr=err)


@pytest.mark.nightly
@pytest.mark.alone
@pytest.mark.timeout(500)
def test_rows_run_only_on_nodes_with_credentials_and_survive_a_lost_node(
    desk: Desk, cluster: Cluster
) -> None:
    has_credentials = cluster.node_ids()
    assert sorted(has_credentials.values()) == [False, True, True]
    desk.provider.on("row", Reply(delay_s=0.7))
    whole = annotated(desk, cluster, 24)
    assert whole.code == 0, whole.stderr
    with Ledger.open(str(desk.folder / "ledger.db")) as ledger:
        used = Counter(attempt["node_id"] for attempt in ledger.results.attempts(whole.summary["run_id"]))
    assert len(used) == 2
    assert all(has_credentials[node_id] for node_id in used)

    (desk.folder / "ledger.db").unlink()
    calls = len(desk.provider.calls)
    lost = annotated(desk, cluster, 24, kill_after=calls + 8)
    assert lost.code == 0, lost.stderr
    wait_for_nodes(cluster, 2)
    assert Counter(row["status"] for row in desk.read_csv("out.csv")) == {"completed": 24}
    again = Counter(call.prompt for call in desk.provider.calls[calls:])
    twice = sum(times == 2 for times in again.values())
    assert set(again.values()) <= {1, 2}
    # At most the rows in flight on the lost node.
    assert twice <= 2


@pytest.mark.nightly
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_cluster_that_cannot_run_a_batch_is_refused_before_any_row_is_sent(desk: Desk) -> None:
    """A cluster without credentials; and one with two machines and a ledger that is a file of the first."""
    with head("--node-ip-address", "127.0.0.1") as address:
        without = annotated(desk, Cluster(address, []), 1)
        arguments = ("--address", address, "--node-ip-address", "127.0.0.2", "--num-cpus", "1")
        with started(*arguments, "--resources", CREDENTIALS) as other:
            both = Cluster(address, [other])
            wait_for_nodes(both, 2)
            with_file = annotated(desk, both, 1)
    assert without.code == with_file.code == 70
    assert "has the resource 'opencode_creds'" in without.stderr
    assert "a SQLite ledger is a file of one" in with_file.stderr
    assert "--ledger postgresql://" in with_file.stderr
    assert desk.provider.calls == []
