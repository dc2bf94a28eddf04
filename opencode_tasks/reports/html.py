"""Templates of HTML pages. All content is escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from opencode_tasks.domain.money import format_usd


def html_environment(package: str) -> Environment:
    """The templates in the folder ``templates`` of a package, with the filters ``usd`` and ``count``."""
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"usd": format_usd, "count": _format_count}
    return environment


def _format_count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
