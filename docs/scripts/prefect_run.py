"""A flow run of a deployment that sleeps until a provider's limit ends, on a private Prefect server."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from scene import MODEL, PROVIDER, REVIEWS, ROOT, Scene, scene, wait_for

from opencode_tasks.testing import Call, Reply

FLOW, DEPLOYMENT = "annotate-dataset", "nightly"
ENTRYPOINT = "flows/annotate.py:annotate_dataset"
PARAMETERS = {
    "input": REVIEWS.name,
    "output": "labelled.csv",
    "id_column": "id",
    "template": "Is this review positive or negative? {text}",
    "model": f"{PROVIDER}/{MODEL}",
    "runner": "threads",
    "concurrency": 4,
}
ANSWERED_ROWS = 20
# Far beyond the wait that a flow run spends in its process.
LIMITED = Reply(
    status=429,
    headers={"Retry-After": "2700"},
    body={"error": {"message": "The token limit of this hour is reached.", "type": "rate_limit_error"}},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running Prefect server, asked through its HTTP interface."""

    address: str

    def get(self, path: str) -> Any:
        """The JSON at a path of the interface."""
        return httpx.get(f"{self.address}/api/{path}").raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        """The JSON answer to JSON sent to a path of the interface."""
        return httpx.post(f"{self.address}/api/{path}", json=body).raise_for_status().json()

    def has(self, path: str) -> bool:
        """Whether the server answers, and has something at a path."""
        try:
            self.get(path)
        except httpx.HTTPError:
            return False
        return True


@contextmanager
def sleeping_run() -> Generator[tuple[str, Path]]:
    """Address of the page of a flow run that is ``AwaitingRetry``, and the folder of its programs."""
    answered: list[Call] = []

    def is_limited(call: Call) -> bool:
        answered.append(call)
        return len(answered) > ANSWERED_ROWS

    port = free_port()
    server = Server(address=f"http://127.0.0.1:{port}")
    with scene([(is_limited, LIMITED)]) as private:
        here = with_server(private, server)
        with here.running("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)) as log:
            wait_for(lambda: server.has("health"), log)
            with here.running("prefect", "flow", "serve", "--name", DEPLOYMENT, ENTRYPOINT) as flow_log:
                deployment = f"deployments/name/{FLOW}/{DEPLOYMENT}"
                wait_for(lambda: server.has(deployment), flow_log)
                path = f"deployments/{server.get(deployment)['id']}/create_flow_run"
                run = server.post(path, {"name": "reviews", "parameters": PARAMETERS})["id"]
                wait_for(lambda: server.get(f"flow_runs/{run}")["state"]["name"] == "AwaitingRetry", flow_log)
                yield f"{server.address}/runs/flow-run/{run}", here.folder


def with_server(private: Scene, server: Server) -> Scene:
    """A scene whose programs know the server, and whose folder holds the flow's entry point."""
    shutil.copytree(ROOT / "flows", private.folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    known = {"PREFECT_API_URL": f"{server.address}/api", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    return replace(private, env={**private.env, **known})


def free_port() -> int:
    """A port of the loopback interface that no program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
