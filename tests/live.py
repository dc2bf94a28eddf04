"""Try a real provider, and print what differs from the scripted one: ``make live MODEL=provider/model``.

    python tests/live.py --model provider/model [--max-cost USD] [--opencode-config FILE]

Each case runs twice through ``annotate``: with the real model, and with the scripted provider
on the wire of that provider. The provider's key must be where opencode finds it. The table that is printed
can be put into a bug report: it contains no key and no text of the provider beyond its error messages.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opencode_tasks import InputError, RunPausedError, SetupError, annotate
from opencode_tasks.ledger import Ledger
from opencode_tasks.opencode.config import merge, read_config
from opencode_tasks.testing import Call, Reply, ScriptedProvider, Wire

BAD_KEY = "sk-wrong-0123456789abcdef"
WIRES: Mapping[str, Wire] = {
    "openai": "responses",
    "anthropic": "anthropic",
    "google": "gemini",
    "amazon-bedrock": "bedrock",
    "openrouter": "openrouter",
    "azure": "azure",
    "xai": "xai",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
}
AGENT = {
    "mode": "primary",
    "prompt": "Run the command that you are asked for, then say what it printed.",
    "tools": {"*": False, "bash": True},
    "permission": {"bash": "allow"},
}
SCHEMA = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
BASH = ("bash", {"command": "echo 4711", "description": "print a number"})
TOKENS = ("input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case: its prompt, how it is sent, and the replies of the scripted provider."""

    prompt: str
    replies: tuple[Reply, ...]
    agent: str | None = None
    provider: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schema: Mapping[str, Any] | None = None


REFUSED = Reply(status=401, body={"error": {"message": "invalid key", "type": "authentication_error"}})
CASES: Mapping[str, Case] = {
    "answer": Case(prompt="Reply with the word blue.", replies=(Reply(text="blue"),)),
    "schema": Case(
        prompt="Is 'I love it' good or bad?", replies=(Reply(text='{"mood": "good"}'),), schema=SCHEMA
    ),
    "wrong key": Case(
        prompt="Reply with the word red.", replies=(REFUSED,), provider={"options": {"apiKey": BAD_KEY}}
    ),
    "output limit": Case(
        prompt="Write the numbers from 1 to 500 as words.",
        replies=(Reply(text="one two three"),),
        model={"limit": {"context": 100_000, "output": 32}},
    ),
    "tool": Case(
        prompt="Run the command `echo 4711`.",
        replies=(Reply(tool_calls=[BASH]), Reply(text="It printed 4711.")),
        agent="live",
    ),
}
CUTS: Mapping[Wire, str] = {
    "responses": "max_output_tokens",
    "azure": "max_output_tokens",
    "anthropic": "max_tokens",
    "gemini": "MAX_TOKENS",
    "bedrock": "max_tokens",
}


def script(provider: ScriptedProvider, wire: Wire) -> None:
    """Let the provider answer the cases as a model would."""
    provider.on(lambda call: BAD_KEY in json.dumps(call.headers), REFUSED)
    for name, case in CASES.items():
        cut = Reply(text="one two three", finish_reason=CUTS.get(wire, "length"))
        replies = (cut,) if name == "output limit" else case.replies
        provider.on(_asks(case.prompt), *replies)


def _asks(prompt: str) -> Any:
    def matches(call: Call) -> bool:
        return prompt in json.dumps(call.body)

    return matches


def run(
    case: Case, model: str, config: Mapping[str, Any], max_cost: float, folder: Path
) -> tuple[dict[str, Any], float]:
    """Send the prompt of a case; return what is compared, and the cost in USD."""
    name, _, model_id = model.partition("/")
    own = {"provider": {name: {**case.provider, "models": {model_id: dict(case.model)}}}}
    whole = merge(config, merge(own, {"agent": {"live": AGENT}}))
    ledger = str(folder / "ledger.db")
    frame = pd.DataFrame({"prompt": [case.prompt]})
    try:
        result = annotate(
            frame,
            model=model,
            agent=case.agent,
            schema=case.schema,
            opencode_config=whole,
            ledger=ledger,
            max_cost=max_cost,
            max_attempts=1,
            on_wait="raise",
        )
    except RunPausedError as paused:
        with Ledger.open(ledger) as opened:
            (row,) = opened.results.outcomes(paused.run_id)
        return compared(row), row.get("cost_usd") or 0.0
    except (InputError, SetupError) as error:
        return {"error": str(error)}, 0.0
    row = result.frame.replace({np.nan: None}).to_dict("records")[0]
    return compared(row), row["cost_usd"] or 0.0


def compared(row: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a row that a provider decides and that do not depend on the model's words."""
    names = ("status", "error_type", "finish_reason", "attempts", "cost_source")
    known = {name: row.get(name) for name in names}
    tokens = {name: bool(row.get(name)) for name in TOKENS}
    return {
        **known,
        "more than one turn": (row.get("turns") or 0) > 1,
        "has text": bool(row.get("response")),
        **{f"has {name}": found for name, found in tokens.items()},
        "has cost": row.get("cost_usd") is not None,
    }


def differences(live: Mapping[str, Any], scripted: Mapping[str, Any]) -> list[str]:
    """What differs, one line each."""
    names = [name for name in {**live, **scripted} if live.get(name) != scripted.get(name)]
    return [f"{name}: {live.get(name)!r}, scripted {scripted.get(name)!r}" for name in names]


def main() -> int:
    """Try the cases; return 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="provider/model, as opencode names it")
    parser.add_argument("--max-cost", type=float, default=0.1, help="limit in USD for all cases (0.1)")
    parser.add_argument("--opencode-config", type=Path, help="opencode config with the provider")
    given = parser.parse_args()
    config = read_config(given.opencode_config, "--opencode-config") if given.opencode_config else {}
    name = given.model.partition("/")[0]
    wire = WIRES.get(name, "chat")
    print(f"{given.model} beside the scripted wire {wire}\n")
    left, differs = given.max_cost, False
    with ScriptedProvider() as provider, tempfile.TemporaryDirectory(prefix="live-") as root:
        script(provider, wire)
        expected_config = provider.opencode_config(name=name, wire=wire)
        folders = [Path(root, part) for part in ("live", "scripted")]
        for folder in folders:
            folder.mkdir()
        for title, case in CASES.items():
            live, cost = run(case, given.model, config, left, folders[0])
            left = max(0.0, left - cost)
            scripted, _ = run(case, f"{name}/echo", expected_config, 1.0, folders[1])
            found = differences(live, scripted)
            differs = differs or bool(found)
            print(f"{title}: {'the same' if not found else ''}", *found, sep="\n  " if found else "")
    print(f"\ncost: ${given.max_cost - left:.6f}")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
