"""The reference method: one Ray task per prompt that runs `opencode run`, then `opencode export`.

    python benchmarks/reference.py IN.csv OUT.csv CONFIG.json OPENCODE

Uses Ray without Prefect tasks. The configuration and the environment of opencode are those of the project,
so that only the method differs. Each Ray worker has its own data folder, because processes that share one
lock each other's database.
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
from opencode_tasks.outcomes.cli_output import parse_session_id

CREDENTIALS = "opencode_creds"


def worker_instance_dir(folder: Path) -> InstanceDir:
    """Return the instance directory of this Ray worker; the first call creates it."""
    parent = folder / str(os.getpid())
    if parent.exists():
        return InstanceDir(root=next(parent.iterdir()))
    return make_instance_dir(parent, user_config=False)


def answer(prompt: str, spec: OpencodeSpec, folder: Path) -> str:
    """Send one prompt with two opencode processes; return the text of the last message in the export."""
    instance_dir = worker_instance_dir(folder)
    env = environment(instance_dir, spec, password=None, journal_events=False)
    arguments = ("--agent", spec.agent, "--model", str(spec.model_ref), "--dir", str(instance_dir.work))
    output = run_opencode(instance_dir, spec, env, "run", "--format", "json", *arguments, prompt)
    session_id = parse_session_id(output)
    if session_id is None:
        return f"no session: {output[:200]}"
    exported: dict[str, Any] = json.loads(run_opencode(instance_dir, spec, env, "export", session_id))
    parts = exported["messages"][-1]["parts"]
    return "".join(part["text"] for part in parts if part["type"] == "text")


def run_opencode(instance_dir: InstanceDir, spec: OpencodeSpec, env: dict[str, str], *arguments: str) -> str:
    """Return the output of an opencode command; its standard output is a file."""
    with instance_dir.output.open("w+") as file:
        subprocess.run(
            [str(spec.binary), *arguments],
            check=False,
            env=env,
            cwd=instance_dir.work,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
        file.seek(0)
        return file.read()


def main() -> None:
    """Send the prompts of a file, one task each, on a local Ray."""
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
    task: Any = ray.remote(num_cpus=1, resources={CREDENTIALS: 0.01})(answer)
    answers: list[str] = ray.get([task.remote(prompt, spec, folder) for prompt in prompts])
    ray.shutdown()
    rows = [{"prompt": p, "response": a.strip('"')} for p, a in zip(prompts, answers, strict=True)]
    write_rows(output, rows)


if __name__ == "__main__":
    main()
