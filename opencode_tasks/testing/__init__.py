"""Parts for testing flows that call opencode, without paying a provider.

``ScriptedProvider`` is an OpenAI-compatible HTTP server on the loopback interface that answers
by rule and records every request it gets. The real opencode talks to it as it would to any
provider, so a flow under test runs all of its own code.
"""

from opencode_tasks.testing.provider import ScriptedProvider
from opencode_tasks.testing.script import Call, Reply

__all__ = ["Call", "Reply", "ScriptedProvider"]
