from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.domain.diff_lines import shown_diff

DIFF = """diff --git a/a b/a
index 1..2 100644
--- a/a
+++ b/a
@@ -1,3 +1,3 @@
 same
--- removed
+++ added
\\ No newline at end of file
diff --git a/b b/b
new file mode 100644
"""


def test_lines_have_kinds_and_those_in_a_hunk_are_no_headers() -> None:
    found = shown_diff(DIFF, 100)
    kinds = [
        "file",
        "header",
        "header",
        "header",
        "hunk",
        "same",
        "removed",
        "added",
        "same",
        "file",
        "header",
    ]
    assert [line.kind for line in found.lines] == kinds
    assert [line.text for line in found.lines] == DIFF.splitlines()
    assert found.more == 0


@given(st.text(alphabet="ab+-@\n", max_size=60), st.integers(0, 8))
def test_the_shown_lines_and_the_others_are_all_lines(text: str, limit: int) -> None:
    found = shown_diff(text, limit)
    lines = text.split("\n")[:-1] if text.endswith("\n") or not text else text.split("\n")
    assert [line.text for line in found.lines] == lines[:limit]
    assert found.more == max(0, len(lines) - limit)


def test_long_lines_are_cut_and_directions_of_text_are_shown() -> None:
    found = shown_diff("diff --git a/x b/x\n@@ @@\n+" + "x" * 700 + "\n+\u202eabc\u2066", 10)
    assert found.lines[2].text == "+" + "x" * 499 + "… [201 characters cut]"
    assert found.lines[3].text == "+\ufffdabc\ufffd"


@pytest.mark.parametrize("unit", ["+x\n", "+x"])
def test_a_huge_diff_takes_no_time(unit: str) -> None:
    text = "diff --git a/x b/x\n@@ @@\n" + unit * (50_000_000 // len(unit))
    started = time.monotonic()
    found = shown_diff(text, 200)
    assert time.monotonic() - started < 2
    assert found.more == (text.count("\n") - 200 if "\n" in unit else 0)
