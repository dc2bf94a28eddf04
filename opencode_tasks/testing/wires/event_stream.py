"""Messages in the AWS event stream encoding, the framing of Bedrock's streams.

A message is a prelude (total length, length of the headers) with its CRC32, the headers, the payload,
and the CRC32 of the whole message.
Format: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

MEDIA_TYPE = "application/vnd.amazon.eventstream"
STRING = 7  # type of a header whose value is a string
FRAME_BYTES = 16  # lengths and checksums of a message


def event(kind: str, payload: Mapping[str, Any]) -> bytes:
    """Return an event of a stream."""
    return _message({":event-type": kind, ":message-type": "event"}, payload)


def exception(kind: str, payload: Mapping[str, Any]) -> bytes:
    """Return a modeled error, which ends a stream."""
    return _message({":exception-type": kind, ":message-type": "exception"}, payload)


def _message(names: Mapping[str, str], payload: Mapping[str, Any]) -> bytes:
    named = {**names, ":content-type": "application/json"}
    headers = b"".join(_header(name, value) for name, value in named.items())
    content = json.dumps(payload).encode()
    prelude = struct.pack("!II", FRAME_BYTES + len(headers) + len(content), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + content
    return message + struct.pack("!I", zlib.crc32(message))


def _header(name: str, value: str) -> bytes:
    start = bytes([len(name)]) + name.encode() + bytes([STRING])
    return start + struct.pack("!H", len(value)) + value.encode()
