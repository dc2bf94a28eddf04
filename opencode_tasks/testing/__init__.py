"""A scripted model provider for tests of flows that call opencode. No call is paid for.

``ScriptedProvider`` is an HTTP server on the loopback interface that speaks the wires of the providers.
Rules decide its answers, and it records each request. The real opencode sends its requests to it, so a
test runs all of the code of a flow.

Examples:
    >>> from opencode_tasks import OpenCodeLLM
    >>> from opencode_tasks.testing import Reply, ScriptedProvider
    >>> with ScriptedProvider().on("France", Reply(text="Paris")) as provider:
    ...     llm = OpenCodeLLM("fake/echo", config=provider.opencode_config())
    ...     answer = llm.prompt("What is the capital of France?")
    >>> answer.result
    'Paris'
    >>> provider.prompts()
    ['What is the capital of France?']
"""

from opencode_tasks.testing.provider import ScriptedProvider
from opencode_tasks.testing.script import Call, Reply, Wire

__all__ = ["Call", "Reply", "ScriptedProvider", "Wire"]
