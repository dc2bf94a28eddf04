"""The commands that install the extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from opencode_tasks.domain.extras import PACKAGES, install_hint

DECLARED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = DECLARED["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", sorted(PACKAGES))
def test_the_command_installs_what_the_extra_has(extra: str) -> None:
    names = [re.split("[<>=]", one)[0] for one in EXTRAS[extra]]
    assert [name.strip("'") for name in PACKAGES[extra]] == names
    hint = install_hint(extra)
    assert hint.startswith("pip install ")
    # The package itself may not be on an index.
    assert "opencode-tasks[" not in hint
    assert repr(extra) in hint
