"""How much memory is here, a container's limit included, and what follows for servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from opencode_tasks.opencode.server_rotation import (
    MAX_MEMORY_BYTES,
    MB,
    MIN_MEMORY_BYTES,
    limits_in_force,
)
from opencode_tasks.settings import settings
from opencode_tasks.system import ray_node
from opencode_tasks.system.ray_node import memory_available_bytes, memory_limit_bytes

LIMIT, USED = 3_000_000_000, 1_000_000_000


@pytest.fixture(autouse=True)
def _settings_read_anew() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ray_node, "CGROUPS", tmp_path)
    (tmp_path / "memory").mkdir()
    return tmp_path


def test_without_a_limit_it_is_the_machines(cgroups: Path) -> None:
    assert memory_limit_bytes() == psutil.virtual_memory().total
    (cgroups / "memory.max").write_text("max\n")
    (cgroups / "memory.current").write_text(f"{USED}\n")
    assert memory_limit_bytes() == psutil.virtual_memory().total
    assert memory_available_bytes() > 0


@pytest.mark.parametrize("names", ray_node.LIMIT_AND_USAGE)
def test_a_containers_limit_counts(cgroups: Path, names: tuple[str, str]) -> None:
    for name, value in zip(names, (LIMIT, USED), strict=True):
        (cgroups / name).write_text(f"{value}\n")
    assert memory_limit_bytes() == min(LIMIT, psutil.virtual_memory().total)
    assert memory_available_bytes() <= LIMIT - USED


def test_a_container_above_its_limit_has_nothing_left(cgroups: Path) -> None:
    (cgroups / "memory.max").write_text(f"{USED}\n")
    (cgroups / "memory.current").write_text(f"{LIMIT}\n")
    assert memory_available_bytes() == 0


def test_a_servers_memory_is_capped_by_the_machines(cgroups: Path) -> None:
    assert MIN_MEMORY_BYTES <= limits_in_force().memory_bytes <= MAX_MEMORY_BYTES
    (cgroups / "memory.max").write_text(f"{USED}\n")
    assert limits_in_force().memory_bytes == MIN_MEMORY_BYTES


def test_the_settings_limit_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_TASKS_SERVER_ROWS", "7")
    monkeypatch.setenv("OPENCODE_TASKS_SERVER_MEMORY", "812.5")
    limits = limits_in_force()
    assert (limits.rows, limits.memory_bytes) == (7, int(812.5 * MB))
