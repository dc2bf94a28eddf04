"""Options of commands, made from their declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import typer

from opencode_tasks.plan.option_signatures import OPTIONS, Option

F = TypeVar("F", bound=Callable[..., Any])


def declared(name: str, *, help_text: str | None = None, is_grouped: bool = False) -> Any:
    """The typer option of a declared option; ``help_text`` replaces its description.

    ``is_grouped`` puts it under the heading of its group in the help, for a command with many options.
    """
    option = OPTIONS[name]
    text = help_text or option.description
    return typer.Option(
        option.flag,
        metavar=option.info.metavar,
        help=f"{text} Repeatable." if option.is_list else text,
        # The description has it.
        show_default=False,
        rich_help_panel=option.info.group if is_grouped else None,
    )


def takes(options: Iterable[Option]) -> Callable[[F], F]:
    """Give a command function ``(input, output, **values)`` these declared options.

    A list is a list of texts, empty if the option is absent. A value that Python takes as an object or a
    path is the name of a file here.
    """
    return _with_parameters([argument("input"), _output(), *(_parameter(option) for option in options)])


def takes_input(options: Iterable[Option], own: Mapping[str, tuple[Any, Any]]) -> Callable[[F], F]:
    """Give a command function ``(input, **values)`` declared options, and own ones with their defaults."""
    parameters = [
        inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)
        for name, (annotation, default) in own.items()
    ]
    return _with_parameters([argument("input"), *parameters, *(_parameter(option) for option in options)])


def _with_parameters(parameters: Sequence[inspect.Parameter]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        vars(function)["__signature__"] = inspect.Signature(parameters, return_annotation=int)
        return function

    return decorate


def argument(name: str) -> inspect.Parameter:
    """The positional parameter of a declared option."""
    option = OPTIONS[name]
    argument = typer.Argument(metavar=option.info.metavar, help=option.description)
    return inspect.Parameter(name, _KEYWORD, annotation=Annotated[str, argument])


def _output() -> inspect.Parameter:
    option = OPTIONS["output"]
    output = typer.Option(
        "-o",
        "--output",
        metavar=option.info.metavar,
        help=option.description,
        rich_help_panel=option.info.group,
    )
    return inspect.Parameter("output", _KEYWORD, annotation=Annotated[str, output])


def _parameter(option: Option) -> inspect.Parameter:
    default: Any = [] if option.is_list else option.info.default
    annotation = Annotated[_cli_type(option), declared(option.name, is_grouped=True)]
    return inspect.Parameter(option.name, _KEYWORD, default=default, annotation=annotation)


def _cli_type(option: Option) -> Any:
    """The type of the option's value on the command line."""
    if option.choices:
        return Literal[option.choices]
    if option.is_list:
        return list[str]
    number = next((kind for kind in (bool, float, int) if option.accepts(kind)), None)
    if number is None or option.accepts(str):
        return str if option.info.default is not None else str | None
    return number if option.info.default is not None else number | None


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
