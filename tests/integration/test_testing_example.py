"""The example in the documentation of ``opencode_tasks.testing``, with the real opencode."""

from __future__ import annotations

import doctest

import pytest

from opencode_tasks import testing
from opencode_tasks.opencode.server_pool import server_pool


@pytest.mark.slow
@pytest.mark.usefixtures("opencode_binary")
def test_example() -> None:
    try:
        results = doctest.testmod(testing)
    finally:
        server_pool.close()
    assert results.attempted > 0
    assert results.failed == 0
