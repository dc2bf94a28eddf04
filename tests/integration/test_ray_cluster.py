"""A Ray of three nodes, started as the how-to describes: one has no credentials, one is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator

import pytest
from cluster import Desk, Ran
from processes import kill_family
from ray_nodes import CREDENTIALS, Cluster, head, started, wait_for_nodes

from opencode_tasks.ledger import Ledger
from opencode_tasks.testing import Reply


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
