"""The tutorial and every how-to page, followed word for word by the real parts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, ROOT, clone, follow

from opencode_tasks.testing import Call, Reply, ScriptedProvider

PAGES = sorted(
    str(page.relative_to(DOCS)) for folder in ("tutorial", "how-to") for page in (DOCS / folder).glob("*.md")
)
# Those that start servers at their usual ports.
ALONE = {page for page in PAGES if "server start" in (DOCS / page).read_text(encoding="utf-8")}
# Those that are followed for each change. The parts of the others have tests.
FREQUENT = {
    "how-to/dashboards.md",
    "how-to/work-on-repositories.md",
}
KEY = "sk-ant-your-key"
# In the how-to pages about quality.
NEGATIVE = re.compile("Positive or negative\\? (Broke|It never|The screen|The battery|Support|It smells)")
DOCSTRING = {
    "filePath": "price.py",
    "oldString": "    return",
    "newString": '    """Return the sum of the prices."""\n    return',
}
# The right expressions of the tutorial about failing tests.
FIXES = {
    "total": ("sum(x) + 1", "sum(x)"),
    "largest": ("min(x)", "max(x)"),
    "mean": ("sum(x) / 2", "sum(x) / len(x)"),
    "shout": ("x.lower()", "x.upper()"),
    "initials": ("''.join(x.split())", "''.join(word[0] for word in x.split())"),
    "mirror": ("x[1:]", "x[::-1]"),
    "is_even": ("x % 2 == 1", "x % 2 == 0"),
    "square": ("x + x", "x * x"),
    "unique": ("list(x)", "sorted(set(x))"),
    "count_words": ("len(x)", "len(x.split())"),
}
PRICED: Mapping[str, Any] = {"cost": {"input": 1, "output": 5}, "limit": {"context": 200_000, "output": 8000}}


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    named = {line.rpartition(": ")[2] for line in menu.splitlines() if line.endswith(".md")}
    assert named == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def agent_of(name: str, wrong: str, right: str) -> list[Reply]:
    """An agent that runs the test and corrects a file. One of them stops too early, and is told so."""
    edit = {"filePath": f"{name}.py", "oldString": f"return {wrong}\n", "newString": f"return {right}\n"}
    bash = {"command": "python -m unittest -q", "description": "Run the test"}
    work = [Reply(tool_calls=[("bash", bash)]), Reply(tool_calls=[("edit", edit)]), Reply(text="Done.")]
    return [Reply(text="I think that it works."), *work] if name == "mean" else work


def is_about(text: str, call: Call) -> bool:
    """Whether a text is in the conversation so far."""
    return text in json.dumps(call.body)


def marks(page: str) -> list[pytest.MarkDecorator]:
    rarity = pytest.mark.slow if page in FREQUENT else pytest.mark.nightly
    return [rarity, pytest.mark.alone] if page in ALONE else [rarity]


@pytest.mark.timeout(500)
@pytest.mark.parametrize("page", [pytest.param(page, marks=marks(page)) for page in PAGES])
def test_a_page_can_be_followed_word_for_word(
    page: str, provider: ScriptedProvider, postgresql_url: str, opencode_binary: Path
) -> None:
    """The reader has a key for the provider, a PostgreSQL, and one machine for the whole cluster."""
    provider.models = dict.fromkeys(("claude-haiku-4-5", "claude-sonnet-4-5", "our-model"), PRICED)

    def is_refused(call: Call) -> bool:
        return call.authorization not in (f"Bearer {KEY}", "Bearer sk-house")

    provider.on(is_refused, Reply(status=401, body={"error": {"message": "invalid x-api-key"}}))
    for prompt, label in (("Works well.", "positive"), ("Broke after a day.", "negative")):
        provider.on(re.compile(f"^{prompt}$"), Reply(text=json.dumps({"label": label})))
    provider.on(NEGATIVE, Reply(text="negative"))
    provider.on("Positive or negative?", Reply(text="positive"))
    provider.on("Add a docstring to total.", Reply(tool_calls=[("edit", DOCSTRING)]), Reply(text="Done."))
    for name, (wrong, right) in FIXES.items():
        provider.on(partial(is_about, f"Correct {name}.py."), *agent_of(name, wrong, right))
    replaced = {
        "https://llm.example.com/v1": provider.base_url,
        "postgresql://annotator@db.example.com/ledger": postgresql_url,
        "head.example.com": "127.0.0.1",
    }
    with clone() as folder:
        config = folder / ".config" / "opencode" / "opencode.json"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps(provider.opencode_config(name="anthropic", api_key=None)))
        env = {
            "ANTHROPIC_API_KEY": KEY,
            "OPENCODE_TASKS_OPENCODE_BIN": str(opencode_binary),
            "XDG_CONFIG_HOME": str(folder / ".config"),
            "XDG_DATA_HOME": str(folder / ".data"),
            "XDG_STATE_HOME": str(folder / ".state"),
        }
        ran = follow(page, folder, replaced, env)
    assert ran.code == 0, ran.stdout[-6000:]
