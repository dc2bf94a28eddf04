"""Process of the local model: ``python -m opencode_tasks.local_model --model PATH --ready-file FILE``.

Writes the address of the server into the ready file after the model is loaded, and serves until it is
stopped. llama.cpp divides its context among its slots: the context is sized so that each of the
``--parallel`` slots has the length that the provider's config states. Parameters of xllamacpp 2026.10.
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
    """Load the model, write the address of the server, and serve."""
    parser = argparse.ArgumentParser(prog="python -m opencode_tasks.local_model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()
    server = xllamacpp.Server(server_params(options.model, options.port, options.parallel, options.threads))
    write_address(options.ready_file, server.listening_address)
    threading.Event().wait()


def server_params(model: str, port: int, parallel: int, threads: int) -> Any:
    """Parameters of llama.cpp: greedy sampling, a limit on the answer, no route that shows other prompts."""
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
        # Threads that wait in a busy loop take CPU time from opencode on the same cores.
        cpu.poll = 0
    return params


def write_address(ready_file: Path, address: str) -> None:
    """Write the address atomically: a reader finds the complete address or no file."""
    partial = ready_file.with_suffix(".partial")
    partial.write_text(address)
    partial.replace(ready_file)


if __name__ == "__main__":
    main()
