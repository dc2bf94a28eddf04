"""Run a command in a terminal and draw the final screen as SVG."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS, LINES = 100, 60
CHUNK_BYTES = 65536
# The terminal emulator's name for what rich calls yellow.
RENAMED = {"brown": "yellow", "brightbrown": "bright_yellow"}
HEX = re.compile(r"[0-9a-f]{6}")
# Rich's SVG loads this font from another host.
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
FONT_FAMILY = "Fira Code, monospace"


def record(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> bytes:
    """Everything that a command writes to its terminal; raises RuntimeError with it if the command fails."""
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    named = {**env, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=named,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
    finally:
        os.close(terminal)
    output = b"".join(read_all(control))
    if process.wait():
        raise RuntimeError(f"{command} ended with {process.returncode}: {output.decode(errors='replace')}")
    return output


def read_all(control: int) -> Iterator[bytes]:
    """The output of all programs of a terminal, until the last of them ends."""
    try:
        while chunk := os.read(control, CHUNK_BYTES):
            yield chunk
    except OSError:
        # How Linux reports that no program has the terminal open any more.
        return
    finally:
        os.close(control)


def screen_lines(output: bytes) -> list[Text]:
    """The lines of the screen at the end, with their colours, without the empty ones at its bottom."""
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(screen).feed(output)
    lines = [screen_line([screen.buffer[row][column] for column in range(COLUMNS)]) for row in range(LINES)]
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def screen_line(characters: Sequence[Char]) -> Text:
    """A line of the screen as a rich text."""
    line = Text()
    for style, group in groupby(characters, key=style_of):
        line.append("".join(character.data for character in group), style)
    line.rstrip()
    return line


def style_of(character: Char) -> Style:
    """The rich style of a character on the screen."""
    return Style(
        color=color_of(character.fg),
        bgcolor=color_of(character.bg),
        bold=character.bold,
        italic=character.italics,
        underline=character.underscore,
    )


def color_of(name: str) -> str | None:
    """Rich's name of a terminal color; None for the default."""
    if name == "default":
        return None
    if HEX.fullmatch(name):
        return f"#{name}"
    return RENAMED.get(name, name.replace("bright", "bright_"))


def draw(lines: Sequence[Text], title: str) -> str:
    """A window with these lines, as SVG that loads nothing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for line in lines:
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title=title, unique_id="terminal")
    return FONT_FACES.sub("", svg).replace(FONT_FAMILY, "monospace")
