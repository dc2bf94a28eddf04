"""Content of a file: its type, size and digest, from its bytes."""

from __future__ import annotations

import codecs
import hashlib
import mimetypes
from collections.abc import Callable
from typing import IO, Any

from opencode_tasks.attachments.address import shown
from opencode_tasks.attachments.fault import ContentFaultError
from opencode_tasks.domain.attached_file import KINDS, FileContent, MediaType

CHUNK_BYTES = 1 << 20
SUPPORTED = "PNG, JPEG, GIF or WebP image, PDF, or text in UTF-8 or in UTF-16 with a byte order mark"
_HEAD_BYTES = 16
_MAGIC: tuple[tuple[bytes, MediaType], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# An SVG image is text.
_TEXT_IMAGES = ("image/svg+xml",)


def read_content(
    file: IO[bytes], name: str, *, max_bytes: int, write: Callable[[bytes], Any] | None = None
) -> FileContent:
    """Read a file to its end, a piece at a time, and return its type, size and digest.

    ``name`` is its address, for messages. ``write`` gets what is sent: the bytes, or a text in UTF-8 without
    a byte order mark. Raises ContentFaultError if the file is empty, has more than ``max_bytes`` bytes, is of
    another type, or is text although its name is that of an image or a PDF file.
    """
    digest, size = hashlib.sha256(), 0
    text: codecs.IncrementalDecoder | None = None
    media_type: MediaType | None = None
    while chunk := file.read(CHUNK_BYTES):
        is_first = not size
        size += len(chunk)
        if size > max_bytes:
            setting = "OPENCODE_TASKS_MAX_FILE_BYTES"
            raise ContentFaultError(f"the file {shown(name)} has more than {max_bytes:,} bytes ({setting})")
        digest.update(chunk)
        if is_first:
            # A driver may return few bytes at first.
            while len(chunk) < _HEAD_BYTES and (more := file.read(CHUNK_BYTES)):
                size += len(more)
                digest.update(more)
                chunk += more
            media_type, text = _begin(chunk)
        if text is not None:
            chunk = _decoded(text, chunk, name)
        if write is not None:
            write(chunk)
    if media_type is None:
        raise ContentFaultError(f"the file {shown(name)} is empty")
    if text is not None:
        rest = _decoded(text, b"", name, is_end=True)
        if write is not None:
            write(rest)
    _check_name(name, media_type)
    return FileContent(sha256=digest.hexdigest(), size_bytes=size, media_type=media_type)


def _begin(head: bytes) -> tuple[MediaType, codecs.IncrementalDecoder | None]:
    """What a file is by its first bytes, and the decoder of a text."""
    for magic, media_type in _MAGIC:
        if head.startswith(magic):
            return media_type, None
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp", None
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    return "text/plain", codecs.getincrementaldecoder(encoding)()


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, name: str, *, is_end: bool = False) -> bytes:
    try:
        text = decoder.decode(chunk, is_end)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ContentFaultError(f"the file {shown(name)} is no {SUPPORTED}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ContentFaultError(f"the file {shown(name)} contains half of a character") from None


def _check_name(name: str, media_type: MediaType) -> None:
    """Refuse a text in place of an image or a PDF file, such as the error page of a web server."""
    named, _ = mimetypes.guess_type(name)
    if named is None or named in _TEXT_IMAGES or KINDS[media_type] != "text":
        return
    if named.startswith("image/") or named == "application/pdf":
        raise ContentFaultError(f"the file {shown(name)} is text, and no {named} as its name says")
