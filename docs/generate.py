"""Write the generated parts of the documentation: ``python docs/generate.py`` (``--check`` only compares)."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opencode_tasks import errors
from opencode_tasks.ledger.views import MEANINGS, VIEWS
from opencode_tasks.policy import Fail, Limits, Pause, Retry, Skip, decide

DOCS = Path(__file__).parent
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end -->\n"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

GUESSED = errors.RateLimitError("n", NOW + timedelta(seconds=60))
GUESSED.reset_is_named = False
EXAMPLES: list[tuple[str, errors.OpenCodeError]] = [
    ("a reset time in 20 s", errors.RateLimitError("n", NOW + timedelta(seconds=20))),
    ("a reset time that has passed", errors.RateLimitError("n", NOW)),
    ("no reset time", GUESSED),
    ("", errors.AuthenticationError("n")),
    ("", errors.BillingError("n")),
    ("Retry-After: 7", errors.ServerError("n", retry_after=7)),
    ("no header", errors.ServerError("n")),
    ("", errors.OpenCodeTimeoutError("n")),
    ("", errors.UnknownOpenCodeError("n")),
    ("", errors.MaxOutputTokensError("n")),
    ("", errors.InvalidRequestError("n")),
    ("", errors.ContentFilteredError("n")),
    ("", errors.PermissionDeniedError("n")),
    ("", errors.StructuredOutputError("n")),
    ("", errors.BudgetExceededError("n")),
    ("", errors.SetupError("n")),
]


def shown(error: errors.OpenCodeError, attempt: int) -> str:
    """The decision after an attempt, in words."""
    match decide(error, attempt, NOW, Limits()):
        case Retry(at=at):
            wait_s = (at - NOW).total_seconds()
            return f"again after {wait_s:g} s" if wait_s else "again at once"
        case Pause():
            return "pause for a person"
        case Fail():
            return "fail"
        case Skip():
            return "skip"


def decision_table() -> str:
    """What ``policy.decide`` says after the first, second and third attempt that ends so."""
    lines = ["| exception | with | 1st | 2nd | 3rd |", "|---|---|---|---|---|"]
    for note, error in EXAMPLES:
        cells = [shown(error, attempt) for attempt in (1, 2, 3)]
        lines.append(" | ".join([f"| `{type(error).__name__}`", note, *cells]) + " |")
    return "\n".join(lines) + "\n"


def views() -> str:
    """Each view of the ledger, and what its columns mean."""
    parts: list[str] = []
    for view in VIEWS:
        rows = "\n".join(f"| `{name}` | {MEANINGS[name]} |" for name in view.columns)
        parts.append(
            f"## `{view.name}`\n\nA line is {view.line}.\n\n| column | meaning |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


PARTS = {
    ("explanation/retry-and-pause.md", "decisions"): decision_table,
    ("reference/ledger.md", "views"): views,
}


def filled(text: str, name: str, part: str) -> str:
    """The page with the part between its marks."""
    before, _, rest = text.partition(BEGIN.format(name))
    _, _, after = rest.partition(END)
    return before + BEGIN.format(name) + part + END + after


def main() -> int:
    """Write, or with ``--check`` compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    check = parser.parse_args().check
    stale: list[str] = []
    for (page, name), part in PARTS.items():
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        new = filled(text, name, part())
        if new != text:
            stale.append(page)
            if not check:
                path.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'out of date: run python docs/generate.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
