"""A minimal client of running opencode servers: the lower bound for the cost of a row through opencode.

    python benchmarks/floor.py IN.csv OUT.csv CONFIG.json OPENCODE --servers N --concurrency N

Starts the servers as the project does and sends some warm-up prompts. Then each row is one POST request
that creates a session and one that sends the prompt: no ledger, no event stream, no validation of the
answer. Prints the start and the end of the rows in seconds since 1970.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from tables import read_prompts, write_rows

from opencode_tasks.opencode.backend import DEFAULT_AGENT, OpencodeSpec
from opencode_tasks.opencode.server import OpencodeServer

MODEL = {"providerID": "fake", "modelID": "echo"}
WARM_UP_PROMPT = "warm-up"
WARM_UPS_PER_SERVER = 24


async def start_server(spec: OpencodeSpec) -> OpencodeServer:
    """Start a server as the project does, but without the task that reads its events."""
    tasks_before = asyncio.all_tasks()
    server = await OpencodeServer.start(spec)
    for task in asyncio.all_tasks() - tasks_before:
        task.cancel()
    return server


async def send(server: OpencodeServer, prompt: str) -> str:
    """Return the answer to one prompt in a new session; raises SystemExit if opencode reports an error."""
    # With a title: opencode asks the model for one if a session has none.
    created = await server.post("/session", {"title": "row"})
    body = {"agent": DEFAULT_AGENT, "model": MODEL, "parts": [{"type": "text", "text": prompt}]}
    response = await server.post(f"/session/{created.json()['id']}/message", body, timeout_s=None)
    message = response.json()
    if "error" in message.get("info", {}):
        error = json.dumps(message["info"]["error"])[:500]
        raise SystemExit(f"opencode answered {prompt[:40]!r} with {error}")
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


async def send_all(servers: Sequence[OpencodeServer], prompts: Sequence[str], concurrency: int) -> list[str]:
    """Return the answers in the order of the prompts. ``concurrency`` is the total of all servers."""
    answers = [""] * len(prompts)
    remaining = iter(enumerate(prompts))

    async def work(server: OpencodeServer) -> None:
        for position, prompt in remaining:
            answers[position] = await send(server, prompt)

    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(work(servers[number % len(servers)]))
    return answers


async def run(prompts: Sequence[str], spec: OpencodeSpec, *, servers: int, concurrency: int) -> list[str]:
    """Start the servers, warm them up and send the prompts; print the start and the end of the rows."""
    async with contextlib.AsyncExitStack() as stack:
        running: list[OpencodeServer] = []
        for _ in range(servers):
            # One after the other: start_server cancels all tasks that appear during the start.
            running.append(await start_server(spec))
            stack.push_async_callback(running[-1].aclose)
        count = WARM_UPS_PER_SERVER * servers
        warm_ups = [f"{WARM_UP_PROMPT} {number}" for number in range(count)]
        await send_all(running, warm_ups, min(concurrency, count))
        started = time.time()
        answers = await send_all(running, prompts, concurrency)
        print(json.dumps([started, time.time()]), flush=True)
    return answers


def main() -> None:
    """Send the prompts of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("source", "output", "config", "binary"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    config = json.loads(options.config.read_text())
    spec = OpencodeSpec(binary=options.binary, config=config, model_ref="fake/echo")
    prompts = read_prompts(options.source)
    answers = asyncio.run(run(prompts, spec, servers=options.servers, concurrency=options.concurrency))
    rows = [{"prompt": p, "response": a} for p, a in zip(prompts, answers, strict=True)]
    write_rows(options.output, rows)


if __name__ == "__main__":
    main()
