from __future__ import annotations

import pytest

from opencode_tasks.system.startup_times import Part, StartupTiming, process_start_time, timing_summary


def test_the_parts_are_told_by_name_in_the_order_of_their_ends() -> None:
    parts = [Part("loading", 0, 1.5), Part("Ray", 1, 4), Part("loading", 4, 4.5), Part("worker", 4.5, 4.51)]
    assert timing_summary(parts, 0, 10) == "first row after 10.0 s: loading 2.0, Ray 3.0"


def test_parts_that_overlap_are_told_as_such() -> None:
    parts = [Part("Prefect", 0, 6), Part("Ray", 0, 5)]
    assert timing_summary(parts, 0, 8).endswith("Prefect 6.0, Ray 5.0 (some at the same time)")


def test_what_fails_is_no_part() -> None:
    kept = StartupTiming()
    with pytest.raises(ValueError, match="broken"), kept.part("Ray"):
        raise ValueError("broken")
    with kept.part("Prefect"):
        pass
    (part,) = kept.parts
    assert part.name == "Prefect"
    assert process_start_time() < part.start <= part.end
