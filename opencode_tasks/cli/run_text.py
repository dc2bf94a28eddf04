"""The lines of ``opencode-tasks show RUN_ID``: a run for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opencode_tasks.cli.terminal_text import without_controls
from opencode_tasks.domain.json_values import list_in, mapping_in, text_in
from opencode_tasks.domain.money import format_usd
from opencode_tasks.domain.text import not_begun
from opencode_tasks.engine.driver import driver_text
from opencode_tasks.engine.progress_text import count_of
from opencode_tasks.engine.quality import recorded_quality
from opencode_tasks.engine.result import summary
from opencode_tasks.engine.summary_text import model_lines, summary_lines
from opencode_tasks.ledger import PREPARING, Ledger, Progress, models_in
from opencode_tasks.plan.option_signatures import ANNOTATE
from opencode_tasks.quality.gold import has_extra

TITLE_CHARS = 18
# Shown apart from the other options.
_OWN_LINES = frozenset({"input", "output", "model", "system"})


def run_lines(ledger: Ledger, run: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a run of the ledger, which has its ``drivers`` and ``parts`` too."""
    parameters = mapping_in(run["parameters"])
    command = mapping_in(parameters.get("command"))
    yield _line("run", run["run_id"])
    yield _line("status", _status(run))
    yield _line("started", _time(run["created_at"]))
    if run["ended_at"] is not None:
        yield _line("ended", _time(run["ended_at"]))
    if run["waits_until"] is not None:
        yield _line("waits until", _time(run["waits_until"]))
    if run["pause_reason"]:
        yield _line("pause reason", run["pause_reason"])
    yield from _addresses(run, command)
    yield _line("model", run["model_ref"] or ", ".join(models_in(run["parameters"])) or "-")
    yield _line("opencode", f"{run['opencode_version'] or '-'} ({run['backend'] or '-'})")
    for name in ("deployment", "series"):
        if run[name]:
            yield _line(name, run[name])
    yield from (_line("flow run", one) for one in run["flow_run_ids"])
    budget = ledger.budgets.get(run["run_id"])
    limit = "no limit" if budget.max_cost_pico is None else format_usd(budget.max_cost_pico)
    amounts = f"{format_usd(budget.spent_pico)} spent, {format_usd(budget.reserved_pico)} reserved"
    yield _line("budget", f"{limit}, {amounts}")
    yield from _options(command)
    if (system := text_in(parameters.get("system_text"))) is not None:
        yield _line("system text", system)
    yield from (_line(one["title"], f"{one['run_id']} {one['status']}") for one in run["parts"])
    yield from (
        _line("driver", f"{one['driver_id']} {one['status']}: {driver_text(one)}") for one in run["drivers"]
    )
    yield ""
    if run["status"] == PREPARING:
        yield not_begun(run["run_id"])
        return
    quality = recorded_quality(ledger, run["run_id"]) if has_extra() else []
    totals = summary(
        run["run_id"],
        Progress(**{name: run[name] for name in Progress.__dataclass_fields__}),
        budget,
        started=None,
        quality={one.field: one for one in quality},
    )
    yield from map(without_controls, [*summary_lines(totals), *model_lines(totals)])


def _addresses(run: Mapping[str, Any], command: Mapping[str, Any]) -> Iterator[str]:
    """INPUT and OUTPUT, and what to do if the run ended and its OUTPUT does not exist."""
    for name in ("input", "output"):
        if (address := text_in(command.get(name))) is not None:
            yield _line(name, address)
            if name == "output" and run["status"] in ("completed", "failed") and _is_missing_file(address):
                yield _line("", f"missing; write it with opencode-tasks export {run['run_id']} -o {address}")


def _is_missing_file(address: str) -> bool:
    """Whether an address is that of a file of this machine that does not exist."""
    return Path(address).is_absolute() and not Path(address).exists()


def _status(run: Mapping[str, Any]) -> str:
    return f"{run['status']}, {count_of(run['open'])} open" if run["open"] else run["status"]


def _options(command: Mapping[str, Any]) -> Iterator[str]:
    """The options of the command that are not their defaults."""
    for name, value in command.items():
        option = ANNOTATE.get(name)
        if name in _OWN_LINES or option is None or value is None or option.is_default(value):
            continue
        yield _line(name.replace("_", " "), _text(value))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, list_in(value)))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _line(title: str, text: object) -> str:
    # The lines of a long text are below each other.
    shown = without_controls(str(text)).replace("\n", f"\n{'':{TITLE_CHARS}} ")
    return f"{title:<{TITLE_CHARS}} {shown}"


def _time(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
