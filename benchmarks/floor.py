"""A bare client of warm servers: the least that a row through opencode costs.

    python benchmarks/floor.py IN.csv OUT.csv CONFIG.json OPENCODE --servers N --concurrency N

starts the servers as the project does, asks them some prompts that are no rows, then the rows: a
POST that opens a session and one that sends the prompt, and nothing else. No ledger, no event
stream, no check of the answer. It prints when the rows began and ended, in epoch seconds.
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
WARM_UP = "warm-up"
WARM_UPS_PER_SERVER = 24


async def start(spec: OpencodeSpec) -> OpencodeServer:
    """The project's own server, without the reader of its events."""
    before = asyncio.all_tasks()
    server = await OpencodeServer.start(spec)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    return server


async def ask(server: OpencodeServer, prompt: str) -> str:
    """The answer to one prompt, in a session of its own."""
    # A session without a title would have opencode ask the model for one.
    opened = await server.post("/session", {"title": "row"})
    body = {"agent": DEFAULT_AGENT, "model": MODEL, "parts": [{"type": "text", "text": prompt}]}
    answer = await server.post(f"/session/{opened.json()['id']}/message", body, timeout_s=None)
    told = answer.json()
    if "error" in told.get("info", {}):
        raise SystemExit(f"opencode answered {prompt[:40]!r} with {json.dumps(told['info']['error'])[:500]}")
    return "".join(part["text"] for part in told["parts"] if part["type"] == "text")


async def ask_all(servers: Sequence[OpencodeServer], prompts: Sequence[str], concurrency: int) -> list[str]:
    """The answers in the order of the prompts, with so many in flight in all."""
    answers = [""] * len(prompts)
    left = iter(enumerate(prompts))

    async def take(server: OpencodeServer) -> None:
        for position, prompt in left:
            answers[position] = await ask(server, prompt)

    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(take(servers[number % len(servers)]))
    return answers


async def run(prompts: Sequence[str], spec: OpencodeSpec, *, servers: int, concurrency: int) -> list[str]:
    """Start, warm up, ask; prints the rows' begin and end."""
    async with contextlib.AsyncExitStack() as stack:
        warm: list[OpencodeServer] = []
        for _ in range(servers):
            # One after the other: each start ends the tasks that began meanwhile.
            warm.append(await start(spec))
            stack.push_async_callback(warm[-1].aclose)
        count = WARM_UPS_PER_SERVER * servers
        await ask_all(warm, [f"{WARM_UP} {number}" for number in range(count)], min(concurrency, count))
        began = time.time()
        answers = await ask_all(warm, prompts, concurrency)
        print(json.dumps([began, time.time()]), flush=True)
    return answers


def main() -> None:
    """Ask the prompts of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("source", "output", "config", "binary"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32)
    told = parser.parse_args()
    config = json.loads(told.config.read_text())
    spec = OpencodeSpec(binary=told.binary, config=config, model_ref="fake/echo")
    prompts = read_prompts(told.source)
    answers = asyncio.run(run(prompts, spec, servers=told.servers, concurrency=told.concurrency))
    rows = [{"prompt": p, "response": a} for p, a in zip(prompts, answers, strict=True)]
    write_rows(told.output, rows)


if __name__ == "__main__":
    main()
