"""The fix of each ``error_type``, for messages, summaries and pages."""

from __future__ import annotations

FIXES = {
    "rate_limit": "wait for the end of the limit, or lower --concurrency or set --requests-per-minute",
    "authentication_failed": "set the API key of provider {provider} in the environment, or run "
    "`opencode auth login`, on the machine that runs the rows",
    "billing_error": "add credit to the account of provider {provider}, or use another model or key",
    "budget_exceeded": "raise --max-cost, or --max-row-cost for a single row",
    "invalid_request": "correct what the message names: the prompt, the model or its options",
    "invalid_input": "correct these rows of INPUT",
    "content_filter": "change the prompt: the content filter of provider {provider} refuses it",
    "permission_denied": "allow the tool in the config of the agent, or use an agent that needs no tool",
    "structured_output": "simplify the schema, or use a model that follows it",
    "max_output_tokens": "raise limit.output of the model in the opencode config, or request shorter answers",
    "timeout": "raise --timeout, or use a faster model",
    "server_error": "run the command again later; completed rows are not sent again",
    "crashed": "lower --concurrency or use a machine with more memory, then run the command again",
}
_OTHER = (
    "see `opencode-tasks show RUN_ID ROW_ID`, then run the command again; completed rows are not sent again"
)


def fix_for(error_type: str, model_ref: str) -> str:
    """The fix for an error of a row or a hold of a run, without a capital and a full stop."""
    return FIXES.get(error_type, _OTHER).format(provider=model_ref.partition("/")[0])
