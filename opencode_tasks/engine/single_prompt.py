"""A single prompt, without a ledger: the body of ``opencode_task``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opencode_tasks.domain.answer_schema import schema_instruction
from opencode_tasks.domain.records import Answer, RemoteTool
from opencode_tasks.engine.ask import ask
from opencode_tasks.errors import InputError, InvalidRequestError
from opencode_tasks.opencode.backend import (
    DEFAULT_AGENT,
    DEFAULT_SYSTEM,
    BackendName,
    Clocks,
    OpencodeSpec,
    Request,
    Secrets,
)
from opencode_tasks.opencode.binary import find_binary
from opencode_tasks.opencode.config import config_in_force
from opencode_tasks.opencode.server_pool import server_pool
from opencode_tasks.plan.answer_format import AnswerFormat
from opencode_tasks.plan.own_prices import own_prices
from opencode_tasks.plan.system_text import SystemText
from opencode_tasks.settings import settings
from opencode_tasks.system.ray_node import current_node_id


def ask_single(
    prompt: str,
    *,
    model: str | None,
    system: str | None,
    agent: str | None,
    secrets: Secrets,
    variant: str | None,
    answer_format: AnswerFormat | None,
    tools: Sequence[RemoteTool],
    opencode_config: Mapping[str, Any] | None,
    opencode_bin: str | None,
    backend: BackendName,
    clocks: Clocks,
) -> Answer:
    """Answer to one prompt, without a ledger and without retries; see ``opencode_task``.

    Raises InvalidRequestError if opencode does not know the model, agent or variant.
    """
    spec = OpencodeSpec(
        binary=find_binary(opencode_bin or settings().opencode_bin),
        config=config_in_force(opencode_config or {}, os.environ),
        model_ref=model,
        system=system or DEFAULT_SYSTEM,
        agent=agent or DEFAULT_AGENT,
        tools=tuple(tools),
        secrets=secrets,
        clocks=clocks,
    )
    return server_pool.call(_ask, spec, prompt, system, variant, answer_format, backend)


async def _ask(
    spec: OpencodeSpec,
    prompt: str,
    system: str | None,
    variant: str | None,
    answer_format: AnswerFormat | None,
    backend_name: BackendName,
) -> Answer:
    try:
        catalog = await server_pool.catalog(spec, variant, backend_name)
    except InputError as error:
        raise InvalidRequestError(current_node_id(), -1, str(error)) from None
    prices, faults = own_prices()
    if faults:
        raise InputError(tuple(faults))
    base = spec.system if spec.agent == DEFAULT_AGENT else system
    instruction = None if answer_format is None else schema_instruction(answer_format.schema)
    request = Request(
        prompt=prompt,
        model_ref=catalog.model_ref,
        agent=spec.agent,
        system=SystemText(base=base, instruction=instruction).common,
        variant=variant,
        prices=replace(prices, configured=catalog.prices),
    )
    sessions: list[str] = []
    async with server_pool.use(spec, backend_name, catalog.unpriced) as backend:
        try:
            return await ask(
                backend,
                request,
                node_id=current_node_id(),
                on_session=sessions.append,
                answer_format=answer_format,
            )
        finally:
            for session_id in sessions[-1:]:
                backend.release_session(session_id)
