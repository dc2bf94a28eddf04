"""The declaration of the options, and everything that is derived from it or held to it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest
import typer
from prefect.utilities.callables import parameter_schema
from typer.main import get_command

from opencode_tasks import OpenCodeAgent, annotate, opencode_task
from opencode_tasks.cli.app import with_commands
from opencode_tasks.domain.url_secrets import without_url_secrets
from opencode_tasks.errors import InputError
from opencode_tasks.frames.io import read_input
from opencode_tasks.opencode.backend import BackendName, Clocks
from opencode_tasks.orchestration.block_resolver import resolve_options
from opencode_tasks.orchestration.flows import annotate_dataset
from opencode_tasks.plan.command import command_of
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.option_declarations import AnnotateOptions, DatasetOptions
from opencode_tasks.plan.option_faults import option_faults
from opencode_tasks.plan.option_signatures import (
    ANNOTATE,
    COMMAND,
    DATASET,
    OPTIONS,
    TABLES,
    storable,
    value_faults,
    with_defaults,
)
from opencode_tasks.plan.options import (
    Options,
    make_options,
    make_spec,
    read_opencode_config,
    read_schema,
    with_file_texts,
)
from opencode_tasks.plan.own_prices import own_prices
from opencode_tasks.settings import settings

# Options that are read before ``Options`` is made have their content there, not their file name.
READ = {
    "model": str | None,
    "schema": Mapping[str, Any] | None,
    "opencode_config": Mapping[str, Any],
}
# Fields of ``Options`` that no option sets by its name.
SECONDS = "is not a number of seconds above 0 and up to 315,360,000"
MADE = ("series", "output_type", "models", "table_folder")


def test_the_options_of_a_run_have_the_declared_names_types_and_defaults() -> None:
    hints = get_type_hints(Options)
    declared = {field.name: field for field in fields(Options) if field.name not in MADE}
    assert declared.keys() == ANNOTATE.keys()
    for name, option in ANNOTATE.items():
        assert hints[name] == READ.get(name, option.type), name
        default = declared[name].default
        assert (None if default is MISSING else default) == option.info.default, name


def test_annotate_takes_the_declared_keywords() -> None:
    parameters = inspect.signature(annotate).parameters
    assert [*parameters] == ["frame", "output_type", "on_event", "options"]
    assert get_args(get_type_hints(annotate)["options"]) == (AnnotateOptions,)
    with pytest.raises(TypeError, match="did you mean 'model'"):
        make_options({"modell": "a/b"})


def test_one_prompt_as_a_task_has_the_same_names_and_types() -> None:
    hints = get_type_hints(opencode_task.fn)
    parameters = inspect.signature(opencode_task.fn).parameters
    shared = {name for name in parameters if name in ANNOTATE}
    assert parameters.keys() - shared == {"prompt", "tools", "output_type"}
    for name in shared:
        assert hints[name] == READ.get(name, ANNOTATE[name].type) or name == "opencode_config", name
        assert parameters[name].default == ANNOTATE[name].info.default, name


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"prompt": 5}, "prompt: 5 is not text"),
        ({"prompt": ""}, "prompt: the prompt is empty"),
        ({"model": ["a/b", "c/d"]}, "--model: ['a/b', 'c/d'] is not text; one model answers a single prompt"),
        ({"model": 5}, "--model: 5 is not text or a list of texts"),
        ({"timeout": float("nan")}, "--timeout: nan is not a finite number"),
        ({"timeout": -1}, f"--timeout: -1 {SECONDS}"),
        ({"max_repairs": -1}, "--max-repairs: -1 is below 0"),
        ({"backend": "shell"}, "--backend: 'shell' is none of server, cli, null"),
        ({"tools": "weather"}, "tools: 'weather' is not a list of remote MCP servers (RemoteTool)"),
    ],
)
def test_a_wrong_argument_of_a_single_prompt_is_one_line(arguments: dict[str, Any], fault: str) -> None:
    given: dict[str, Any] = {"prompt": "Hello", "opencode_bin": "/none", **arguments}
    with pytest.raises(InputError) as refused:
        opencode_task.fn(**given)
    assert refused.value.faults == (fault,)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"model": 5}, "--model: 5 is not text or a list of texts"),
        ({"no_wait": "false"}, "--no-wait: 'false' is not true or false"),
    ],
)
def test_a_wrong_parameter_of_the_flow_is_one_line(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as refused:
        annotate_dataset.fn("in.csv", "out.csv", **options)
    assert refused.value.faults == (fault,)


def test_an_agent_block_has_the_same_names_types_and_descriptions() -> None:
    own = {name: field for name, field in OpenCodeAgent.model_fields.items() if not name.startswith("_")}
    # The block defines MCP servers, holds credentials, which options name, and has one model; "schema" is a
    # method of blocks.
    assert own.keys() - ANNOTATE.keys() == {"mcp_servers", "answer_schema"}
    for name in own.keys() & ANNOTATE.keys() - {"credentials", "opencode_config", "agent", "model"}:
        assert own[name].annotation in (ANNOTATE[name].type, ANNOTATE[name].type | None), name
        assert own[name].default is None, name
        assert own[name].description == ANNOTATE[name].description, name


def test_the_flow_has_a_parameter_for_each_option_with_its_choices_and_description() -> None:
    properties = parameter_schema(annotate_dataset.fn).properties
    assert properties.keys() == TABLES.keys() | DATASET.keys()
    for name, option in {**TABLES, **DATASET}.items():
        assert properties[name]["description"] == option.description
        forms = properties[name].get("anyOf", [properties[name]])
        choices = [form["enum"] for form in forms if "enum" in form]
        assert choices == ([list(option.choices)] if option.choices else []), name
        if option.info.default is not ...:
            default = option.info.default
            assert properties[name]["default"] == (list(default) if default == () else default), name


def test_the_command_has_every_option_and_none_twice() -> None:
    group: Any = get_command(with_commands())
    parameters = {one.name: one for one in group.commands["annotate"].params}
    assert parameters.keys() - {"help"} == {*TABLES, *DATASET, *COMMAND}
    for name, option in {**DATASET, **COMMAND}.items():
        assert option.flag in parameters[name].opts, name
        assert parameters[name].rich_help_panel == option.info.group, name
        assert parameters[name].help.startswith(option.description), name


def test_every_command_shows_an_example() -> None:
    group: Any = get_command(with_commands())
    for name, command in group.commands.items():
        text = command.get_help(typer.Context(command, info_name=f"opencode-tasks {name}"))
        assert f"    opencode-tasks {name}" in text, name


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_a_help_is_plain_sentences_with_the_default(option: Any) -> None:
    assert option.info.help[0].isupper() or option.info.help.startswith("opencode ")
    assert option.info.help.endswith((".", "…."))
    has_default = option.info.default is not ... and not isinstance(option.info.default, bool | tuple)
    assert ("Default: " in option.description) == has_default


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ({"runner": "rays"}, ["--runner: 'rays' is none of ray, threads; did you mean 'ray'?"]),
        ({"on_budget": "stop"}, ["--on-budget: 'stop' is none of pause, skip"]),
        ({"backend": 3}, [f"--backend: 3 is not one of {', '.join(get_args(BackendName))}"]),
        ({"label": "team"}, ["--label: 'team' is not a list of texts"]),
        ({"mcp_server": ["a", 1]}, ["--mcp-server: ['a', 1] is not a list of texts"]),
        ({"concurrency": "8"}, ["--concurrency: '8' is not a whole number"]),
        ({"concurrency": True}, ["--concurrency: True is not a whole number"]),
        ({"max_cost": "much"}, ["--max-cost: 'much' is not a number"]),
        ({"timeout": float("inf")}, ["--timeout: inf is not a finite number"]),
        ({"max_cost": float("nan")}, ["--max-cost: nan is not a finite number"]),
        ({"refresh": 1}, ["--refresh: 1 is not true or false"]),
        ({"schema": 7}, ["--schema: 7 is not text or a JSON object"]),
        ({"opencode_config": ["sk-1"]}, ["--opencode-config: the value is not text or a JSON object"]),
        ({"timeout": 5, "work_dir": Path("x"), "label": ("a",), "max_failed": "5%", "runner": None}, []),
    ],
)
def test_a_wrong_value_is_one_line(values: dict[str, Any], faults: list[str]) -> None:
    assert value_faults(values) == faults


def test_an_absent_value_has_its_default_and_none_too_if_it_is_no_value() -> None:
    values = with_defaults({"label": None, "runner": None, "limit": 3}, DATASET)
    assert (values["label"], values["runner"], values["limit"], values["bad_rows"]) == ((), None, 3, "stop")


def test_all_files_that_cannot_be_read_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        make_options({"schema": "none.json", "opencode_config": "none.json", "bad_rows": "skip"})
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "--bad-rows",
        "--schema",
        "--opencode-config",
    ]


def test_the_byte_order_mark_of_an_editor_is_no_part_of_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(text: str) -> str:
        (tmp_path / "file.jsonl").write_bytes(f"\ufeff{text}".encode())
        return str(tmp_path / "file.jsonl")

    template = written("{prompt}\r\n")
    assert with_file_texts({"template": f"@{template}"})["template"] == "{prompt}\r\n"
    assert read_schema(written('{"type": "string"}')) == {"type": "string"}
    assert read_opencode_config(written('{"share": "disabled"} // comment')) == {"share": "disabled"}
    monkeypatch.setenv("OPENCODE_TASKS_PRICES", written("{}"))
    settings.cache_clear()
    assert own_prices()[1] == []
    monkeypatch.undo()
    settings.cache_clear()
    assert len(read_input(written('{"prompt": "a"}\n'))) == 1


def test_prefect_stores_no_value_that_can_hold_a_secret() -> None:
    secrets = {name for name, option in OPTIONS.items() if option.info.is_secret}
    assert secrets == {"opencode_config", "ledger", "database"}
    values = dict.fromkeys(OPTIONS, "postgresql://me:hunter2@host/db")
    stored = storable(values)
    assert stored.keys() == OPTIONS.keys() - secrets
    assert set(stored.values()) == {"postgresql://me:***@host/db"}


def test_the_saved_command_has_what_resume_needs_and_absolute_paths() -> None:
    values = dict.fromkeys(OPTIONS, "x")
    saved = command_of(values)
    not_saved = {
        "ledger",
        "database",
        "refresh",
        "on_wait",
        "no_wait",
        "dry_run",
        "as_json",
        "verbose",
        "yes",
    }
    assert saved.keys() == OPTIONS.keys() - not_saved
    paths = {name for name, value in saved.items() if Path(value).is_absolute()}
    assert paths == {
        *("input", "output", "schema", "examples", "opencode_config", "opencode_bin", "work_dir", "log_dir"),
        "canary",
        "artifacts",
    }
    assert command_of({"input": "s3://b/in.csv", "database": "block://secret/db"}) == {
        "input": "s3://b/in.csv",
        "database": "block://secret/db",
    }


# Another value of each option. A model needs a provider and a config needs opencode: other tests have these.
OTHERS: dict[str, Any] = {
    "prompt_column": "other",
    "template": "say {prompt}",
    "system": "Be brief.",
    "system_column": "other",
    "schema": {"type": "object", "properties": {"answer": {"type": "string"}}},
    "choices": ["positive", "negative"],
    "variant": "high",
    "agent": "another",
    "mcp_server": ["files"],
    "allow_tool": ["bash"],
    "deny_tool": ["bash"],
    "work_dir": "/",
    "sandbox": "none",
    "network": "all",
    "allow_host": ["gateway.example"],
    "keys_in_sandbox": True,
    "sandbox_read": ["/"],
    "sandbox_env": ["LANG"],
    "id_column": "id",
    "label": ["id"],
    "gold": ["id"],
    "bad_rows": "fail",
    "column_prefix": "ai_",
    "log_dir": "/",
    "batch_size": 5,
    "concurrency": 2,
    "refresh": True,
    "timeout": 5.0,
    "first_event_timeout": 4.0,
    "stall_timeout": 3.0,
    "tool_timeout": 2.0,
    "max_attempts": 1,
    "max_repairs": 3,
    "requests_per_minute": 9,
    "tokens_per_minute": 9,
    "on_budget": "skip",
    "pilot": 1,
    "on_wait": "raise",
}
UNTRIED = {
    *("model", "opencode_config", "opencode_bin", "credentials", "ledger", "backend"),
    # The votes on a row have the keys of its answers; the row itself has a key of its own.
    *("max_cost", "max_row_cost", "examples", "votes"),
    *("escalate_to", "escalate_below", "confidence", "canary"),
    # The content of the files is in the key, and not the name of their column.
    "file",
    # No backend without opencode makes workspaces.
    *(name for name, option in ANNOTATE.items() if option.info.group == "Workspace"),
}


def row_keys(ledger: Path, binary: Path, **options: Any) -> list[str]:
    """The keys of the rows under these options, with the backend that needs no model."""
    frame = pd.DataFrame({"id": ["a"], "prompt": ["hello"], "other": ["bye"]})
    fixed = {"backend": "null", "ledger": str(ledger), "opencode_bin": str(binary)}
    return [row.row_key for row in make_plan(frame, resolve_options(make_options(fixed | options))).rows]


def test_an_option_changes_the_key_of_a_row_if_it_is_declared_to_decide_the_answer(
    tmp_path: Path, opencode_binary: Path
) -> None:
    assert OTHERS.keys() | UNTRIED == ANNOTATE.keys()
    usual = row_keys(tmp_path / "ledger.db", opencode_binary)
    changed = {
        name
        for name, value in OTHERS.items()
        if row_keys(tmp_path / "ledger.db", opencode_binary, **{name: value}) != usual
    }
    assert changed == {name for name in OTHERS if ANNOTATE[name].info.decides_answer}


def test_an_empty_list_is_no_value_of_an_option(tmp_path: Path, opencode_binary: Path) -> None:
    ledger, lists = tmp_path / "ledger.db", [name for name, option in ANNOTATE.items() if option.is_list]
    assert "artifact" in lists
    usual = row_keys(ledger, opencode_binary)
    assert row_keys(ledger, opencode_binary, **{name: [] for name in lists}) == usual


@pytest.mark.parametrize(
    ("options", "clocks"),
    [
        ({}, Clocks(first_event_s=600, stall_s=90, tool_s=600, total_s=600)),
        ({"timeout": 900.0}, Clocks(first_event_s=900, stall_s=90, tool_s=900, total_s=900)),
        ({"timeout": 60.0}, Clocks(first_event_s=60, stall_s=60, tool_s=60, total_s=60)),
        (
            {"first_event_timeout": 20.0, "stall_timeout": 500.0, "tool_timeout": 30.0},
            Clocks(first_event_s=20, stall_s=500, tool_s=30, total_s=600),
        ),
    ],
)
def test_an_option_precedes_its_setting_and_the_timeout_is_the_default(
    options: dict[str, float], clocks: Clocks, opencode_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_TASKS_STALL_TIMEOUT", "90")
    settings.cache_clear()
    try:
        made = make_options({"opencode_bin": str(opencode_binary), **options})
        assert make_spec(made).clocks == clocks
    finally:
        settings.cache_clear()


@pytest.mark.parametrize(
    ("model", "variant", "found"),
    [
        (None, None, (None, None, ())),
        ([], None, (None, None, ())),
        ("a/x", "high", ("a/x", "high", ())),
        (["a/x"], None, ("a/x", None, ())),
        ("a/x#high", None, ("a/x", "high", ())),
        ("a/x#high", "high", ("a/x", "high", ())),
        (["a/x#high", "b/y"], None, ("a/x", "high", ("a/x#high", "b/y"))),
    ],
)
def test_a_model_has_its_variant_in_its_name(model: Any, variant: str | None, found: Any) -> None:
    options = make_options({"model": model, "variant": variant})
    assert (options.model, options.variant, options.models) == found
    assert options.has_parts == (len(options.models) > 1)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"model": ["a/x", "b/y", "a/x"]},
            "--model: a/x is given twice; for several answers of one model use --votes",
        ),
        (
            {"model": ["a/x", "b/y"], "votes": 3},
            "--votes: not with several models, each of which answers a row once; leave it out",
        ),
        (
            {"model": ["a/x", "b/y"], "variant": "high"},
            "--variant: with several models, write it after each name: --model a/x#high",
        ),
        (
            {"model": "a/x#low", "variant": "high"},
            "--variant: --model a/x#low names another one; give one of them",
        ),
        ({"model": ["a/x", 3]}, "--model: ['a/x', 3] is not text or a list of texts"),
    ],
)
def test_models_that_contradict_other_options_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as caught:
        make_options(options)
    assert fault in caught.value.faults


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"timeout": 0.0}, [f"--timeout: 0 {SECONDS}"]),
        ({"timeout": 4e8}, [f"--timeout: 4e+08 {SECONDS}"]),
        ({"stall_timeout": -1.0}, [f"--stall-timeout: -1 {SECONDS}"]),
        ({"tool_timeout": 0.0}, [f"--tool-timeout: 0 {SECONDS}"]),
        (
            {"timeout": 60.0, "first_event_timeout": 90.0},
            ["--first-event-timeout: 90 is longer than the whole attempt; set --timeout to at least 90"],
        ),
    ],
)
def test_a_time_limit_that_cannot_be_kept_is_refused(options: dict[str, float], faults: list[str]) -> None:
    assert option_faults(make_options({"backend": "null", **options})) == faults


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        (
            {"allow_tool": ["edit"], "deny_tool": ["write"]},
            ["--allow-tool and --deny-tool: both name edit; remove one of them"],
        ),
        (
            {"allow_tool": ["edit"], "agent": "worker"},
            ["--allow-tool: the agent 'worker' has the tools of its entry in the config; name them there"],
        ),
        ({"deny_tool": [" "]}, ["--deny-tool: the name of a tool is empty"]),
        ({"deny_tool": ["bash"], "agent": "worker"}, []),
    ],
)
def test_tools_that_no_agent_can_have_are_refused(options: dict[str, Any], faults: list[str]) -> None:
    assert option_faults(make_options({"backend": "null", **options})) == faults


def test_the_keywords_of_the_flow_and_of_annotate_differ_where_they_must() -> None:
    shared: Sequence[str] = sorted(get_type_hints(AnnotateOptions).keys() & get_type_hints(DatasetOptions))
    assert ANNOTATE.keys() - set(shared) == {"on_wait"}
    assert "no_wait" in DATASET.keys() - set(shared)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        (
            "https://h/a.csv?X-Amz-Date=1&X-Amz-Signature=secret",
            "https://h/a.csv?X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("https://h/a.csv?sv=1&sig=secret%3D&se=2", "https://h/a.csv?sv=1&sig=***&se=2"),
        ("https://h/a.csv?token=secret", "https://h/a.csv?token=***"),
        ("INPUT (https://h/a.csv?sig=se:cret): gone", "INPUT (https://h/a.csv?sig=***): gone"),
        ("https://secret@host/a.csv", "https://***@host/a.csv"),
        ("INPUT https://me:se@cret@h/a.csv: gone", "INPUT https://me:***@h/a.csv: gone"),
        ("sftp://me@host/a.csv", "sftp://me@host/a.csv"),
        ("rows.csv", "rows.csv"),
    ],
)
def test_a_shown_url_has_no_secret(url: str, shown: str) -> None:
    assert without_url_secrets(url) == shown
