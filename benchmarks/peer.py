"""A peer that calls the provider itself, without an agent between: inspect-ai.

    PYTHON benchmarks/peer.py IN.csv OUT.csv BASE_URL CONCURRENCY

runs in an environment of its own, which ``peer_python`` makes in the user's cache, so that the
project depends on nothing of it. bespokelabs-curator is the other one of its kind: it wants a
tokenizer's table from the network before its first call, even for a provider of one's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tables import read_prompts, write_rows

REQUIREMENTS = ("inspect-ai==0.3.285", "openai==3.57.0")


def peer_python(cache: Path) -> Path:
    """The Python that has the peer, installed on first use; raises CalledProcessError."""
    folder = cache / "-".join(("peer", *REQUIREMENTS))
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        for command in (make, [*install, *REQUIREMENTS]):
            subprocess.run(command, check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


def main() -> None:
    """Ask the prompts of a file."""
    # Only the peer's own environment has it.
    from inspect_ai import Task, eval  # noqa: A004, PLC0415
    from inspect_ai.dataset import MemoryDataset, Sample  # noqa: PLC0415
    from inspect_ai.solver import generate  # noqa: PLC0415

    source, output, base_url, concurrency = sys.argv[1:]
    os.environ |= {"SCRIPTED_API_KEY": "sk-test", "SCRIPTED_BASE_URL": base_url}
    prompts = read_prompts(Path(source))
    samples = [Sample(input=prompt, id=number) for number, prompt in enumerate(prompts, 1)]
    logs = eval(
        Task(dataset=MemoryDataset(samples), solver=generate()),
        model="openai-api/scripted/echo",
        max_connections=int(concurrency),
        max_samples=int(concurrency),
        display="none",
        log_dir=tempfile.mkdtemp(),
    )
    answered = logs[0].samples or []
    rows = [{"prompt": str(one.input), "response": one.output.completion} for one in answered]
    write_rows(Path(output), rows)


if __name__ == "__main__":
    main()
