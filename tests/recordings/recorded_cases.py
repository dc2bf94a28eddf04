"""The cases that ``record.py`` records: replies of the provider, and agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from opencode_tasks.testing import Reply, Wire

BASH = ("bash", {"command": "echo stepped", "description": "say a word"})
TASK = ("task", {"description": "one thing", "prompt": "do the one thing", "subagent_type": "hand"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case: the replies of the provider and how they are recorded.

    ``wire`` is the wire of the provider; None is the provider "fake", whose wire is ``chat``. ``plugin`` is
    whether the plugin is loaded. ``abort`` aborts the session when opencode waits for a retry or for an
    answer. ``run`` is whether ``opencode run`` is recorded too.
    """

    name: str
    replies: Sequence[Reply]
    wire: Wire | None = None
    agent: str = "opencode-tasks"
    plugin: bool = True
    abort: bool = False
    run: bool = True

    @property
    def folder(self) -> str:
        name = self.name if self.plugin else f"{self.name}-without-plugin"
        return name if self.wire is None else f"wires/{self.wire}/{name}"

    @property
    def prompt(self) -> str:
        return f"Do {self.folder}."

    @property
    def provider_id(self) -> str:
        return self.wire or "fake"


WIRES: tuple[Wire, ...] = get_args(Wire)


def error(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def error_reply(status: int, body: Mapping[str, Any], **headers: str) -> list[Reply]:
    return [
        Reply(
            status=status, body=body, headers={key.replace("_", "-"): value for key, value in headers.items()}
        )
    ]


RATE = error("Rate limit reached", type="rate_limit")
QUOTA = error("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota")
OVERFLOW = error(
    "This model's maximum context length is 100 tokens",
    code="context_length_exceeded",
    type="invalid_request_error",
)
ERRORS = {
    "400": error_reply(400, error("bad thing", type="invalid_request_error")),
    "401": error_reply(401, error("bad key")),
    "402": error_reply(402, error("insufficient credit")),
    "context-overflow": error_reply(400, OVERFLOW),
}
# Bedrock names the kind of an error inside a stream; other wires have OpenAI's or Anthropic's names.
OVERLOADED: Mapping[Wire, str] = {"bedrock": "serviceUnavailableException"}
COUNTS: Mapping[str, Any] = {"input_tokens": 100, "output_tokens": 20}


def wire_cases(wire: Wire) -> list[Case]:
    """The cases of a wire. The sums of tokens are those of COUNTS, except for a tool call.

    The events of ``opencode run`` have the same parts as those of the server, so that one answer and one
    failure are recorded with it.
    """
    overloaded = {"type": OVERLOADED.get(wire, "overloaded_error"), "message": "Overloaded"}
    cached = Reply(text="Cached.", **COUNTS, cache_read_tokens=30, cache_write_tokens=20, reasoning_tokens=5)
    return [
        Case(wire=wire, name="answer", run=False, replies=[Reply(text="Fine.", chunks=2, **COUNTS)]),
        Case(
            wire=wire,
            name="thinking",
            run=False,
            replies=[Reply(text="Four.", reasoning_text="Two and two.", **COUNTS, reasoning_tokens=5)],
        ),
        Case(
            wire=wire,
            name="tool-call",
            agent="worker",
            replies=[
                Reply(tool_calls=[BASH], input_tokens=50, output_tokens=8),
                Reply(text="Done.", input_tokens=70, output_tokens=2),
            ],
        ),
        Case(wire=wire, name="cached", run=False, replies=[cached]),
        Case(wire=wire, name="stream-error", replies=[Reply(text="Half", stream_error=overloaded)]),
        Case(wire=wire, name="status-error", run=False, replies=error_reply(429, RATE, retry_after="7200")),
    ]


CASES = [
    Case(name="text", replies=[Reply(text="Fine.", input_tokens=12, output_tokens=3)]),
    Case(
        name="reasoning",
        replies=[
            Reply(
                text="Four.",
                reasoning_text="Two and two.",
                input_tokens=100,
                cache_read_tokens=30,
                output_tokens=20,
                reasoning_tokens=5,
            )
        ],
    ),
    Case(
        name="tool-call",
        agent="worker",
        replies=[
            Reply(tool_calls=[BASH], input_tokens=50, output_tokens=8),
            Reply(text="Done.", input_tokens=70, output_tokens=2),
        ],
    ),
    Case(
        name="child-session",
        agent="boss",
        replies=[
            Reply(tool_calls=[TASK], input_tokens=40, output_tokens=9),
            Reply(text="All done.", input_tokens=60, output_tokens=2),
        ],
    ),
    Case(name="length", replies=[Reply(text="Part of", finish_reason="length")]),
    Case(name="content-filter", replies=[Reply(text="Part of", finish_reason="content_filter")]),
    Case(name="empty", replies=[Reply(text="")]),
    *(Case(name=name, replies=replies) for name, replies in ERRORS.items()),
    Case(name="429", replies=error_reply(429, RATE, retry_after="7200")),
    Case(name="insufficient-quota", replies=error_reply(429, QUOTA)),
    Case(name="500", replies=error_reply(500, error("boom"))),
    Case(name="503", replies=error_reply(503, error("overloaded"), retry_after="2")),
    # The delay lets opencode read the first chunk before the connection is closed.
    Case(name="cut", replies=[Reply(text="abcdef", chunks=3, cut_after=1, chunk_delay_s=0.5)]),
    Case(name="hang", replies=[Reply(hang=True)], abort=True, run=False),
    Case(name="permission", agent="asker", replies=[Reply(tool_calls=[BASH])]),
    *(Case(name=name, replies=replies, plugin=False, run=name == "401") for name, replies in ERRORS.items()),
    Case(name="429", replies=error_reply(429, RATE, retry_after="1"), plugin=False, run=False),
    Case(
        name="429-long",
        replies=error_reply(429, RATE, retry_after="7200"),
        plugin=False,
        run=False,
        abort=True,
    ),
    Case(name="insufficient-quota", replies=error_reply(429, QUOTA), plugin=False, run=False, abort=True),
    Case(name="500", replies=error_reply(500, error("boom")), plugin=False, run=False, abort=True),
    Case(name="503", replies=error_reply(503, error("overloaded"), retry_after="1"), plugin=False, run=False),
    *(case for wire in WIRES for case in wire_cases(wire)),
]
AGENTS: dict[str, Any] = {
    "asker": {"mode": "primary", "prompt": "You ask first.", "permission": {"bash": "ask"}},
    "worker": {
        "mode": "primary",
        "prompt": "You work.",
        "tools": {"*": False, "bash": True},
        "permission": {"bash": "allow"},
    },
    "boss": {
        "mode": "primary",
        "prompt": "You hand work on.",
        "tools": {"*": False, "task": True},
        "permission": {"task": "allow"},
    },
    "hand": {
        "mode": "subagent",
        "prompt": "You are a hand.",
        "description": "One thing.",
        "tools": {"*": False},
    },
}
