"""Starting other programs so that they end with us, and the only place that does."""

from opencode_tasks.system.processes import GuardedProcess
from opencode_tasks.system.run_once import Finished, run_once
from opencode_tasks.system.signals import same_sigterm, stop_as_by_ctrl_c, undisturbed

__all__ = ["Finished", "GuardedProcess", "run_once", "same_sigterm", "stop_as_by_ctrl_c", "undisturbed"]
