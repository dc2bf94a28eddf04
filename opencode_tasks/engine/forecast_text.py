"""Lines and JSON that say what a run would do. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opencode_tasks.engine.estimate_text import estimate_json, estimate_lines
from opencode_tasks.engine.progress_text import count_of
from opencode_tasks.engine.shown_files import file_facts, masked
from opencode_tasks.quality.votes import first_votes

if TYPE_CHECKING:
    from opencode_tasks.domain.sandbox import SandboxSpec
    from opencode_tasks.engine.estimates import Forecast
    from opencode_tasks.plan.plan import Plan


def forecast_lines(plan: Plan, forecast: Forecast) -> list[str]:
    """The system text and the first prompts in full, what happens to the rows, and the estimate."""
    lines = [*_first_lines(plan, forecast)]
    for name, one_plan, one in _models(plan, forecast):
        lines.append(_rows_line(one_plan, one, name))
        lines += [] if one.estimate is None else estimate_lines(one.estimate)
    lines.append(_rows_line(plan, forecast, _answering(plan)))
    if forecast.canaries:
        lines.append(f"canaries: {count_of(forecast.canaries)}, which each run sends anew")
    if forecast.further:
        lines.append(f"votes: up to {len(forecast.further)} more, where the first ones differ")
    pilot = plan.options.pilot
    if pilot is not None and pilot < len({row.position for row in (*forecast.send, *forecast.further)}):
        lines.append(f"pilot: {count_of(pilot)} first")
    if plan.spec.sandbox is not None:
        lines.append(_sandbox_line(plan.spec.sandbox))
    stronger = plan.options.escalate_to
    if stronger is not None:
        lines.append(f"escalation: rows may also go to {stronger}, which no estimate includes")
    if forecast.estimate is not None:
        max_cost = None if stronger is not None else plan.options.max_cost
        lines += estimate_lines(forecast.estimate, max_cost=max_cost)
        if forecast.media_rows and forecast.estimate.source == "text":
            rows = count_of(forecast.media_rows)
            lines.append(f"  the estimate leaves out images and PDF files ({rows}): their tokens are unknown")
    return lines


def _first_lines(plan: Plan, forecast: Forecast) -> Iterator[str]:
    """The system text, and the first prompts with their files."""
    if forecast.first and plan.rows.system.common is not None:
        yield from ("--- system text", plan.rows.system.common)
    for row in forecast.first:
        if row.system is not None:
            # A text of the row alone, such as one with the nearest examples.
            yield from (f"--- system text of row {row.row_id}", row.system)
        yield from (f"--- prompt of row {row.row_id}", row.prompt)
        yield from (f"file {name}: {text}" for name, text in file_facts(row.files))
    if forecast.first:
        yield "---"


def _sandbox_line(sandbox: SandboxSpec) -> str:
    """Network, files and variables in the sandbox of a row."""
    network = "the whole network" if sandbox.network == "all" else ", ".join(sandbox.hosts) or "no host"
    keys = "inside" if sandbox.keys_inside else "outside"
    return f"sandbox: {sandbox.kind} for each row, with {network}; the keys are {keys}"


def _models(plan: Plan, forecast: Forecast) -> Iterator[tuple[str, Plan, Forecast]]:
    """The name, the plan and the forecast of each of several models."""
    yield from zip(plan.options.models, plan.models, forecast.models, strict=True)


def forecast_json(plan: Plan, forecast: Forecast) -> dict[str, Any]:
    """The same as a JSON object."""
    return {
        "dry_run": True,
        "rows": len(plan.rows),
        "bad_rows": forecast.invalid,
        "different_rows": len({row.row_key for row in plan.rows}),
        "send": len(forecast.send),
        "reused": forecast.reused,
        "equal": forecast.equal,
        "further_votes": len(forecast.further),
        "canaries": forecast.canaries,
        "model_ref": plan.catalog.model_ref if plan.catalog and not plan.models else None,
        "opencode": plan.catalog.version if plan.catalog else None,
        "system": plan.rows.system.common,
        "prompts": [row.prompt for row in forecast.first],
        "files": [[masked(file) for file in row.files] for row in forecast.first],
        "rows_with_images_or_pdf": forecast.media_rows,
        "estimate": estimate_json(forecast.estimate),
        "sandbox": None if plan.spec.sandbox is None else plan.spec.sandbox.kind,
        "models": [
            {
                "model": name,
                "send": len(one.send),
                "reused": one.reused,
                "equal": one.equal,
                "estimate": estimate_json(one.estimate),
            }
            for name, _, one in _models(plan, forecast)
        ],
    }


def _answering(plan: Plan) -> str | None:
    """The model that answers, or the number of several; None for an empty input."""
    if plan.models:
        return f"{len(plan.models)} models"
    return plan.catalog.model_ref if plan.catalog else None


def _rows_line(plan: Plan, forecast: Forecast, model: str | None) -> str:
    others = {
        "{} an answer of the ledger": (forecast.reused, "reuses", "reuse"),
        "{} another row of INPUT": (forecast.equal, "equals", "equal"),
        "{} before a prompt is sent": (forecast.invalid, "fails", "fail"),
    }
    parts = [
        f"{count} {text.format(one if count == 1 else many)}"
        for text, (count, one, many) in others.items()
        if count
    ]
    to_model = "" if model is None else f" to {model}"
    votes = plan.options.votes
    of_rows = f"of {count_of(len(plan.rows))}"
    if votes is not None:
        of_rows = f"votes ({first_votes(votes)} on each {of_rows})"
    if plan.models:
        of_rows = f"prompts ({of_rows})"
    return ", ".join([f"{len(forecast.send)} {of_rows} would be sent{to_model}", *parts])
