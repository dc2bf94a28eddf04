"""Starting other programs so that they end with us, and the only place that does."""

from opencode_tasks.process.guarded import GuardedProcess
from opencode_tasks.process.once import Finished, run_once
from opencode_tasks.process.stopping import same_sigterm, stop_as_by_ctrl_c, undisturbed

__all__ = ["Finished", "GuardedProcess", "run_once", "same_sigterm", "stop_as_by_ctrl_c", "undisturbed"]
