"""Run a table of prompts through opencode as Prefect flows on Ray.

Importing this package loads neither prefect, ray nor pandas: each name below is loaded when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opencode_tasks.domain.reaction import Reaction as Reaction
    from opencode_tasks.domain.records import QueryResult as QueryResult
    from opencode_tasks.domain.records import RemoteTool as RemoteTool
    from opencode_tasks.engine.result import AnnotationResult as AnnotationResult
    from opencode_tasks.engine.run import annotate as annotate
    from opencode_tasks.errors import AuthenticationError as AuthenticationError
    from opencode_tasks.errors import BillingError as BillingError
    from opencode_tasks.errors import BudgetExceededError as BudgetExceededError
    from opencode_tasks.errors import ContentFilteredError as ContentFilteredError
    from opencode_tasks.errors import InputError as InputError
    from opencode_tasks.errors import InvalidRequestError as InvalidRequestError
    from opencode_tasks.errors import MaxOutputTokensError as MaxOutputTokensError
    from opencode_tasks.errors import OpenCodeError as OpenCodeError
    from opencode_tasks.errors import OpenCodeTasksError as OpenCodeTasksError
    from opencode_tasks.errors import OpenCodeTimeoutError as OpenCodeTimeoutError
    from opencode_tasks.errors import PermissionDeniedError as PermissionDeniedError
    from opencode_tasks.errors import RateLimitError as RateLimitError
    from opencode_tasks.errors import RunPausedError as RunPausedError
    from opencode_tasks.errors import ServerError as ServerError
    from opencode_tasks.errors import SetupError as SetupError
    from opencode_tasks.errors import StructuredOutputError as StructuredOutputError
    from opencode_tasks.errors import TooManyFailedError as TooManyFailedError
    from opencode_tasks.errors import UnknownOpenCodeError as UnknownOpenCodeError
    from opencode_tasks.llm import OpenCodeLLM as OpenCodeLLM
    from opencode_tasks.orchestration.blocks import OpenCodeAgent as OpenCodeAgent
    from opencode_tasks.orchestration.blocks import OpenCodeCredentials as OpenCodeCredentials
    from opencode_tasks.orchestration.tasks import opencode_task as opencode_task
    from opencode_tasks.outcomes.run_output import parse_run_error as parse_run_error
    from opencode_tasks.outcomes.run_output import parse_session_id as parse_session_id

_HOMES = {
    "opencode_tasks.errors": (
        *("AuthenticationError", "BillingError", "BudgetExceededError", "ContentFilteredError", "InputError"),
        *("InvalidRequestError", "MaxOutputTokensError", "OpenCodeError", "OpenCodeTasksError"),
        *("OpenCodeTimeoutError", "PermissionDeniedError", "RateLimitError", "RunPausedError", "ServerError"),
        *("SetupError", "StructuredOutputError", "TooManyFailedError", "UnknownOpenCodeError"),
    ),
    "opencode_tasks.engine.run": ("annotate",),
    "opencode_tasks.engine.result": ("AnnotationResult",),
    "opencode_tasks.orchestration.blocks": ("OpenCodeAgent", "OpenCodeCredentials"),
    "opencode_tasks.orchestration.tasks": ("opencode_task",),
    "opencode_tasks.llm": ("OpenCodeLLM",),
    "opencode_tasks.domain.reaction": ("Reaction",),
    "opencode_tasks.domain.records": ("QueryResult", "RemoteTool"),
    "opencode_tasks.outcomes.run_output": ("parse_run_error", "parse_session_id"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnnotationResult",
    "AuthenticationError",
    "BillingError",
    "BudgetExceededError",
    "ContentFilteredError",
    "InputError",
    "InvalidRequestError",
    "MaxOutputTokensError",
    "OpenCodeAgent",
    "OpenCodeCredentials",
    "OpenCodeError",
    "OpenCodeLLM",
    "OpenCodeTasksError",
    "OpenCodeTimeoutError",
    "PermissionDeniedError",
    "QueryResult",
    "RateLimitError",
    "Reaction",
    "RemoteTool",
    "RunPausedError",
    "ServerError",
    "SetupError",
    "StructuredOutputError",
    "TooManyFailedError",
    "UnknownOpenCodeError",
    "annotate",
    "opencode_task",
    "parse_run_error",
    "parse_session_id",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
