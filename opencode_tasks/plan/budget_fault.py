"""Check of the cost limits before anything is sent: does any row fit into them?"""

from __future__ import annotations

from opencode_tasks.domain.attached_file import most_tokens
from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.money import format_usd, usd_to_pico
from opencode_tasks.opencode.catalog import Catalog
from opencode_tasks.plan.options import Options
from opencode_tasks.plan.plan import price_in
from opencode_tasks.plan.planned_rows import PlannedRows
from opencode_tasks.plan.run_spec import attempt_cost_limit_pico


def budget_fault(rows: PlannedRows, options: Options, catalog: Catalog, prices: PriceBook) -> str | None:
    """Reason why the cost limits do not allow any row to be sent; None if they do."""
    if options.max_cost is None and options.max_row_cost is None:
        return None
    name = "--max-cost" if options.max_row_cost is None else "--max-row-cost"
    price = price_in(catalog, prices)
    provider, model = catalog.model_ref.split("/", 1)
    if price is None:
        entry = f'"provider": {{"{provider}": {{"models": {{"{model}": {{"cost": …}}}}}}}}'
        return (
            f"{name}: no price is known for {catalog.model_ref}, so the cost limit cannot be enforced; "
            f"add the price to the opencode config, in USD per million tokens: {entry}"
        )
    if options.max_cost is None or not rows:
        return None
    calls = 1 if options.schema is None else 1 + options.max_repairs
    smallest_pico = min(
        attempt_cost_limit_pico(
            price,
            row.prompt,
            row.system or rows.system.common,
            calls=calls,
            file_tokens=most_tokens(row.files),
        )
        for row in rows
    )
    if smallest_pico <= usd_to_pico(options.max_cost):
        return None
    return (
        f"--max-cost: {options.max_cost:g} is too small for any row of {catalog.model_ref}: each may cost "
        f"up to {format_usd(smallest_pico)} or more, with {price.max_output_tokens:,} output tokens; "
        f"raise it, or lower the model's limit.output in the opencode config"
    )
