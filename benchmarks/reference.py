"""The reference way: for each prompt one Ray task that runs `opencode run`, then `opencode export`.

    python benchmarks/reference.py IN.csv OUT.csv CONFIG.json OPENCODE

Bare Ray, without the Prefect task around each that a flow would add. It is given the project's own
lean configuration and environment, so that what differs is the way and not the settings, and a
data folder for each Ray worker: processes that share one lock each other's database.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from tables import read_prompts, write_rows

from opencode_tasks.opencode.backend import DEFAULT_AGENT, OpencodeSpec
from opencode_tasks.opencode.instance_dir import InstanceDir, environment, make_instance_dir
from opencode_tasks.outcomes.run_output import parse_session_id

CREDENTIALS = "opencode_creds"


def home_of_worker(folder: Path) -> InstanceDir:
    """The home of this Ray worker, made for its first prompt."""
    mine = folder / str(os.getpid())
    return (
        InstanceDir(root=next(mine.iterdir()))
        if mine.exists()
        else make_instance_dir(mine, user_config=False)
    )


def answer_to(prompt: str, spec: OpencodeSpec, folder: Path) -> str:
    """One prompt through two processes; the last message's text in the export."""
    home = home_of_worker(folder)
    env = environment(home, spec, password=None, journal_events=False)
    asked = ("--agent", spec.agent, "--model", str(spec.model_ref), "--dir", str(home.work), prompt)
    told = to_file(home, spec, env, "run", "--format", "json", *asked)
    session_id = parse_session_id(told)
    if session_id is None:
        return f"no session: {told[:200]}"
    exported: dict[str, Any] = json.loads(to_file(home, spec, env, "export", session_id))
    parts = exported["messages"][-1]["parts"]
    return "".join(part["text"] for part in parts if part["type"] == "text")


def to_file(home: InstanceDir, spec: OpencodeSpec, env: dict[str, str], *arguments: str) -> str:
    """What an opencode command writes to its standard output, a file."""
    with home.output.open("w+") as file:
        subprocess.run(
            [str(spec.binary), *arguments],
            check=False,
            env=env,
            cwd=home.work,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
        file.seek(0)
        return file.read()


def main() -> None:
    """Ask the prompts of a file, a task each, on a Ray of our own."""
    source, output, config, binary = map(Path, sys.argv[1:])
    folder = Path(tempfile.mkdtemp())
    spec = OpencodeSpec(
        binary=binary, config=json.loads(config.read_text()), model_ref="fake/echo", use_plugin=False
    )
    assert spec.agent == DEFAULT_AGENT
    prompts = read_prompts(source)
    ray.init(
        address="local",
        resources={CREDENTIALS: 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=tempfile.mkdtemp(),
    )
    task: Any = ray.remote(num_cpus=1, resources={CREDENTIALS: 0.01})(answer_to)
    answers: list[str] = ray.get([task.remote(prompt, spec, folder) for prompt in prompts])
    ray.shutdown()
    rows = [{"prompt": p, "response": a.strip('"')} for p, a in zip(prompts, answers, strict=True)]
    write_rows(output, rows)


if __name__ == "__main__":
    main()
