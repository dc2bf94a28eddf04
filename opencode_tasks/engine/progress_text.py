"""Lines that describe a run while it runs: its start, progress and holds. Pure.

The terminal and the log of a Prefect flow run show the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.outcomes.message_cleanup import presentable

if TYPE_CHECKING:
    # SQLAlchemy and Prefect behind these take seconds to load.
    from opencode_tasks.domain.hold import Hold
    from opencode_tasks.engine.run import RunEvent
    from opencode_tasks.ledger import ConcurrencyState
    from opencode_tasks.ledger import Progress as Counts
    from opencode_tasks.opencode.catalog import Catalog
    from opencode_tasks.plan.options import Options
    from opencode_tasks.plan.plan import Plan

# A duration below the first is shown in seconds, below the second in minutes.
SHOWN_IN_SECONDS_S = 90
SHOWN_IN_MINUTES_S = 5400
# Message of a hold that has no message of a provider.
NO_MESSAGE = ("", "rows wait")
OTHER_RUN = "another run has these rows"
# Retries of single rows are shorter and need no line.
SHOWN_HOLD_S = 2.0


class RunLines:
    """Lines for the events of one run. Keeps what they depend on: the pace and the current hold.

    ``at_s`` is a time in seconds on any clock that does not go back, the same one in all calls.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._completed_before = 0
        self._is_found = False
        self._part: str | None = None
        self._hold_key: tuple[str, str] | None = None

    def start(self, event: RunEvent, at_s: float) -> list[str]:
        """Lines for an event with ``sizes``: the run starts, or resumes after a hold."""
        sizes, counts = event.sizes, event.progress
        assert sizes is not None
        is_resumed = self._since_s is not None and event.part == self._part
        self._part = event.part
        self._since_s, self._is_found = at_s, sizes.is_found
        self._completed_before = counts.completed if counts is not None else 0
        if is_resumed:
            return self._end_hold(sizes.rows)
        return start_lines(event)

    def hold(self, hold: Hold, now: datetime) -> str | None:
        """Line for a hold that begins; None while it lasts, and for a short one."""
        key = (hold.error_type, hold.message)
        is_long = hold.until is None or (hold.until - now).total_seconds() >= SHOWN_HOLD_S
        if key == self._hold_key or not is_long:
            return None
        self._hold_key = key
        return hold_line(hold)

    def resumed(self, counts: Counts) -> list[str]:
        """Line for the end of a hold that had a line; no line without one, or if no row is open."""
        return self._end_hold(counts.open)

    def progress(self, event: RunEvent, at_s: float) -> str:
        """Line for an event with ``progress``: rows, pace, cost and rows in flight."""
        counts, pace = event.progress, event.pace
        assert counts is not None
        seconds = at_s - (at_s if self._since_s is None else self._since_s)
        in_flight = pace.in_flight if pace is not None else 0
        line = progress_line(counts, counts.completed - self._completed_before, seconds, in_flight)
        if pace is not None and counts.open:
            line = f"{line}, {pace_text(pace, is_found=self._is_found)}"
        return line

    def _end_hold(self, open_rows: int) -> list[str]:
        had_line, self._hold_key = self._hold_key is not None, None
        return [f"resumed: {count_of(open_rows)} left"] if had_line and open_rows else []


def start_lines(event: RunEvent) -> list[str]:
    """The run and its sizes, and the rows that have an outcome before it starts."""
    sizes, counts = event.sizes, event.progress
    assert sizes is not None
    at_a_time = f"{sizes.concurrency} at a time"
    if sizes.is_found:
        at_a_time = f"up to {at_a_time}, a number found by trial"
    batches = f" in batches of up to {sizes.batch_size}" if sizes.batch_size < sizes.rows else ""
    name = f"run {event.run_id}" if event.part is None else f"run {event.run_id}, {event.part}"
    lines = [f"{name}: {count_of(sizes.rows)}{batches}, {at_a_time}"]
    if event.reused_rows:
        have = "has" if event.reused_rows == 1 else "have"
        lines.append(
            f"{count_of(event.reused_rows)} {have} an answer from an earlier run (--refresh sends them "
            "again, except those that a person answered)"
        )
    if counts is not None and counts.completed > event.reused_rows:
        ended = counts.total - counts.open - event.reused_rows
        lines.append(f"{ended} of {counts.total} rows ended before: this run continues")
    whole = event.whole
    if whole is not None and (whole.open < whole.total or whole.known_cost_pico):
        decided = f"{whole.total - whole.open}/{whole.total} rows decided, {whole.failed} failed"
        lines.append(f"whole run so far: {decided}, {format_usd(whole.known_cost_pico)}")
    return lines


