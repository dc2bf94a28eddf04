"""What the Agent Trajectory Interchange Format 1.7 demands of a trajectory.

Taken from RFC 0001 of harbor and compared with ``harbor.models.trajectories`` of harbor 0.26.0: the required
fields, the fields that each object may have, and the rules between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
MONEY: dict[str, Any] = {"type": "number"}
OBJECT: dict[str, Any] = {"type": "object"}
OF_AGENTS = ("model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics")


def closed(required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional, "extra": OBJECT},
        "required": [*required],
        "additionalProperties": False,
    }


def listed(items: Mapping[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


CALL = closed({"tool_call_id": TEXT, "function_name": TEXT, "arguments": OBJECT}, {})
REFERENCE = closed({}, {"trajectory_id": TEXT, "session_id": TEXT, "trajectory_path": TEXT})
RESULT = closed({}, {"source_call_id": TEXT, "content": TEXT, "subagent_trajectory_ref": listed(REFERENCE)})
METRICS = closed(
    {},
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "cached_tokens": COUNT, "cost_usd": MONEY},
)
STEP = closed(
    {
        "step_id": {"type": "integer", "minimum": 1},
        "source": {"enum": ["system", "user", "agent"]},
        "message": TEXT,
    },
    {
        "timestamp": {"type": "string", "format": "date-time"},
        "model_name": TEXT,
        "reasoning_content": TEXT,
        "tool_calls": listed(CALL),
        "observation": closed({"results": listed(RESULT)}, {}),
        "metrics": METRICS,
        "llm_call_count": COUNT,
    },
)
FINAL = closed(
    {},
    {
        "total_prompt_tokens": COUNT,
        "total_completion_tokens": COUNT,
        "total_cached_tokens": COUNT,
        "total_cost_usd": MONEY,
        "total_steps": COUNT,
    },
)
TRAJECTORY = closed(
    {
        "schema_version": {"const": "ATIF-v1.7"},
        "agent": closed({"name": TEXT, "version": TEXT}, {"model_name": TEXT}),
        "steps": listed(STEP, least=1),
    },
    {
        "session_id": TEXT,
        "trajectory_id": TEXT,
        "final_metrics": FINAL,
        "subagent_trajectories": listed(OBJECT, least=1),
    },
)
VALIDATOR = Draft202012Validator(TRAJECTORY, format_checker=Draft202012Validator.FORMAT_CHECKER)


def faults_of(trajectory: Mapping[str, Any]) -> list[str]:
    """Every fault of a trajectory and of those in it."""
    faults = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(trajectory)]
    return faults or [*_broken_rules(trajectory)]


def _broken_rules(trajectory: Mapping[str, Any]) -> Iterator[str]:
    steps = trajectory["steps"]
    if [step["step_id"] for step in steps] != [*range(1, len(steps) + 1)]:
        yield "the ids of the steps do not count from 1"
    inner = trajectory.get("subagent_trajectories", [])
    ids = [one.get("trajectory_id") for one in inner]
    if None in ids or len(set(ids)) != len(ids):
        yield f"sub-agents need ids of their own: {ids}"
    for step in steps:
        if step["source"] != "agent" and set(step) & set(OF_AGENTS):
            yield f"step {step['step_id']} is no agent's: {sorted(step)}"
        calls = {call["tool_call_id"] for call in step.get("tool_calls", [])}
        for result in step.get("observation", {}).get("results", []):
            if result.get("source_call_id", next(iter(calls), None)) not in calls:
                yield f"step {step['step_id']} has no call {result['source_call_id']}"
            for reference in result.get("subagent_trajectory_ref", []):
                if reference.get("trajectory_id") not in ids and "trajectory_path" not in reference:
                    yield f"step {step['step_id']} names a trajectory that is not there: {reference}"
    for one in inner:
        yield from faults_of(one)
