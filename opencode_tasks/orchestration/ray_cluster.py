"""Resources of a Ray cluster for batches: CPUs, credentials, memory. Ray must be joined."""

from __future__ import annotations

from typing import Any, cast

from opencode_tasks.engine.executor import NO_PROMPT_LIMIT, PROCESS_BYTES, Capacity
from opencode_tasks.errors import SetupError
from opencode_tasks.orchestration.local_ray import CREDENTIALS

CREDENTIALS_PER_PROMPT = 0.01


def cluster_capacity() -> Capacity:
    """Capacity of the nodes that have credentials."""
    resources = [node["Resources"] for node in _living_nodes()]
    with_credentials = [one for one in resources if one.get(CREDENTIALS, 0.0) > 0]
    unknown_memory = NO_PROMPT_LIMIT * PROCESS_BYTES
    memory = [one.get("memory", unknown_memory) for one in with_credentials]
    credentials = sum(float(one[CREDENTIALS]) for one in with_credentials)
    return Capacity(
        cpus=max(1, sum(int(one.get("CPU", 0)) for one in with_credentials)),
        prompts=int(credentials / CREDENTIALS_PER_PROMPT + 0.5),
        processes=max(1, sum(int(size) // PROCESS_BYTES for size in memory)),
    )


def check_cluster(ledger_url: str) -> None:
    """Raise SetupError if no batch could run on the cluster: it would wait, or fail, without end."""
    nodes = _living_nodes()
    resources = [node["Resources"] for node in nodes]
    if not any(one.get(CREDENTIALS, 0.0) > 0 and one.get("CPU", 0.0) >= 1 for one in resources):
        raise SetupError(
            "unknown",
            raw_message=f"no node of this Ray cluster has the resource {CREDENTIALS!r} and a CPU",
            hint="start the nodes that have the credentials with: ray start "
            f"--resources='{{\"{CREDENTIALS}\": 1}}'",
        )
    machines = {(node["NodeManagerHostname"], node["NodeManagerAddress"]) for node in nodes}
    if len(machines) > 1 and ledger_url.startswith("sqlite"):
        raise SetupError(
            "unknown",
            raw_message="this Ray cluster has several machines, and a SQLite ledger is a file of one",
            hint="use a ledger that all of them reach: --ledger postgresql://…",
        )


def batch_options(concurrency: int) -> dict[str, Any]:
    """Options of a batch as a remote function: it takes a CPU, and credentials for its prompts.

    Ray must not retry a batch: it does not know what was paid for.
    """
    resources = {CREDENTIALS: round(CREDENTIALS_PER_PROMPT * concurrency, 4)}
    return {"num_cpus": 1, "max_retries": 0, "resources": resources}


def _living_nodes() -> list[dict[str, Any]]:
    import ray  # noqa: PLC0415  loaded where a cluster is used

    nodes: list[dict[str, Any]] = cast("Any", ray).nodes()
    return [node for node in nodes if node["Alive"]]