def plan_lines(plan: Plan) -> list[str]:
    """The opencode and the models that answer; none for an empty input."""
    catalog = plan.catalog
    if catalog is None:
        return []
    missing = (
        ""
        if catalog.plugin_loaded
        else "; its plugin did not load, so waits are read from opencode's own messages"
    )
    models = plan.options.models
    named = f"models {', '.join(models)}" if models else f"model {catalog.model_ref}"
    catalogs = [one.catalog for one in plan.models or (plan,) if one.catalog is not None]
    unpriced = dict.fromkeys(one.model_ref for one in catalogs if one.model_ref in one.unpriced)
    chosen = f"no model is named: opencode chose {catalog.model_ref}, whose provider gets the rows (--model)"
    return [
        f"opencode {catalog.version}, {named}{missing}",
        *(() if catalog.is_named else (chosen,)),
        *(f"the price of {ref} is unknown: cost_usd is empty" for ref in unpriced),
        *_missing_keys(catalogs if plan.stronger is None else [*catalogs, plan.stronger.catalog]),
    ]


def _missing_keys(catalogs: Sequence[Catalog | None]) -> list[str]:
    """A warning for each provider without credentials."""
    missing = {
        one.model_ref.partition("/")[0]: one.missing_key for one in catalogs if one and one.missing_key
    }
    return [
        f"warning: no credentials found for {provider} (set {' or '.join(variables)}, or run: opencode auth "
        "login); the first request would be refused"
        for provider, variables in missing.items()
    ]


def limits_line(options: Options) -> str | None:
    """The limits that the user set; None without any."""
    limits = {
        "{} for the run": _usd(options.max_cost),
        "{} for each row": _usd(options.max_row_cost),
        "{:,} requests per minute": options.requests_per_minute,
        "{:,} tokens per minute": options.tokens_per_minute,
    }
    shown = [text.format(limit) for text, limit in limits.items() if limit is not None]
    return f"limits: {', '.join(shown)}" if shown else None


def _usd(amount: float | None) -> str | None:
    return None if amount is None else format_usd(usd_to_pico(amount))


def progress_line(counts: Counts, completed_now: int, seconds: float, in_flight: int) -> str:
    """Rows ended and failed, pace, time left and cost so far.

    ``completed_now`` rows were completed in these ``seconds``; failed rows are no pace.
    """
    parts = [f"{counts.total - counts.open}/{counts.total} rows", f"{counts.failed} failed"]
    if completed_now > 0 and seconds > 0:
        rate = completed_now / seconds
        parts.append(f"{rate:.1f} rows/s" if rate >= 1 else f"{rate * 60:.1f} rows/min")
        # The first rows of those that started together say little about the end of the others.
        if counts.open and completed_now >= in_flight:
            parts.append(f"about {duration(counts.open / rate)} left")
    cost = format_usd(counts.known_cost_pico)
    is_unknown = counts.cost_pico is None and not counts.open
    parts.append(f"{cost} (and an unknown part)" if is_unknown else f"{cost} so far" if counts.open else cost)
    if counts.projected_cost_pico is not None:
        parts.append(f"about {format_usd(counts.projected_cost_pico)} in total")
    return ", ".join(parts)


def pace_text(pace: ConcurrencyState, *, is_found: bool) -> str:
    """Rows in flight, and what is known about the limit of the provider."""
    rows = f"{count_of(pace.in_flight)} in flight"
    if pace.ceiling is None:
        return f"{rows} (finding the limit)" if is_found else rows
    if pace.limit > pace.ceiling:
        return f"{rows} (trying {pace.limit}; the provider accepted {pace.ceiling})"
    return f"{rows} (the provider accepts {pace.ceiling})"


def hold_line(hold: Hold) -> str:
    """Why rows wait, until when, and the message of the provider."""
    rows = f"{count_of(hold.open_rows)} wait{'s' if hold.open_rows == 1 else ''}"
    until = f"; next attempt at {hold.until:%Y-%m-%d %H:%M:%S} UTC" if hold.until else " for a person"
    message = "" if hold.message in NO_MESSAGE else f": {presentable(hold.message)}"
    return f"{rows}{until} ({hold.error_type or OTHER_RUN}){message}"


def countdown(hold: Hold, now: datetime) -> str:
    """The wait in a few words, for a line that is written again every second."""
    left = "" if hold.until is None else f" for {duration(max(0.0, (hold.until - now).total_seconds()))}"
    rows = count_of(hold.open_rows)
    reason = hold.error_type.replace("_", " ") or OTHER_RUN
    return f"{rows} on hold{left}: {reason} (Ctrl-C keeps the finished rows)"


def count_of(rows: int) -> str:
    """A number of rows as text."""
    return "1 row" if rows == 1 else f"{rows} rows"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < SHOWN_IN_SECONDS_S:
        return f"{seconds:.0f} s"
    if seconds < SHOWN_IN_MINUTES_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
