"""The process of the local model: ``python -m opencode_tasks.local_model --model PATH --ready-file F``.

Writes the server's address into the ready file once the model is loaded, and serves until it is
ended. llama.cpp shares its context between its slots: each of the ``--parallel`` slots gets the
whole context that the provider's config promises. Parameters as of xllamacpp 2026.10.
"""

from __future__ import annotations

import argparse
import importlib
import threading
from pathlib import Path
from typing import Any

from opencode_tasks.local_model.provider import CONTEXT_TOKENS, MODEL_ID, OUTPUT_TOKENS

SEED = 1

# A compiled module without types.
xllamacpp: Any = importlib.import_module("xllamacpp")


def main() -> None:
    """Load the model, tell where it listens, and serve."""
    parser = argparse.ArgumentParser(prog="python -m opencode_tasks.local_model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()
    server = xllamacpp.Server(server_params(options.model, options.port, options.parallel, options.threads))
    tell(options.ready_file, server.listening_address)
    threading.Event().wait()


def server_params(model: str, port: int, parallel: int, threads: int) -> Any:
    """llama.cpp's parameters: greedy answers, bounded, and no route that shows others' prompts."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {MODEL_ID}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = parallel
    params.n_ctx = parallel * CONTEXT_TOKENS
    params.n_predict = OUTPUT_TOKENS
    params.n_gpu_layers = 0
    params.use_jinja = True
    params.fit_params = False
    params.sampling.temp = 0.0
    params.sampling.seed = SEED
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = 1
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        # Threads that spin while they wait starve opencode on the same cores.
        cpu.poll = 0
    return params


def tell(ready_file: Path, address: str) -> None:
    """Write the address so that a reader sees all of it or no file."""
    partial = ready_file.with_suffix(".partial")
    partial.write_text(address)
    partial.replace(ready_file)


if __name__ == "__main__":
    main()
