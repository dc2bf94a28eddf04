"""The declared options as a table: defaults, choices, checks of types, and signatures made from them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from opencode_tasks.domain.text import none_of
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.plan.option_declarations import (
    AnnotateOptions,
    CommandOptions,
    DatasetOptions,
    OptionInfo,
    TableOptions,
)

F = TypeVar("F", bound=Callable[..., Any])
SHOWN_CHARS = 80
_TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    Sequence: "a list of texts",
    Mapping: "a JSON object",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One declared option. ``type`` is the type of its value in Python."""

    name: str
    type: Any
    info: OptionInfo

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return self.info.flag or f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a closed vocabulary; empty for any other type."""
        return tuple(
            choice for arm in _arms(self.type) if get_origin(arm) is Literal for choice in get_args(arm)
        )

    @property
    def is_list(self) -> bool:
        """Whether the option is given once for each of its values."""
        return self.info.is_repeatable or (self.accepts(Sequence) and not self.accepts(str))

    def accepts(self, kind: type) -> bool:
        """Whether ``kind`` is one of the types of the option."""
        return any((get_origin(arm) or arm) is kind for arm in _arms(self.type))

    @property
    def default_text(self) -> str:
        """Description of the default; empty for a flag, a list and a required option."""
        default = self.info.default
        if default is None:
            return self.info.absent
        if default is ... or isinstance(default, bool | tuple):
            return ""
        return f"{default:g}" if isinstance(default, float) else str(default)

    @property
    def description(self) -> str:
        """The help with the default."""
        return f"{self.info.help} Default: {text}." if (text := self.default_text) else self.info.help

    def is_default(self, value: Any) -> bool:
        """Whether a value is the default; an empty list is that of every list."""
        return value == self.info.default or (self.is_list and not value)

    def value_in(self, values: Mapping[str, Any]) -> Any:
        """The option's value; its default if it is absent, or None although its type excludes None."""
        value = values.get(self.name, self.info.default)
        return self.info.default if value is None and NoneType not in _arms(self.type) else value

    def fault(self, value: Any) -> str | None:
        """Why ``value`` is not allowed, in one line; None if it is allowed."""
        if any(_fits(value, arm) for arm in _arms(self.type)):
            return None
        shown = "the value" if self.info.is_secret else repr(value)[:SHOWN_CHARS]
        if self.accepts(float) and isinstance(value, float):
            return f"{self.flag}: {shown} is not a finite number"
        if self.choices and isinstance(value, str):
            return f"{self.flag}: {none_of(value, self.choices)}"
        names = dict.fromkeys(_TYPE_NAMES.get(get_origin(arm) or arm, "") for arm in _arms(self.type))
        wanted = " or ".join(filter(None, names)) or f"one of {', '.join(self.choices)}"
        return f"{self.flag}: {shown} is not {wanted}"


def options_of(*keywords: type) -> dict[str, Option]:
    """The options that typed dictionaries declare, by name and in their order."""
    found: dict[str, Option] = {}
    for keyword in keywords:
        for name, hint in get_type_hints(keyword, include_extras=True).items():
            # A key that is required or not is wrapped in Required or NotRequired.
            annotated = hint if get_origin(hint) is Annotated else get_args(hint)[0]
            kind, info = get_args(annotated)
            found[name] = Option(name, kind, info)
    return found


ANNOTATE = options_of(AnnotateOptions)
TABLES = options_of(TableOptions)
DATASET = options_of(DatasetOptions)
COMMAND = options_of(CommandOptions)
OPTIONS = {**TABLES, **DATASET, **ANNOTATE, **COMMAND}


def with_defaults(values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """All ``options`` with their values; an absent one, or a None that its type excludes, has its default.

    Raises TypeError for a name that is none of them, as a call with a mistyped keyword does.
    """
    for name in values:
        if name not in options:
            near = get_close_matches(name, options, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"there is no option {name!r}{hint}")
    return {name: option.value_in(values) for name, option in options.items()}


def value_faults(values: Mapping[str, Any]) -> list[str]:
    """One line for each value whose type is wrong or that is not among the choices of its option."""
    faults = (OPTIONS[name].fault(value) for name, value in values.items() if name in OPTIONS)
    return [fault for fault in faults if fault is not None]


def storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that Prefect may store: no option that can hold a secret, and no secret in a URL."""
    return {
        name: without_url_secrets(value) if isinstance(value, str) else value
        for name, value in values.items()
        if not OPTIONS[name].info.is_secret
    }


def with_parameters(function: F) -> F:
    """Give a flow function ``(input, output, **options)`` the declared parameters and their descriptions.

    Prefect makes the form of its pages from the signature and from the section ``Args`` of the docstring.
    """
    options = {**TABLES, **DATASET}
    lines = [f"    {option.name}: {option.description}" for option in options.values()]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
    vars(function)["__signature__"] = inspect.Signature(
        [_parameter(option) for option in options.values()],
        return_annotation=get_type_hints(function)["return"],
    )
    return function


def _parameter(option: Option) -> inspect.Parameter:
    # Files are named by text in a form; a Path is a convenience of Python.
    arms = [arm for arm in _arms(option.type) if arm is not Path]
    kind = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD
        if option.info.default is ...
        else inspect.Parameter.KEYWORD_ONLY
    )
    default = inspect.Parameter.empty if option.info.default is ... else option.info.default
    return inspect.Parameter(option.name, kind, default=default, annotation=_union(arms))


def _arms(kind: Any) -> tuple[Any, ...]:
    """The parts of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _union(arms: Iterable[Any]) -> Any:
    return Union[tuple(arms)]  # noqa: UP007  the parts are values here


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has one type: True is no number, and a whole number is a number."""
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(
            isinstance(item, str) for item in cast("list[Any]", value)
        )
    if isinstance(value, bool) and kind is not bool:
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, origin or kind)
