"""``annotate_dataset`` as a served deployment, in a process with a limited lifetime."""

from __future__ import annotations

import os
import sys
import threading

from opencode_tasks.orchestration.flows import annotate_dataset

LIFE_S = 300


def main() -> None:
    """Serve the flow under the given name until the process is killed, for at most ``LIFE_S``."""
    timer = threading.Timer(LIFE_S, os._exit, [1])
    timer.daemon = True
    timer.start()
    annotate_dataset.serve(name=sys.argv[1], pause_on_shutdown=False)


if __name__ == "__main__":
    main()
