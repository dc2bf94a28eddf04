"""Files that are attached to the prompt of a row: plain values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

MediaType = Literal["text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"]
FileKind = Literal["text", "image", "pdf"]
KINDS: Mapping[MediaType, FileKind] = {
    "text/plain": "text",
    "image/png": "image",
    "image/jpeg": "image",
    "image/gif": "image",
    "image/webp": "image",
    "application/pdf": "pdf",
}
# More tokens than a model counts for one image. gpt-4o-mini counts the most: 2,833 for each image and 5,667
# for each of its up to 8 tiles (https://platform.openai.com/docs/guides/images-vision).
IMAGE_TOKENS = 50_000
# Characters around a text: its name, and the words with which opencode begins it.
_FRAME_BYTES = 200

FileIdentity = tuple[str, MediaType, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """The content of a file: the SHA-256 of its bytes in hexadecimal, their number, and their type."""

    sha256: str
    size_bytes: int
    media_type: MediaType

    @property
    def kind(self) -> FileKind:
        """The kind of input that a model must accept."""
        return KINDS[self.media_type]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedFile:
    """A file of a row, checked before the row is sent. ``address`` is an absolute path or an fsspec URL."""

    address: str
    name: str
    media_type: MediaType
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, address: str, name: str, content: FileContent) -> Self:
        """The file with this content at an address."""
        return cls(
            address=address,
            name=name,
            media_type=content.media_type,
            size_bytes=content.size_bytes,
            sha256=content.sha256,
        )

    @property
    def kind(self) -> FileKind:
        """The kind of input that a model must accept."""
        return KINDS[self.media_type]

    @property
    def content(self) -> FileContent:
        """The content."""
        return FileContent(sha256=self.sha256, size_bytes=self.size_bytes, media_type=self.media_type)

    @property
    def identity(self) -> FileIdentity:
        """The parts of the file that reach the model. The name of an image does not."""
        return self.sha256, self.media_type, None if self.kind == "image" else self.name

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The file of a JSON object."""
        return cls(**value)


def most_tokens(files: Iterable[AttachedFile]) -> int:
    """The most input tokens of files: a token of text has at least one byte."""
    found = 0
    for file in files:
        # UTF-16 grows by at most one half in UTF-8.
        found += 0 if file.kind == "image" else file.size_bytes * 3 // 2 + _FRAME_BYTES
        found += 0 if file.kind == "text" else IMAGE_TOKENS
    return found
