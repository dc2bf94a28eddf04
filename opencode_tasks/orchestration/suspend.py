"""Holds of a run as states of its flow run: AwaitingRetry, or Suspended until a person acts.

The flow run of a deployment ends its process: Prefect starts a flow run again whose body raises
``Pause`` in a state that it set itself (prefect 3.8: AwaitingRetry at its scheduled time, Suspended
when a person resumes it).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from uuid import UUID, uuid4

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.logging import get_run_logger
from prefect.states import AwaitingRetry, Running, Suspended

from opencode_tasks.domain.advice import fix_for
from opencode_tasks.domain.hold import PILOT, Hold
from opencode_tasks.domain.money import format_usd
from opencode_tasks.engine.summary_text import paused_line
from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import BUDGET_REACHED, Ledger, Progress, ledger_argument
from opencode_tasks.orchestration.blocking_calls import call_blocking
from opencode_tasks.orchestration.context import current_flow_run, is_deployed
from opencode_tasks.orchestration.prefect_events import publish_paused
from opencode_tasks.orchestration.resume import BUDGET_KEY, budget_keys, request_budget
from opencode_tasks.plan.plan import Plan
from opencode_tasks.settings import settings

ARTIFACT_KEY = "opencode-tasks-pause"
TIME = "%Y-%m-%d %H:%M:%S"


@contextmanager
def awaiting_retry(hold: Hold) -> Generator[None]:
    """The flow run is AwaitingRetry, with the time and the reason, while this process waits."""
    flow_run = current_flow_run()
    if flow_run is None:
        yield
        return
    # The state is information only: a server that does not answer must not end the run.
    with get_client(sync_client=True) as client:
        with suppress(Exception):
            state = AwaitingRetry(scheduled_time=hold.until, message=str(hold))
            client.set_flow_run_state(flow_run.id, state, force=True)
        try:
            yield
        finally:
            with suppress(Exception):
                client.set_flow_run_state(flow_run.id, Running(), force=True)


def end_process_for(paused: RunPausedError, plan: Plan) -> NoReturn:
    """End the process of this flow run; Prefect starts it again at ``paused.until``, or when resumed.

    If a person must act, the message of the state and an artifact say what to do. Raises ``paused``
    if this is not a flow run of a deployment.
    """
    flow_run = current_flow_run()
    if not is_deployed():
        raise paused
    _log_pause(paused, plan)
    if paused.until is None:
        state = _suspend(flow_run.id, paused, plan)
    else:
        state = AwaitingRetry(scheduled_time=paused.until, message=str(paused))
        publish_paused(paused)
        _set_state(flow_run.id, state, force=True)
    raise Pause(state=state)


def _set_state(flow_run_id: UUID, state: State[Any], *, force: bool) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, state, force=force)


def _log_pause(paused: RunPausedError, plan: Plan) -> None:
    """Log why the process of this flow run ends, and what starts it again."""
    log = get_run_logger()
    log.warning("%s", paused_line(paused))
    if paused.until is not None:
        log.info("sleeping until %s UTC: Prefect starts this flow run again then", f"{paused.until:{TIME}}")
        return
    log.warning("fix: %s", fix_for(paused.error_type, paused.model_ref or plan.model_ref))
    log.warning(
        "then resume this flow run in Prefect, or run: opencode-tasks resume %s%s",
        paused.run_id,
        ledger_argument(plan.ledger_url),
    )


def _suspend(flow_run_id: UUID, paused: RunPausedError, plan: Plan) -> State[Any]:
    """Have the flow run wait for a person, with a report as an artifact; its new state.

    If the budget is used up, Prefect shows the form for a new one when the person resumes the run. The form
    follows the state: at the change to a new pause key, Prefect 3.9 deletes what is stored under it.
    """
    with Ledger.open(plan.ledger_url) as ledger:
        progress = ledger.runs.progress(paused.run_id)
        model_ref = paused.model_ref or plan.model_ref
        report = pause_report(paused, model_ref, progress, ledger_argument(plan.ledger_url))
        budget = ledger.budgets.get(paused.run_id)
    # The suspension must not fail if the artifact cannot be stored.
    with suppress(Exception):
        call_blocking(acreate_markdown_artifact, report, key=ARTIFACT_KEY, description=str(paused))
    publish_paused(paused)
    asks_for_budget = paused.error_type == BUDGET_REACHED
    # A new key each time: with an old key Prefect takes the flow run for resumed already.
    key = f"{BUDGET_KEY if asks_for_budget else ''}{uuid4().hex}"
    state = Suspended(timeout_seconds=int(settings().suspend_timeout), pause_key=key, message=str(paused))
    if asks_for_budget:
        state.state_details.run_input_keyset = budget_keys(key)
    _set_state(flow_run_id, state, force=False)
    if asks_for_budget:
        request_budget(flow_run_id, key, str(paused), budget.max_cost_pico)
    return state


def pause_report(paused: RunPausedError, model_ref: str, progress: Progress, ledger: str = "") -> str:
    """Markdown for the person who must act: what happened, what to do, and the cost so far.

    ``ledger`` is that of ``ledger_argument``.

    The message of the provider is shown as a quoted block, so that it cannot format the page.
    """
    message = "\n".join(f"    {line}" for line in (paused.message or "(no message)").splitlines())
    fix = fix_for(paused.error_type, model_ref)
    unknown = " and an unknown part" if progress.cost_pico is None else ""
    is_pilot = paused.error_type == PILOT
    cause = "Its pilot has ended:" if is_pilot else f"`{model_ref}` refused with **{paused.error_type}**:"
    first = "Completed" if is_pilot else "One row is tried first; completed"
    return f"""# Run {paused.run_id} needs a person

{cause}

{message}

| rows | |
|---|---|
| open | {progress.open} |
| completed | {progress.completed} |
| failed | {progress.failed} |
| cost so far | {format_usd(progress.known_cost_pico)}{unknown} |

**What to do.** {fix[0].upper()}{fix[1:]}. Then resume this flow run in Prefect, or run
`opencode-tasks resume {paused.run_id}{ledger}`. {first} rows are not sent again.
"""
