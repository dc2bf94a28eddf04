"""Asking the person who resumes a suspended flow run for a new budget."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID, uuid4

from prefect.client.orchestration import get_client
from prefect.input import RunInput
from prefect.input.run_input import Keyset, keyset_from_base_key
from pydantic import Field

from opencode_tasks.domain.money import pico_to_usd, usd_to_pico

PAUSE_KEY = "budget-"
# How Prefect names what a suspended flow run is told: by its state and its pause key.
PREFIX = f"suspended-{PAUSE_KEY}"
MAX_ANSWERS = 100


class NewBudget(RunInput):
    """What the whole run may cost from now on."""

    max_cost: float = Field(gt=0, title="Budget of the whole run, in USD (what is spent already counts)")


def ask_for_budget(flow_run_id: UUID, pause_key: str, told: str, max_cost_pico: int | None) -> Keyset:
    """Have Prefect ask for a budget on resume, the old one filled in; the keys that its state names."""
    keyset = keyset_from_base_key(f"suspended-{pause_key}")
    form = NewBudget.with_initial_data(description=told, max_cost=pico_to_usd(max_cost_pico))
    form.save(keyset, flow_run_id=flow_run_id)
    return keyset


def tell_budget(flow_run_id: UUID, max_cost: float) -> None:
    """Leave a budget, in USD, for the flow run to find when it starts again."""
    key = keyset_from_base_key(f"{PREFIX}{uuid4().hex}")["response"]
    with get_client(sync_client=True) as client:
        client.create_flow_run_input(flow_run_id, key, NewBudget(max_cost=max_cost).model_dump_json())


def given_budget(flow_run_id: UUID) -> int | None:
    """The budget, in pico-dollars, that a person gave since this was last asked; None without one."""
    found: int | None = None
    # A server that is away must not end the run: the budget that it has stays.
    with suppress(Exception), get_client(sync_client=True) as client:
        for told in client.filter_flow_run_input(flow_run_id, PREFIX, limit=MAX_ANSWERS, exclude_keys=set()):
            if not told.key.endswith("-response"):
                continue
            with suppress(ValueError):
                found = usd_to_pico(NewBudget.load_from_flow_run_input(told).max_cost)
            client.delete_flow_run_input(flow_run_id, told.key)
    return found
