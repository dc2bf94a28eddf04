"""The examples in the docstrings of public names, run as they stand with the real opencode."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from docstrings import PAGES, examples_of, failures_of, names_on

from opencode_tasks.testing import Reply, ScriptedProvider

# The model that examples name, and what it answers to their prompts; other prompts are echoed.
MODEL, PROVIDER = "claude-haiku-4-5", "anthropic"
PRICED: Mapping[str, Any] = {"cost": {"input": 1, "output": 5}, "limit": {"context": 200_000, "output": 8000}}
ANSWERS = {"Is 7 a prime number?": "yes", "Works well.": "positive", "Broke after a day.": "negative"}


@pytest.mark.parametrize(
    "page",
    # The page of the functions takes half a minute.
    [pytest.param(page, marks=pytest.mark.nightly if page == "python-api.md" else ()) for page in PAGES],
)
def test_the_examples_of_a_page_run_as_they_stand(
    page: str,
    monkeypatch: pytest.MonkeyPatch,
    provider: ScriptedProvider,
    opencode_binary: Path,
    prefect_server: str,
    tmp_path: Path,
) -> None:
    """The reader has a key for the provider, a Prefect server and an empty folder."""
    assert opencode_binary.is_file()
    assert prefect_server == os.environ["PREFECT_API_URL"]
    provider.models = {MODEL: PRICED}
    for prompt, text in ANSWERS.items():
        provider.on(prompt, Reply(text=text))
    config = tmp_path / "config" / "opencode" / "opencode.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(provider.opencode_config(name=PROVIDER)))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    examples = [example for name in names_on(page) for example in examples_of(name)]
    assert failures_of(examples) == ""
