"""A comparable library that calls the provider directly, without an agent: inspect-ai.

    PYTHON benchmarks/peer.py IN.csv OUT.csv BASE_URL CONCURRENCY

Runs in its own environment in the user's cache, which ``install_peer`` creates, so that the project does
not depend on it. bespokelabs-curator is a similar library, but it downloads a tokenizer before its first
call, even for a custom provider.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tables import read_prompts, write_rows

REQUIREMENTS = ("inspect-ai==0.3.285", "openai==3.57.0")


def install_peer(cache: Path) -> Path:
    """Return the Python of the peer's environment; the first call creates it.

    Raises CalledProcessError if the installation fails.
    """
    folder = cache / "-".join(("peer", *REQUIREMENTS))
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        create = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        for command in (create, [*install, *REQUIREMENTS]):
            subprocess.run(command, check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


def main() -> None:
    """Send the prompts of a file."""
    # Only the environment of the peer has these packages.
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
    rows = [{"prompt": str(sample.input), "response": sample.output.completion} for sample in answered]
    write_rows(Path(output), rows)


if __name__ == "__main__":
    main()
