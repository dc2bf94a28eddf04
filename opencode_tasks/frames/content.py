"""Content of INPUT files: bytes and text from any URL, decompressed while they are read."""

# fsspec and pyarrow have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa

from opencode_tasks.errors import InputError

MAX_ERROR_LENGTH = 200
# A longer line, or row of a CSV file, is a fault of that row.
MAX_LINE_CHARS = 64 * 1024 * 1024
HEAD_BYTES = 64 * 1024
COMPRESSIONS = (".gz", ".zst")
UTF_8 = "utf-8"
_PAGE = re.compile(r"\s*<(?:(?P<xml>\?xml)|!doctype|html)\b", re.IGNORECASE)
PAGE_ADVICE = "a login or error page may have been saved instead of the table: download it again"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(slots=True, kw_only=True)
class InputFile:
    """A file to read, the options for it, and what its reader reports.

    Attributes:
        name: Path or fsspec URL, for messages.
        limit: Maximum number of rows; None for all.
        encoding: Encoding of a text file without a byte order mark; None for UTF-8.
        delimiter: Character between the cells of a CSV file; None if it is to be detected.
        keeps_bad_rows: Whether a row that cannot be read is a fault of this row alone.
        row_faults: Faults of single rows, by position.
        notes: Lines for the user.
    """

    name: str
    limit: int | None = None
    encoding: str | None = None
    delimiter: str | None = None
    keeps_bad_rows: bool = False
    row_faults: dict[int, str] = field(default_factory=dict[int, str])
    notes: list[str] = field(default_factory=list[str])

    def bad_row(self, position: int, fault: str) -> None:
        """Report a row that cannot be read. Raises InputError unless bad rows are kept."""
        if not self.keeps_bad_rows:
            raise InputError((f"INPUT {self.name}, {fault}",))
        self.row_faults[position] = fault

    @contextmanager
    def open_bytes(self, *, may_be_empty: bool = False) -> Generator[Any]:
        """Open the file, decompressed if its suffix says so.

        Raises InputError if there is no such file, if it cannot be read, or if it is empty unless it may be.
        """
        with (
            self._open_stored() as stored,
            io.BufferedReader(_Decompressed(stored, self.name), HEAD_BYTES) as file,
        ):
            if not may_be_empty and not file.peek(1):
                raise InputError((f"INPUT {self.name}: the file is empty",))
            yield file

    @contextmanager
    def _open_stored(self) -> Generator[Any]:
        try:
            file: Any = fsspec.open(self.name, "rb")
            opened: Any = file.open()
        except FileNotFoundError as error:
            raise InputError((f"INPUT {self.name}: no such file",)) from error
        except ImportError as error:
            raise InputError((f"INPUT {self.name}: {_missing_package(self.name, error)}",)) from error
        # The errors depend on the driver of the URL: credentials, network, protocols.
        except Exception as error:
            raise _unreadable(self.name, error) from error
        with opened:
            yield opened

    @contextmanager
    def open_text(self, newline: str = "\n", *, may_be_empty: bool = False) -> Generator[io.TextIOWrapper]:
        r"""Open a text file. Lines end with ``newline``; "" means with ``\n``, ``\r`` or both.

        A byte order mark decides the encoding. Raises InputError as ``open_bytes`` does, for a web page or
        an XML file, and with the number of the first line that is not in the encoding.
        """
        encoding = self.encoding or UTF_8
        try:
            with self.open_bytes(may_be_empty=may_be_empty) as file:
                head: bytes = file.peek(HEAD_BYTES)
                encoding = _encoding_of(head) or encoding
                if (kind := _page_kind(head.decode(encoding, "ignore"))) is not None:
                    raise InputError((f"INPUT {self.name}: {kind}, and not a table; {PAGE_ADVICE}",))
                yield io.TextIOWrapper(file, encoding=encoding, newline=newline)
        except UnicodeDecodeError as error:
            where = f"INPUT {self.name}" + self._first_undecodable_line(encoding)
            advice = "name its encoding with --encoding, such as cp1252, or save the file as UTF-8"
            label = "UTF-8" if encoding.startswith(UTF_8) else encoding
            raise InputError((f"{where}: not {label}; {advice}",)) from error

    def read_head(self, file: io.TextIOWrapper) -> str:
        """Return the text at the beginning of an open file, without its last, incomplete line."""
        head: bytes = file.buffer.peek(HEAD_BYTES)  # pyright: ignore[reportAttributeAccessIssue]
        text = head.decode(file.encoding, "ignore")
        return text if len(head) < HEAD_BYTES else text[: text.rfind("\n") + 1] or text

    def _first_undecodable_line(self, encoding: str) -> str:
        if encoding.startswith(("utf-16", "utf-32")):
            return ""
        with self.open_bytes() as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError:
                    return f", line {number}"
        return ""


