"""Declaration of every option: name, type, default, help, group, and whether it decides the answer.

A key of the typed dictionaries below is an option. ``plan.option_signatures`` derives from it the command
``annotate``, the parameters of the flow ``annotate_dataset``, the saved command and the values that
Prefect may store. Tests hold ``Options``, ``opencode_task`` and the block ``OpenCodeAgent`` to it.

This module imports nothing heavy: ``--help`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from opencode_tasks.domain.sandbox import Network, SandboxKind
from opencode_tasks.domain.work import KeepWorkspaces
from opencode_tasks.opencode.backend import BACKEND_SUMMARIES, BackendName

RunnerName = Literal["ray", "threads"]
BadRows = Literal["stop", "fail"]
OnWait = Literal["wait", "sleep", "raise"]
OnBudget = Literal["pause", "skip"]
Group = Literal[
    "Input",
    "Prompt",
    "Model and agent",
    "Workspace",
    "Sandbox",
    "Output",
    "Execution",
    "Limits and budget",
    "Quality",
]


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """The parts of an option's declaration beside its name and type.

    ``default`` is the value of an absent option; ``absent`` describes a default of None.
    ``flag`` is the spelling on the command line if it is not the name with dashes. ``is_repeatable``: on the
    command line it is given once for each value, also if one text is a value in Python. ``decides_answer``:
    another value gives another answer, so the option is part of ``row_key``.

    ``is_secret``: the value can hold a password or a key, so Prefect does not store it. ``is_path``: a
    text is the name of a local file, and the ledger saves its absolute path. ``is_saved``: the ledger
    saves the value, and ``resume`` uses it again.
    """

    group: Group
    help: str
    default: Any = None
    absent: str = ""
    metavar: str | None = None
    flag: str | None = None
    is_repeatable: bool = False
    decides_answer: bool = False
    is_secret: bool = False
    is_path: bool = False
    is_saved: bool = True


_INPUT = partial(OptionInfo, "Input")
_PROMPT = partial(OptionInfo, "Prompt", decides_answer=True)
_MODEL = partial(OptionInfo, "Model and agent", decides_answer=True)
_WORKSPACE = partial(OptionInfo, "Workspace", decides_answer=True)
_SANDBOX = partial(OptionInfo, "Sandbox")
_OUTPUT = partial(OptionInfo, "Output")
_EXECUTION = partial(OptionInfo, "Execution")
_LIMITS = partial(OptionInfo, "Limits and budget")
_QUALITY = partial(OptionInfo, "Quality")
_ONE_COMMAND = partial(OptionInfo, "Execution", default=False, is_saved=False)


class SharedOptions(TypedDict, total=False):
    """Options of ``annotate()``, of the flow ``annotate_dataset`` and of the command line."""

    # Input
    id_column: Annotated[
        str | None,
        _INPUT(
            "Column with the unique id of each row.",
            absent="the position of the row, from 0",
            metavar="COLUMN",
        ),
    ]
    label: Annotated[
        Sequence[str],
        _INPUT("Column by which reports group the cost.", default=(), metavar="COLUMN"),
    ]
    bad_rows: Annotated[
        BadRows,
        _INPUT(
            "Reaction to invalid rows: stop before any prompt is sent, or fail these rows alone.",
            default="stop",
        ),
    ]

    gold: Annotated[
        Sequence[str],
        _INPUT(
            "Column with the known correct answers, or FIELD=COLUMN for a field of the schema. It shows how "
            "good the answers are, and is never sent.",
            default=(),
            metavar="COLUMN|FIELD=COLUMN",
        ),
    ]

    # Prompt
    prompt_column: Annotated[str, _PROMPT("Column with the prompt.", default="prompt", metavar="COLUMN")]
    template: Annotated[
        str | None,
        _PROMPT(
            'Prompt text with {column} placeholders: "Label this: {text}". Write {{ and }} for braces. @FILE '
            "is the content of a file, @@ an @ at the beginning.",
            absent="the text of --prompt-column",
            metavar="TEXT|@FILE",
        ),
    ]
    system: Annotated[
        str | None,
        _PROMPT(
            "System text of the agent. @FILE is the content of a file, @@ an @ at the beginning.",
            absent='"You are a helpful assistant.", or the text of the agent that --agent names',
            metavar="TEXT|@FILE",
        ),
    ]
    system_column: Annotated[
        str | None,
        _PROMPT(
            "Column with the system text of each row. A null or empty cell is a row without an own text.",
            absent="the same text for all rows",
            metavar="COLUMN",
        ),
    ]
    file: Annotated[
        str | Sequence[str],
        _PROMPT(
            "Column with the files that are attached to the prompt: PNG, JPEG, GIF and WebP images, PDF, and "
            "text. A cell has a path (relative to the folder of INPUT), an fsspec URL, or a list of them; an "
            "empty cell is a row without files.",
            default=(),
            metavar="COLUMN",
            is_repeatable=True,
        ),
    ]
    examples: Annotated[
        str | None,
        _PROMPT(
            "Table with examples for the model: the columns of INPUT and the answer, in the column response "
            "or in the columns of the schema. A row with the prompt of an example does not get that example. "
            "reviewed: for each row the five most similar prompts that persons have answered.",
            absent="no examples",
            metavar="FILE|reviewed",
            is_path=True,
        ),
    ]
    schema: Annotated[
        str | Mapping[str, Any] | None,
        _PROMPT(
            "JSON Schema of the answer. Each field of an object becomes a column.",
            absent="the answer is text",
            metavar="FILE.json",
            is_path=True,
        ),
    ]
    choices: Annotated[
        str | Sequence[str] | None,
        _PROMPT(
            "Labels of which the answer is one: positive,negative. "
            'Quote one with a comma: "Food, drinks",Travel.',
            absent="the answer is text",
            metavar="LABEL,LABEL",
        ),
    ]

    # Model and agent
    model: Annotated[
        str | Sequence[str] | None,
        _MODEL(
            "Model that answers. local/smollm2 runs on this machine and needs no provider. Of several models "
            "each one answers each row, side by side in columns named response@MODEL, and the row takes the "
            "answer of most of them.",
            absent="the model that opencode chooses",
            metavar="PROVIDER/MODEL[#VARIANT]",
            is_repeatable=True,
        ),
    ]
    variant: Annotated[
        str | None,
        _MODEL("Variant of the model, such as its reasoning effort.", absent="no variant", metavar="NAME"),
    ]
    agent: Annotated[
        str | None,
        _MODEL(
            "Agent of the opencode config, or a Prefect block of type OpenCodeAgent.",
            absent="an agent without tools",
            metavar="NAME",
        ),
    ]
    mcp_server: Annotated[
        Sequence[str],
        _MODEL(
            "MCP server of the opencode config whose tools the default agent may use.",
            default=(),
            metavar="NAME",
        ),
    ]
    allow_tool: Annotated[
        Sequence[str],
        _MODEL(
            "Tool that the default agent may use: bash, read, edit (with write and apply_patch), … or, as "
            "SERVER_TOOL or SERVER_*, tools of an MCP server.",
            default=(),
            metavar="NAME",
        ),
    ]
    deny_tool: Annotated[
        Sequence[str],
        _MODEL(
            "Tool that the agent may not use, though its entry in the opencode config, or another option, "
            "allows it.",
            default=(),
            metavar="NAME",
        ),
    ]
    credentials: Annotated[
        str | None,
        _MODEL(
            "Prefect block of type OpenCodeCredentials that holds the provider keys.",
            absent="the logins and keys of this machine",
            metavar="NAME",
            decides_answer=False,
        ),
    ]
    opencode_config: Annotated[
        str | Mapping[str, Any] | None,
        _MODEL(
            "opencode config with providers, MCP servers and agents, merged over the global config.",
            absent="the global config alone",
            metavar="FILE.json",
            is_secret=True,
            is_path=True,
        ),
    ]
    opencode_bin: Annotated[
        str | None,
        _MODEL(
            "Path of the opencode binary.",
            absent="OPENCODE_TASKS_OPENCODE_BIN, or the binary that setup reports",
            metavar="PATH",
            decides_answer=False,
            is_path=True,
        ),
    ]
    work_dir: Annotated[
        str | Path | None,
        _MODEL("Folder in which opencode works.", absent="an empty folder", metavar="DIR", is_path=True),
    ]

    # Workspace
    workspace: Annotated[
        str | None,
        _WORKSPACE(
            "Column with the files that the agent works on: a folder, an archive (zip, tar; path or fsspec "
            "URL), git+URL@REF, or the path of a repository with @REF. Each attempt gets a private copy.",
            absent="no files",
            metavar="COLUMN",
        ),
    ]
    workspace_ref: Annotated[
        str | None,
        _WORKSPACE(
            "Column with the branch, tag or commit of the repository of --workspace.",
            absent="the ref after the @",
            metavar="COLUMN",
        ),
    ]
    workspace_template: Annotated[
        str | None,
        _WORKSPACE(
            "The same files for all rows, as a cell of --workspace names them.",
            absent="those of --workspace",
            metavar="DIR",
        ),
    ]
    setup_command: Annotated[
        str | None,
        _WORKSPACE(
            "Shell command that prepares a workspace before the agent, such as the installation of packages. "
            "What it changes is not in the diff.",
            absent="none",
            metavar="COMMAND",
        ),
    ]
    check_command: Annotated[
        str | None,
        _WORKSPACE(
            "Shell command that runs in the workspace after the agent, such as its tests. Its result is in "
            "check_passed and check_output.",
            absent="none",
            metavar="COMMAND",
        ),
    ]
    require_check: Annotated[bool, _WORKSPACE("A row whose check fails has failed.", default=False)]
    check_retries: Annotated[
        int,
        _WORKSPACE(
            "Maximum number of times that the agent gets the output of a failed check and may correct its "
            "work.",
            default=0,
            metavar="N",
        ),
    ]
    artifact: Annotated[
        Sequence[str],
        _WORKSPACE(
            "Pattern of files of the workspace that are stored after the work: report.md, dist/**/*.whl.",
            default=(),
            metavar="GLOB",
        ),
    ]
    keep_workspaces: Annotated[
        KeepWorkspaces,
        _WORKSPACE(
            "Workspaces that are kept after the work, with their address in workspace_url.",
            default="none",
            decides_answer=False,
        ),
    ]
    artifacts: Annotated[
        str | None,
        _WORKSPACE(
            "Folder for the files of --artifact and long diffs; a path or an fsspec URL.",
            absent="the user's data folder where the row runs",
            metavar="URL",
            decides_answer=False,
            is_path=True,
        ),
    ]

    # Sandbox
    sandbox: Annotated[
        SandboxKind | None,
        _SANDBOX(
            "Where the agent and the commands of a row run: bwrap (bubblewrap: a read-only system, its own "
            "files, no network) or none (with all rights of your user).",
            absent="bwrap for an agent that may change files or run commands",
        ),
    ]
    network: Annotated[
        Network,
        _SANDBOX(
            "What is reached from a sandbox. provider: opencode reaches its provider and MCP servers. none: "
            "its provider alone. Tools and commands reach nothing in both. all: everything is reached.",
            default="provider",
            decides_answer=True,
        ),
    ]
    allow_host: Annotated[
        Sequence[str],
        _SANDBOX(
            "Another host that opencode reaches from a sandbox, such as a gateway to the provider.",
            default=(),
            metavar="HOST[:PORT]",
        ),
    ]
    keys_in_sandbox: Annotated[
        bool,
        _SANDBOX(
            "Let the keys of the provider into the sandbox, where the agent's programs can read them. "
            "Providers that sign requests (Bedrock with access keys, Vertex) need it.",
            default=False,
        ),
    ]
    sandbox_read: Annotated[
        Sequence[str],
        _SANDBOX(
            "A file or folder that can be read in a sandbox, such as that of a compiler.",
            default=(),
            metavar="PATH",
        ),
    ]
    sandbox_env: Annotated[
        Sequence[str],
        _SANDBOX(
            "An environment variable that a sandbox gets, which the agent's programs can read.",
            default=(),
            metavar="NAME",
        ),
    ]

    # Output
    column_prefix: Annotated[
        str | None,
        _OUTPUT(
            "Text before the name of each column that OUTPUT adds to those of INPUT.",
            absent="no text",
            metavar="TEXT",
        ),
    ]
    log_dir: Annotated[
        str | Path | None,
        _OUTPUT(
            "Folder for a readable trace of each attempt.", absent="no trace", metavar="DIR", is_path=True
        ),
    ]

    # Execution
    backend: Annotated[
        BackendName | None,
        _EXECUTION(
            "How opencode runs: "
            + ", ".join(f"{name} ({text})" for name, text in BACKEND_SUMMARIES.items())
            + ".",
            absent="server; cli for rows with a workspace or a sandbox",
        ),
    ]
    batch_size: Annotated[
        int | None, _EXECUTION("Maximum number of rows of a batch.", absent="computed", metavar="N")
    ]
    concurrency: Annotated[
        int | None,
        _EXECUTION(
            "Maximum number of rows in flight in the whole run.", absent="found by trial", metavar="N"
        ),
    ]
    ledger: Annotated[
        str | None,
        _EXECUTION(
            "Database that stores the run: a path, a sqlite:/// or postgresql:// URL, or block://secret/NAME.",
            absent="OPENCODE_TASKS_LEDGER, or a file in the user's data folder",
            metavar="URL",
            is_secret=True,
            is_saved=False,
        ),
    ]
    refresh: Annotated[bool, _ONE_COMMAND("Send every row again, even if the ledger has an answer for it.")]

    # Limits and budget
    timeout: Annotated[
        float | None, _LIMITS("Time limit of one attempt, in seconds.", absent="600", metavar="SECONDS")
    ]
    first_event_timeout: Annotated[
        float | None,
        _LIMITS(
            "Time limit until the provider's first sign of an answer, in seconds.",
            absent="OPENCODE_TASKS_FIRST_EVENT_TIMEOUT, or the value of --timeout",
            metavar="SECONDS",
        ),
    ]
    stall_timeout: Annotated[
        float | None,
        _LIMITS(
            "Time limit without any event after the first sign of an answer, while no tool runs, in seconds.",
            absent="OPENCODE_TASKS_STALL_TIMEOUT, or the value of --timeout",
            metavar="SECONDS",
        ),
    ]
    tool_timeout: Annotated[
        float | None,
        _LIMITS(
            "Time limit of one call of a tool, in seconds.",
            absent="OPENCODE_TASKS_TOOL_TIMEOUT, or the value of --timeout",
            metavar="SECONDS",
        ),
    ]
    max_attempts: Annotated[
        int | None, _LIMITS("Maximum number of attempts of one row.", absent="3", metavar="N")
    ]
    max_repairs: Annotated[
        int,
        _LIMITS(
            "Maximum number of requests for a corrected answer, if one does not fit --schema or --choices.",
            default=1,
            metavar="N",
        ),
    ]
    requests_per_minute: Annotated[
        int | None,
        _LIMITS(
            "Requests per minute that the provider allows, for all your runs together.",
            absent="no limit",
            metavar="N",
        ),
    ]
    tokens_per_minute: Annotated[
        int | None,
        _LIMITS(
            "Tokens per minute that the provider allows, for all your runs together.",
            absent="no limit",
            metavar="N",
        ),
    ]
    max_cost: Annotated[
        float | None,
        _LIMITS(
            "Cost limit of the whole run, in USD. A row that could exceed it is not sent.",
            absent="no limit",
            metavar="USD",
        ),
    ]
    max_row_cost: Annotated[
        float | None,
        _LIMITS(
            "Cost limit of one row, in USD. An agent that exceeds it is stopped at its next step.",
            absent="no limit",
            metavar="USD",
        ),
    ]
    on_budget: Annotated[
        OnBudget,
        _LIMITS(
            "Reaction if --max-cost is too low for the remaining rows: pause the run, or skip these rows.",
            default="pause",
        ),
    ]

    pilot: Annotated[
        int | None,
        _LIMITS(
            "Number of rows, drawn at random, that are sent first and give an estimate for the others. On a "
            "terminal you are asked before the others are sent; elsewhere the setting "
            "OPENCODE_TASKS_AFTER_PILOT decides.",
            absent="all rows are sent at once",
            metavar="N",
        ),
    ]

    votes: Annotated[
        int | None,
        _QUALITY(
            "Number of answers to each row, of which the row takes the most frequent one. No answer is "
            "requested once the majority is decided. Adds the columns agreement, votes and needs_review.",
            absent="one answer, without these columns",
            metavar="N",
        ),
    ]
    escalate_to: Annotated[
        str | None,
        _QUALITY(
            "Stronger model that answers the rows whose agreement (--votes, or several models) or confidence "
            "(--confidence) is too low, and those without a valid answer. Adds the column escalated.",
            absent="none",
            metavar="PROVIDER/MODEL[#VARIANT]",
        ),
    ]
    escalate_below: Annotated[
        float | None,
        _QUALITY(
            "Agreement or confidence below which a row goes to --escalate-to, from 0 to 1.",
            absent="1, so that any difference counts, and 0.8 with --confidence",
            metavar="SHARE",
        ),
    ]
    confidence: Annotated[
        str | None,
        _QUALITY(
            "Field of the schema in which the model states its confidence as a number from 0 to 1.",
            absent="none",
            metavar="FIELD",
        ),
    ]
    canary: Annotated[
        str | None,
        _QUALITY(
            "Table with the columns of the prompt, whose rows each run sends anew before those of INPUT, in "
            "the same budget. It shows whether accuracy (with a column of --gold), failures, tokens or cost "
            "leave their usual range. Its rows are not in OUTPUT.",
            absent="no canaries",
            metavar="FILE",
            is_path=True,
        ),
    ]


class AnnotateOptions(SharedOptions, total=False):
    """Keywords of ``annotate()``. Every key is optional.

    Examples:
        >>> import pandas as pd
        >>> from opencode_tasks import AnnotateOptions, annotate
        >>> options: AnnotateOptions = {"model": "anthropic/claude-haiku-4-5", "max_cost": 5.0}
        >>> result = annotate(pd.DataFrame({"prompt": ["Is 7 a prime number?"]}), **options)
        >>> result.frame["response"].tolist()
        ['yes']
    """

    on_wait: Annotated[
        OnWait,
        _EXECUTION(
            "Reaction to a long wait: wait in the flow, sleep (the flow run of a deployment ends its process "
            "and starts again), or raise RunPausedError.",
            default="wait",
            is_saved=False,
        ),
    ]


class DatasetOptions(SharedOptions, total=False):
    """Keywords of the flow ``annotate_dataset`` beside ``input`` and ``output``. Every key is optional.

    Examples:
        >>> from opencode_tasks import DatasetOptions
        >>> options: DatasetOptions = {"model": "anthropic/claude-haiku-4-5", "runner": "ray", "limit": 100}
        >>> sorted(options)
        ['limit', 'model', 'runner']
    """

    encoding: Annotated[
        str | None,
        _INPUT(
            "Encoding of a text file, such as cp1252.", absent="UTF-8, or as the file says", metavar="NAME"
        ),
    ]
    delimiter: Annotated[
        str | None,
        _INPUT(
            "Character between the cells of a CSV file, or tab.",
            absent="detected among , ; | and tab",
            metavar="CHARACTER",
        ),
    ]
    limit: Annotated[int | None, _INPUT("Process the first N rows only.", absent="all rows", metavar="N")]
    incremental: Annotated[
        str | None,
        _INPUT(
            "Process only rows that no earlier run over INPUT has completed. COLUMN holds the unique id of "
            "each row.",
            absent="all rows",
            metavar="COLUMN",
        ),
    ]
    database: Annotated[
        str | None,
        _INPUT(
            "Database of sql: tables, as a SQLAlchemy URL or block://secret/NAME.",
            absent="OPENCODE_TASKS_DATABASE",
            metavar="URL",
            is_secret=True,
            is_saved=False,
        ),
    ]
    partition_by: Annotated[
        Sequence[str],
        _OUTPUT(
            "Column by which OUTPUT, a folder named ….parquet, is split into subfolders.",
            default=(),
            metavar="COLUMN",
        ),
    ]
    runner: Annotated[
        RunnerName | None, _EXECUTION("Task runner of the batches: Ray, or threads.", default="ray")
    ]
    ray_address: Annotated[
        str | None,
        _EXECUTION(
            "Address of the Ray cluster to join.", absent="a local Ray for this run", metavar="ADDRESS"
        ),
    ]
    no_wait: Annotated[
        bool,
        _ONE_COMMAND("If rows must wait for more than a minute, exit with code 75 and print how to resume."),
    ]
    min_accuracy: Annotated[
        float | None,
        _LIMITS(
            "Accuracy, from 0 to 1, that each field with --gold must reach. Otherwise the flow run is Failed "
            "after OUTPUT is written.",
            absent="any accuracy",
            metavar="SHARE",
        ),
    ]
    max_failed: Annotated[
        str | int | None,
        _LIMITS(
            "Number or percentage of rows that may fail before the flow run is Failed.",
            absent="any number",
            metavar="N|N%",
        ),
    ]


class TableOptions(TypedDict):
    """The tables of a run, the only options without a default."""

    input: Annotated[
        str,
        _INPUT(
            "Table to read: a csv, tsv, jsonl, json, parquet, arrow, feather or xlsx file (path or fsspec "
            "URL), a folder of such files (DIR/), sql:TABLE or sql:SELECT ….",
            default=...,
            metavar="INPUT",
            is_path=True,
        ),
    ]
    output: Annotated[
        str,
        _OUTPUT(
            "Table to write, with the columns of INPUT and the answer columns: a csv, tsv, jsonl, json, "
            "parquet, arrow, feather or xlsx file (path or fsspec URL), or sql:TABLE.",
            default=...,
            metavar="OUTPUT",
            is_path=True,
        ),
    ]


class CommandOptions(TypedDict, total=False):
    """Options of the command line alone."""

    dry_run: Annotated[
        bool,
        _ONE_COMMAND(
            "Check input and options, print the first prompts, what would be sent and an estimate of its "
            "cost, and call no provider."
        ),
    ]
    yes: Annotated[bool, _ONE_COMMAND("Send the rows after --pilot without a question.")]
    as_json: Annotated[
        bool, _OUTPUT("Print the summary as one JSON object.", default=False, flag="--json", is_saved=False)
    ]
    verbose: Annotated[bool, _ONE_COMMAND("Print how long each part of the start takes.")]
