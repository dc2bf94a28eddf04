"""What a person reads about a run that waits for them: what happened, what to do, what it has cost."""

from __future__ import annotations

from opencode_tasks.domain.money import format_usd
from opencode_tasks.errors import RunPausedError
from opencode_tasks.ledger import Progress

WHAT_TO_DO = {
    "authentication_failed": "Mend the credentials of `{provider}` where the flow runs: its API key in the "
    "environment, or `opencode auth login`.",
    "billing_error": "Look at the account of `{provider}`: it wants credit, a subscription or a payment.",
    "budget_exceeded": "Give the run a higher budget, for example with `--max-cost`.",
}
ELSE = "Look at what the provider says above."


def pause_report(paused: RunPausedError, model_ref: str, progress: Progress) -> str:
    """Markdown; the provider's words are shown as a quoted block, whatever they are."""
    provider = model_ref.partition("/")[0]
    message = "\n".join(f"    {line}" for line in (paused.message or "(nothing)").splitlines())
    what_to_do = WHAT_TO_DO.get(paused.error_type, ELSE).format(provider=provider)
    unknown = " and an unknown part" if progress.cost_pico is None else ""
    return f"""# Run {paused.run_id} needs a person

`{model_ref}` refused with **{paused.error_type}**:

{message}

| rows | |
|---|---|
| wait | {progress.open} |
| completed | {progress.completed} |
| failed | {progress.failed} |
| cost so far | {format_usd(progress.known_cost_pico)}{unknown} |

**What to do.** {what_to_do} Then resume this flow run in Prefect, or run
`opencode-tasks resume {paused.run_id}`. One row is tried first; what is completed is not asked again.
"""
