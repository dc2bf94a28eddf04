"""Files of rows for tests, and what a provider received of them."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opencode_tasks.testing import Call

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
# What the model ``seer`` accepts. The model ``echo`` declares nothing, and so takes text alone.
SEER: Mapping[str, Any] = {
    "modalities": {"input": ["text", "image", "pdf"], "output": ["text"]},
    "cost": {"input": 1.0, "output": 2.0},
    "limit": {"context": 1_000_000, "output": 4096},
}
CALLED = "Called the Read tool with the following input: "


def png(width: int = 8, height: int = 8, *, seed: int = 0) -> bytes:
    """An RGB image of random pixels, which do not compress."""
    pixels = random.Random(seed)
    lines = b"".join(b"\0" + pixels.randbytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = [(b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_url(media_type: str, content: bytes) -> str:
    """A file as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def received(call: Call) -> list[Any]:
    """The parts of the first prompt of a request: texts, and files as ``(media type, name, bytes)``.

    A text file is its name and its text. An image has no name.
    """
    user = next(one for one in call.body["messages"] if one["role"] == "user")
    content: Any = user["content"]
    if isinstance(content, str):
        return [content]
    found: list[Any] = []
    parts = iter(content)
    for part in parts:
        match part["type"]:
            case "text" if part["text"].startswith(CALLED):
                name = json.loads(part["text"].removeprefix(CALLED))["filePath"]
                found.append((name, next(parts)["text"]))
            case "text":
                found.append(part["text"])
            case "image_url":
                assert part["image_url"].keys() == {"url"}
                found.append((*_decoded(part["image_url"]["url"]),))
            case kind:
                file = part[kind]
                media_type, data = _decoded(file["file_data"])
                found.append((media_type, file["filename"], data))
    return found


def _decoded(url: str) -> tuple[str, bytes]:
    head, _, data = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(data)


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
