"""The wires that the scripted provider speaks, each with its addresses and the SDK that opencode uses.

opencode 1.18 contains all of these SDKs. ``chat``, ``responses``, ``anthropic``, ``gemini`` and
``bedrock`` are at the paths of the real providers; the others have a prefix, so that one server can
serve all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opencode_tasks.testing.script import Wire
from opencode_tasks.testing.wires import anthropic, bedrock, chat, gemini, responses, variants
from opencode_tasks.testing.wires.turn import Shape

COMPLETIONS = "/chat/completions"
RESPONSES = "/responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSpec:
    """A wire: opencode's SDK, the path of its base URL, its routes below that path, more options.

    A route whose path has a parameter ``model`` takes the model from there.
    """

    npm: str
    base: str
    routes: Mapping[str, Shape]
    options: Mapping[str, str] = field(default_factory=dict[str, str])


WIRES: dict[Wire, WireSpec] = {
    "chat": WireSpec(npm="@ai-sdk/openai-compatible", base="/v1", routes={COMPLETIONS: chat.SHAPE}),
    "responses": WireSpec(npm="@ai-sdk/openai", base="/v1", routes={RESPONSES: responses.SHAPE}),
    "anthropic": WireSpec(npm="@ai-sdk/anthropic", base="/v1", routes={"/messages": anthropic.SHAPE}),
    "gemini": WireSpec(
        npm="@ai-sdk/google",
        base="/v1beta",
        routes={"/models/{model}:streamGenerateContent": gemini.SHAPE},
    ),
    "bedrock": WireSpec(
        npm="@ai-sdk/amazon-bedrock",
        base="",
        routes={"/model/{model}/converse-stream": bedrock.SHAPE},
        options={"region": "us-east-1"},
    ),
    "openrouter": WireSpec(
        npm="@openrouter/ai-sdk-provider",
        base="/openrouter/api/v1",
        routes={COMPLETIONS: variants.OPENROUTER},
    ),
    "azure": WireSpec(
        npm="@ai-sdk/azure",
        base="/azure/openai/v1",
        routes={RESPONSES: responses.SHAPE, COMPLETIONS: chat.SHAPE},
    ),
    "xai": WireSpec(
        npm="@ai-sdk/xai", base="/xai/v1", routes={COMPLETIONS: variants.XAI, RESPONSES: responses.SHAPE}
    ),
    "groq": WireSpec(npm="@ai-sdk/groq", base="/groq/openai/v1", routes={COMPLETIONS: variants.GROQ}),
    "mistral": WireSpec(npm="@ai-sdk/mistral", base="/mistral/v1", routes={COMPLETIONS: variants.MISTRAL}),
    "deepseek": WireSpec(
        npm="@ai-sdk/openai-compatible", base="/deepseek", routes={COMPLETIONS: variants.DEEPSEEK}
    ),
}
