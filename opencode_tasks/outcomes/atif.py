"""A session as a trajectory in the Agent Trajectory Interchange Format (ATIF). Pure.

The fields are those of version 1.7, which the package ``harbor`` 0.26.0 reads; its own version is 1.8. A
value that is not known is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opencode_tasks.domain.money import pico_to_usd
from opencode_tasks.outcomes.agent_steps import ModelStep, PromptStep, ToolUse, session_steps
from opencode_tasks.outcomes.session_tree import SessionTree

ATIF_VERSION: Final = "ATIF-v1.7"
AGENT: Final = "opencode"
PROMPT_TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
COMPLETION_TOKENS = ("output_tokens", "reasoning_tokens")
CACHED_TOKENS = ("cache_read_tokens",)
DETAIL_TOKENS = ("cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryFacts:
    """What a trajectory says besides its steps; None for what is not known.

    ``extra`` and ``final_extra`` are further facts about the row, and about its cost.
    """

    agent_version: str | None
    model_ref: str | None
    system: str | None
    extra: Mapping[str, Any]
    final_extra: Mapping[str, Any]


def trajectory(tree: SessionTree, facts: TrajectoryFacts) -> dict[str, Any] | None:
    """The trajectory of a session and of its sub-agents; None if the session has no step."""
    steps = list(session_steps(tree.messages))
    if not steps:
        return None
    children = [_child(child, facts) for child in tree.children]
    embedded = [child for child in children if child is not None]
    known = {child["trajectory_id"] for child in embedded}
    lines: list[dict[str, Any]] = [{"source": "system", "message": facts.system}] if facts.system else []
    call_ids = set[str]()
    lines += [
        _prompt(step) if isinstance(step, PromptStep) else _call(step, tree.usage, known, call_ids)
        for step in steps
    ]
    return _present(
        {
            "schema_version": ATIF_VERSION,
            "session_id": tree.session_id,
            "trajectory_id": tree.session_id,
            "agent": _present(
                {"name": AGENT, "version": facts.agent_version or "unknown", "model_name": facts.model_ref}
            ),
            "steps": [{"step_id": number, **line} for number, line in enumerate(lines, start=1)],
            "final_metrics": _final_metrics(tree, len(lines), facts.final_extra),
            "subagent_trajectories": embedded or None,
            "extra": _present(facts.extra) or None,
        }
    )


def _child(tree: SessionTree, facts: TrajectoryFacts) -> dict[str, Any] | None:
    """The trajectory of a sub-agent, whose system text is that of its agent in opencode."""
    of_child = TrajectoryFacts(
        agent_version=facts.agent_version,
        model_ref=next((s.model_ref for s in session_steps(tree.messages) if isinstance(s, ModelStep)), None),
        system=None,
        extra={},
        final_extra={},
    )
    return trajectory(tree, of_child)


def _prompt(step: PromptStep) -> dict[str, Any]:
    return _present({"timestamp": _time(step), "source": "user", "message": step.text})


def _call(
    step: ModelStep, usage: Mapping[str, Mapping[str, Any]], children: set[str], call_ids: set[str]
) -> dict[str, Any]:
    ids = [_new_id(tool.call_id, call_ids) for tool in step.tools]
    results = [
        _result(tool, call_id, children)
        for tool, call_id in zip(step.tools, ids, strict=True)
        if tool.result is not None
    ]
    extra = _present({"error": step.error, "is_context_summary": step.is_summary or None})
    return _present(
        {
            "timestamp": _time(step),
            "source": "agent",
            "model_name": step.model_ref,
            "message": step.text,
            "reasoning_content": step.reasoning or None,
            "tool_calls": [
                {"tool_call_id": call_id, "function_name": tool.name, "arguments": tool.arguments}
                for tool, call_id in zip(step.tools, ids, strict=True)
            ]
            or None,
            "observation": {"results": results} if results else None,
            "metrics": _metrics(usage.get(step.step_id or "")),
            "llm_call_count": None if step.step_id is None else 1,
            "extra": extra or None,
        }
    )


def _new_id(call_id: str, used: set[str]) -> str:
    """An id that no earlier call of the trajectory has: some providers count from 0 in each answer."""
    number, new = 2, call_id
    while new in used:
        new, number = f"{call_id}-{number}", number + 1
    used.add(new)
    return new


def _result(tool: ToolUse, call_id: str, children: set[str]) -> dict[str, Any]:
    is_embedded = tool.child_id in children
    return _present(
        {
            "source_call_id": call_id,
            "content": tool.result,
            "subagent_trajectory_ref": [{"trajectory_id": tool.child_id}] if is_embedded else None,
            "extra": {"is_error": True} if tool.is_error else None,
        }
    )


def _metrics(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    found = _present(
        {
            "prompt_tokens": _sum([usage], PROMPT_TOKENS),
            "completion_tokens": _sum([usage], COMPLETION_TOKENS),
            "cached_tokens": _sum([usage], CACHED_TOKENS),
            "cost_usd": pico_to_usd(usage["cost_pico"]),
            "extra": _present({name: usage[name] for name in DETAIL_TOKENS}) or None,
        }
    )
    return found or None


def _final_metrics(tree: SessionTree, steps: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens of this session, and the cost of the sub-agents too, as the format defines these sums."""
    own, every = list(tree.usage.values()), list(tree.usages())
    sums = {
        "total_prompt_tokens": _sum(own, PROMPT_TOKENS),
        "total_completion_tokens": _sum(own, COMPLETION_TOKENS),
        "total_cached_tokens": _sum(own, CACHED_TOKENS),
        "total_cost_usd": pico_to_usd(_sum(every, ("cost_pico",))),
    }
    # What an ended call may have cost besides is not known.
    known = sums if tree.is_usage_known else {}
    return _present({**known, "total_steps": steps, "extra": _present(extra) or None})


def _sum(usages: Iterable[Mapping[str, Any]], names: Sequence[str]) -> int | None:
    """The sum of these counts; None if one of them is unknown."""
    total = 0
    for usage in usages:
        for name in names:
            if usage[name] is None:
                return None
            total += usage[name]
    return total


def _time(step: PromptStep | ModelStep) -> str | None:
    return None if step.at is None else step.at.isoformat()


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
