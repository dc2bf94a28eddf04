"""Server-sent events, the framing of every wire but Bedrock's.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MEDIA_TYPE = "text/event-stream"
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"  # end mark of OpenAI's chat completions


def data(value: Mapping[str, Any]) -> bytes:
    """Return an event without a name."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def named(value: Mapping[str, Any]) -> bytes:
    """Return an event whose name is its ``type``."""
    return f"event: {value['type']}\n".encode() + data(value)
