"""Resources of a Ray cluster for batches: CPUs, credentials, memory. Ray must be joined."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from opencode_tasks.engine.executor import NO_PROMPT_LIMIT, PROCESS_BYTES, Capacity
from opencode_tasks.errors import SetupError
from opencode_tasks.orchestration.local_ray import CREDENTIALS

CREDENTIALS_PER_PROMPT = 0.01
# Time in which other machines answer. A worker starts for it.
ANSWER_LIMIT_S = 60.0
T = TypeVar("T")


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
    if len({_machine(node) for node in nodes}) > 1 and ledger_url.startswith("sqlite"):
        raise SetupError(
            "unknown",
            raw_message="this Ray cluster has several machines, and a SQLite ledger is a file of one",
            hint="use a ledger that all of them reach: --ledger postgresql://…",
        )


def other_machines() -> dict[str, str]:
    """The machines that may execute batches, without this one: by name, the id of a node of each."""
    import ray  # noqa: PLC0415  loaded where a cluster is used

    own_id = cast("Any", ray).get_runtime_context().get_node_id()
    nodes = _living_nodes()
    own = {_machine(node) for node in nodes if node["NodeID"] == own_id}
    # The driver of a Ray client is on no node.
    own = {(name, address) for name, address in own if name == socket.gethostname()}
    return {
        node["NodeManagerHostname"]: node["NodeID"]
        for node in nodes
        if node["Resources"].get(CREDENTIALS, 0.0) > 0 and _machine(node) not in own
    }


def on_other_machines(function: Callable[[], T]) -> Mapping[str, T]:
    """Call a function on each other machine; results by the names of the machines.

    A machine that does not answer in time is left out: the rows that it gets say what it lacks.
    """
    import ray  # noqa: PLC0415  loaded where a cluster is used
    from ray.exceptions import RayError  # noqa: PLC0415  the same
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  the same

    api: Any = ray

    def asked(node_id: str) -> Any:
        place = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        remote = api.remote(call).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        return remote.remote(function)

    names = {asked(node_id): name for name, node_id in other_machines().items()}
    answered: list[Any] = (
        api.wait([*names], num_returns=len(names), timeout=ANSWER_LIMIT_S)[0] if names else []
    )
    found: dict[str, T] = {}
    for answer in answered:
        with suppress(RayError):
            found[names[answer]] = api.get(answer)
    return found


def call(function: Callable[[], T]) -> T:
    """Call a function, on the machine that executes this one."""
    return function()


def batch_options(concurrency: int) -> dict[str, Any]:
    """Options of a batch as a remote function: it takes a CPU, and credentials for its prompts.

    Ray must not retry a batch: it does not know what was paid for.
    """
    resources = {CREDENTIALS: round(CREDENTIALS_PER_PROMPT * concurrency, 4)}
    return {"num_cpus": 1, "max_retries": 0, "resources": resources}


def _machine(node: Mapping[str, Any]) -> tuple[str, str]:
    """Name and address of the machine of a node."""
    return node["NodeManagerHostname"], node["NodeManagerAddress"]


def _living_nodes() -> list[dict[str, Any]]:
    import ray  # noqa: PLC0415  loaded where a cluster is used

    nodes: list[dict[str, Any]] = cast("Any", ray).nodes()
    return [node for node in nodes if node["Alive"]]
