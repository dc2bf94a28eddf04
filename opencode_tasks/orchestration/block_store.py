"""Reading a Prefect block by its name, and saying what is wrong where that fails."""

from __future__ import annotations

from typing import TypeVar, cast

import httpx
from prefect.blocks.core import Block
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from pydantic import ValidationError

from opencode_tasks.errors import InputError, SetupError
from opencode_tasks.orchestration.local_server import is_announced

B = TypeVar("B", bound=Block)


def has_api() -> bool:
    """Whether there is a Prefect to ask: outside a flow, one that is set by the user."""
    url = get_current_settings().api.url
    return FlowRunContext.get() is not None or (bool(url) and not is_announced(str(url)))


def load_block(kind: type[B], name: str) -> B | None:
    """A block by its name; None where there is none.

    Raises SetupError where no Prefect is set or it does not answer, InputError where the block does
    not fit its kind.
    """
    if not has_api():
        raise SetupError(
            "unknown",
            raw_message=f"the Prefect block {name!r} is asked for, and no Prefect API is set",
            hint="set PREFECT_API_URL",
        )
    try:
        return cast("B", kind.load(name))
    except ValidationError as error:
        words = "; ".join(fault["msg"] for fault in error.errors(include_input=False))
        raise InputError(
            (f"the Prefect block {name!r} does not fit this version: {words}; save it again",)
        ) from None
    except ValueError:
        return None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise SetupError(
            "unknown",
            raw_message=f"cannot read the Prefect block {name!r}: {type(error).__name__}: {error}",
            hint="see that PREFECT_API_URL names a server that answers",
        ) from None
