"""The stream of events as the client of a server takes it apart, from a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from opencode_tasks.opencode.client import Client, NoAnswerError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
LIMIT_S = 20.0


def events_of(pieces: Sequence[bytes], head: bytes) -> tuple[list[str], str]:
    """The events in the pieces that a server sends one by one, and the end of their stream."""
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            # So that each piece arrives separately.
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        served.set()

    async def read() -> tuple[list[str], str]:
        found: list[str] = []
        words = ""
        async with asyncio.timeout(LIMIT_S), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = Client(f"http://127.0.0.1:{port}", "secret", "/")
            try:
                async for data in client.events():
                    found.append(data)  # noqa: PERF401  those before a break are kept
            except NoAnswerError as error:
                words = str(error)
            finally:
                await client.aclose()
            await served.wait()
        return found, words

    return asyncio.run(read())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_however_their_bytes_are_cut(size: int) -> None:
    text = 'data: {"a": "é"}\n\n: a comment\nid: 4\ndata:{"b":1}\n\n: ping\n\ndata: [1,\ndata: 2]\n\n'
    sent = text.encode()
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    assert events_of(pieces, HEAD) == (['{"a": "é"}', '{"b":1}', "[1,\n2]"], "")


def test_an_event_of_megabytes_is_one() -> None:
    text = "x" * 3_000_000
    found, _ = events_of([f"data: {text}\n".encode(), b"\ndata: y\n\n"], HEAD)
    assert [len(found[0]), *found[1:]] == [len(text), "y"]


def test_a_stream_that_breaks_off_says_so_and_half_an_event_is_none() -> None:
    found, words = events_of([b"data: 1\n\nda"], HEAD + b"content-length: 1000\r\n")
    assert found == ["1"]
    assert words


def test_a_refused_stream_says_so() -> None:
    found, words = events_of([b""], b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n")
    assert (found, words) == ([], "opencode answered HTTP 503 for /event")
