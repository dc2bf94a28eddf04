"""The scripted provider: its concurrency limit and the examples of its documentation."""

from __future__ import annotations

import doctest
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import httpx
import pytest

from opencode_tasks.testing import Reply, ScriptedProvider, provider, script


def post(scripted: ScriptedProvider, *, stream: bool = False) -> httpx.Response:
    body = {"model": "echo", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{scripted.base_url}/chat/completions", json=body, timeout=10)


def statuses(scripted: ScriptedProvider, count: int, *, stream: bool = False) -> list[int]:
    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(lambda _: post(scripted, stream=stream).status_code, range(count)))


def test_requests_beyond_the_limit_are_refused() -> None:
    with ScriptedProvider() as scripted:
        scripted.on("hello", Reply(delay_s=0.8)).limit_concurrency(2, retry_after_s=1.5)
        assert statuses(scripted, 5) == [200, 200, 429, 429, 429]
        assert statuses(scripted, 2) == [200, 200]
        scripted.limit_concurrency(3)
        assert statuses(scripted, 5) == [200, 200, 200, 429, 429]
        scripted.limit_concurrency(None)
        assert statuses(scripted, 5) == [200] * 5


def test_stream_counts_until_its_end() -> None:
    with ScriptedProvider() as scripted:
        scripted.on("hello", Reply(text="abc", chunks=3, chunk_delay_s=0.15)).limit_concurrency(1)
        assert statuses(scripted, 3, stream=True) == [200, 429, 429]
        assert statuses(scripted, 1, stream=True) == [200]


def test_a_config_is_a_copy() -> None:
    with ScriptedProvider() as provider:
        changed = provider.opencode_config()
        changed["provider"]["fake"]["models"]["echo"]["temperature"] = True
        assert "temperature" not in provider.opencode_config()["provider"]["fake"]["models"]["echo"]


def test_refusal_has_the_configured_retry_after() -> None:
    with ScriptedProvider() as scripted:
        scripted.limit_concurrency(0, retry_after_s=7)
        assert post(scripted).headers["retry-after"] == "7"
        scripted.limit_concurrency(0)
        assert "retry-after" not in post(scripted).headers


@pytest.mark.parametrize("module", [provider, script])
def test_examples_of_the_documentation(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
