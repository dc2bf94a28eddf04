"""Table of the backends: its names, and the backend that each row makes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args

import pytest

from opencode_tasks import OpenCodeLLM
from opencode_tasks.opencode.backend import BACKEND_SUMMARIES, Backend, BackendName, OpencodeSpec
from opencode_tasks.opencode.backend_table import BACKENDS
from opencode_tasks.opencode.server_rotation import limits_in_force
from opencode_tasks.opencode.server_set import ServerSet

NAMES: tuple[BackendName, ...] = get_args(BackendName)


def test_every_name_has_a_row_and_a_summary() -> None:
    assert tuple(BACKENDS) == tuple(BACKEND_SUMMARIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_makes_the_backend_of_its_name(name: BackendName, tmp_path: Path) -> None:
    spec = OpencodeSpec(binary=tmp_path / "opencode")

    async def make() -> Backend:
        made = BACKENDS[name].create(spec, frozenset(), ServerSet(spec, limits_in_force()))
        await made.aclose()
        return made

    assert asyncio.run(make()).name == name


def test_the_class_takes_every_backend_that_runs_opencode() -> None:
    for name in NAMES:
        if BACKENDS[name].catalog is None:
            assert OpenCodeLLM(backend=name).backend == name
        else:
            with pytest.raises(ValueError, match=f"backend is 'server' or 'cli', not '{name}'"):
                OpenCodeLLM(backend=name)
