"""Backend ``null``: the answer to a prompt is the prompt, without opencode. For measurements.

It has a model name that no provider has, so that its answers are never reused for a real model.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from pathlib import Path

from opencode_tasks.domain.max_cost import MAX_OUTPUT_TOKENS
from opencode_tasks.domain.records import Session, Usage
from opencode_tasks.errors import InputError
from opencode_tasks.opencode.backend import DEFAULT_AGENT, BackendName, KeptSession, OnSession, Request
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.outcomes.backend_result import SessionResult
from opencode_tasks.outcomes.session_messages import session_of

MODEL_REF = "null/echo"


class NullBackend:
    """Answers with the prompt, as a session with one step and no cost."""

    name: BackendName = "null"
    unpriced: frozenset[str] = frozenset()

    async def run(self, request: Request, on_session: OnSession) -> SessionResult:
        """See ``Backend.run``."""
        session_id = f"ses_null{uuid.uuid4().hex}"
        on_session(session_id)
        # Other tasks run in the meantime, as with the other backends.
        await asyncio.sleep(0)
        return SessionResult(
            session_id=session_id,
            sessions=[_session(session_id, request)],
            exit_code=0,
            attached_files=len(request.files),
        )

    def data_dir(self, session_id: str | None) -> Path | None:
        """None: there is no data directory."""
        del session_id

    def partial_sessions(self, session_id: str) -> list[Session]:
        """Empty: a request cannot be interrupted."""
        del session_id
        return []

    def release_session(self, session_id: str) -> None:
        """Nothing to release."""

    async def keep_session(self, session_id: str, attempt_id: str) -> bool:
        """No session is kept."""
        del session_id, attempt_id
        return False

    async def take_session(self, kept: KeptSession, attempt_id: str) -> bool:
        """No session is kept."""
        del kept, attempt_id
        return False

    async def aclose(self) -> None:
        """Nothing to close."""


def null_catalog(model_ref: str | None = None) -> Catalog:
    """Catalog of the ``null`` backend. Raises InputError if a model is named."""
    if model_ref is not None:
        raise InputError(("--model: the null backend uses no model; remove the option",))
    return Catalog(
        version="none",
        model_ref=MODEL_REF,
        agent=DEFAULT_AGENT,
        agent_config={},
        settings={},
        unpriced=NullBackend.unpriced,
        price=None,
        max_output_tokens=MAX_OUTPUT_TOKENS,
        plugin_loaded=True,
    )


def _session(session_id: str, request: Request) -> Session:
    provider, _, model = MODEL_REF.partition("/")
    now = int(time.time() * 1000)
    tokens = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}
    prompt = {"role": "user", "id": "msg_1", "sessionID": session_id, "time": {"created": now}}
    answer = {
        "role": "assistant",
        "id": "msg_2",
        "sessionID": session_id,
        "providerID": provider,
        "modelID": model,
        "agent": request.agent,
        "cost": 0,
        "tokens": tokens,
        "finish": "stop",
        "time": {"created": now, "completed": now},
    }
    step = {"type": "step-finish", "id": "prt_3", "reason": "stop", "cost": 0, "tokens": tokens}
    messages = [
        {"info": prompt, "parts": [{"type": "text", "id": "prt_1", "text": request.prompt}]},
        {"info": answer, "parts": [{"type": "text", "id": "prt_2", "text": request.prompt}, step]},
    ]
    session = session_of(session_id, messages)
    # Counts of 0 are unknown if a provider reports them, and true here.
    steps = [replace(step, usage=Usage(), cost_source="reported") for step in session.steps]
    return replace(session, steps=steps)
