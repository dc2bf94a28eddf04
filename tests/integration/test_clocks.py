"""The time limits of an attempt, as options of a run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from opencode_tasks import annotate
from opencode_tasks.settings import MAX_SECONDS
from opencode_tasks.testing import Reply, ScriptedProvider


@pytest.mark.nightly
def test_each_clock_is_an_option(opencode_binary: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["silent", "stops"], "prompt": ["a silent one", "one that stops"]})
    with (
        ScriptedProvider()
        .on("silent", Reply(hang=True))
        .on("stops", Reply(text="one two", chunks=2, chunk_delay_s=60)) as provider
    ):
        found = annotate(
            frame,
            id_column="id",
            model="fake/echo",
            opencode_config=provider.opencode_config(),
            opencode_bin=str(opencode_binary),
            ledger=str(tmp_path / "ledger.db"),
            timeout=60,
            first_event_timeout=6,
            stall_timeout=3,
            max_attempts=1,
        ).frame.set_index("id")
    assert found["error_type"].to_dict() == {"silent": "timeout", "stops": "timeout"}
    assert found["error_message"].to_dict() == {
        "silent": "the provider sent nothing within 6 s (--first-event-timeout 6)",
        "stops": "the provider stopped sending for 3 s (--stall-timeout 3)",
    }


@pytest.mark.nightly
def test_the_longest_time_limit_is_none_that_ends_at_once(opencode_binary: Path, tmp_path: Path) -> None:
    with ScriptedProvider().on("slow", Reply(text="one two", chunks=2, chunk_delay_s=2)) as provider:
        found = annotate(
            pd.DataFrame({"prompt": ["a slow one"]}),
            model="fake/echo",
            opencode_config=provider.opencode_config(),
            opencode_bin=str(opencode_binary),
            ledger=str(tmp_path / "ledger.db"),
            timeout=MAX_SECONDS,
        ).frame
        assert (found.loc[0, "response"], len(provider.calls)) == ("one two", 1)