class _Decompressed(io.RawIOBase):
    """The bytes of an open file, decompressed if the suffix of its name says so."""

    def __init__(self, stored: Any, name: str) -> None:
        super().__init__()
        self._name = name
        compression = compression_of(name)
        self._file: Any = stored
        if compression == ".gz":
            self._file = gzip.GzipFile(fileobj=stored, mode="rb")
        elif compression == ".zst":
            self._file = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read at most as many bytes as the buffer has; 0 at the end."""
        try:
            data = self._file.read(len(buffer))
        # The errors depend on the driver of the URL and on the compression.
        except Exception as error:
            raise _unreadable(self._name, error) from error
        buffer[: len(data)] = data
        return len(data)


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError((f"INPUT {name}: cannot be read: {one_line(error)}",))


def compression_of(path_or_url: str | os.PathLike[str]) -> str | None:
    """Return the suffix of a compressed file, such as ``.gz``; None for other files."""
    name = file_name(path_or_url)
    return next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), None)


def file_name(path_or_url: str | os.PathLike[str]) -> str:
    """The name in lower case, without the parameters of a web address, such as a signature.

    In a chain of URLs, such as ``zip://in.csv::in.zip``, it is that of the first one with a path.
    """
    parts = os.fspath(path_or_url).lower().split("::")
    name = next((part for part in parts if "://" in part), parts[-1])
    return name.partition("#")[0].partition("?")[0] if name.startswith(("http://", "https://")) else name


def is_encoding(name: str) -> bool:
    """Return whether Python can read a text file in the encoding."""
    try:
        encoder = codecs.getincrementalencoder(name)()
        content = encoder.encode("a,b\n") + encoder.encode("c", final=True)
        return content.decode(name, "ignore") == "a,b\nc"
    # Python has codecs from text to text, from bytes to bytes, and for names of hosts.
    except (LookupError, ValueError, TypeError, AttributeError):
        return False


def one_line(error: BaseException) -> str:
    """Return the message of an error as one short line, and its class if it has no message."""
    return " ".join(str(error).split())[:MAX_ERROR_LENGTH] or type(error).__name__


def _encoding_of(head: bytes) -> str | None:
    """Return the encoding of a text by its byte order mark, or by the zeros of UTF-16; None if unknown."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None or len(head) < 4 or b"\0" not in head[:4]:  # noqa: PLR2004  two characters of UTF-16
        return marked
    zeros = [byte == 0 for byte in head[:4]]
    return {(False, True) * 2: "utf-16-le", (True, False) * 2: "utf-16-be"}.get(tuple(zeros))


def _page_kind(text: str) -> str | None:
    """Return what a text is that begins as a web page or an XML file; None for other texts."""
    found = _PAGE.match(text.lstrip("\ufeff"))
    return None if found is None else "an XML file" if found["xml"] else "a web page"


def _missing_package(name: str, error: ImportError) -> str:
    if name.startswith("hf://"):
        return "hf:// needs the package huggingface_hub: pip install huggingface_hub"
    return f"cannot be read: {one_line(error)}"
