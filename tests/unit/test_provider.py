"""The scripted provider's bound on how many requests it answers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from opencode_tasks.testing import Reply, ScriptedProvider


def ask(provider: ScriptedProvider, *, stream: bool = False) -> httpx.Response:
    body = {"model": "echo", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{provider.base_url}/chat/completions", json=body, timeout=10)


def statuses(provider: ScriptedProvider, count: int, *, stream: bool = False) -> list[int]:
    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(lambda _: ask(provider, stream=stream).status_code, range(count)))


def test_what_is_beyond_the_allowance_is_refused() -> None:
    with ScriptedProvider() as provider:
        provider.on("hello", Reply(delay_s=0.3)).allow(2, retry_after=1.5)
        assert statuses(provider, 5) == [200, 200, 429, 429, 429]
        assert statuses(provider, 2) == [200, 200]
        provider.allow(3)
        assert statuses(provider, 5) == [200, 200, 200, 429, 429]
        provider.allow(None)
        assert statuses(provider, 5) == [200] * 5


def test_a_stream_takes_its_place_until_its_end() -> None:
    with ScriptedProvider() as provider:
        provider.on("hello", Reply(text="abc", chunks=3, chunk_delay_s=0.15)).allow(1)
        assert statuses(provider, 3, stream=True) == [200, 429, 429]
        assert statuses(provider, 1, stream=True) == [200]


def test_a_refusal_names_the_moment_where_it_is_told_to() -> None:
    with ScriptedProvider() as provider:
        provider.allow(0, retry_after=7)
        assert ask(provider).headers["retry-after"] == "7"
        provider.allow(0)
        assert "retry-after" not in ask(provider).headers
