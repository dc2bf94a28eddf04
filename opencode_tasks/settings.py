"""Settings from the environment variables ``OPENCODE_TASKS_*``, read once per process."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, cast

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from opencode_tasks.domain.text import value_fault
from opencode_tasks.errors import InputError

# Ten years: longer than any wait, and short enough for every clock and date.
MAX_SECONDS: Final = 10 * 365 * 24 * 3600.0
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class Settings(BaseSettings):
    """Defaults of a run. An option or a parameter of the run wins over its setting."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="OPENCODE_TASKS_", env_ignore_empty=True, extra="ignore", allow_inf_nan=False
    )

    ledger: str | None = Field(
        default=None,
        description="Database that stores the runs: a path, a sqlite:/// or postgresql:// URL, or "
        "block://secret/NAME. Unset: a SQLite file in the user's data folder.",
    )
    database: str | None = Field(
        default=None,
        description="Database of sql: tables, as a SQLAlchemy URL or block://secret/NAME. Unset: such "
        "tables need the option --database.",
    )
    opencode_bin: str | None = Field(
        default=None,
        description="Path of the opencode binary. Unset: the binary that opencode-tasks setup reports.",
    )
    prices: str | None = Field(
        default=None,
        description="JSON file with prices of models for which opencode reports none: "
        '{"provider/model": {"input": 1, "output": 5}}, in USD per million tokens. Unset: public prices '
        "alone.",
    )
    first_event_timeout: Seconds | None = Field(
        default=None,
        description="Time limit until the provider's first sign of an answer, in seconds. Unset: the value "
        "of --timeout.",
    )
    stall_timeout: Seconds | None = Field(
        default=None,
        description="Time limit without any event after the first sign of an answer, while no tool runs, in "
        "seconds. Unset: the value of --timeout.",
    )
    tool_timeout: Seconds | None = Field(
        default=None,
        description="Time limit of one call of a tool, in seconds. Unset: the value of --timeout.",
    )
    max_inline_wait: Seconds = Field(
        default=60.0,
        description="Longest wait inside a batch, in seconds. For a longer wait the whole run waits or "
        "sleeps.",
    )
    max_rate_limit_wait: Seconds = Field(
        default=24 * 3600.0,
        description="Longest time for which a run waits without a row that ends, in seconds. A rate limit "
        "that ends later puts the run on hold until a person resumes it.",
    )
    cost_drift: float = Field(
        default=0.05,
        gt=0,
        description="Relative difference between the reported and the computed cost of a model above which "
        "the cost page shows it. 0.05 is 5 %.",
    )
    failure_alert: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of failed rows among the rows that have ended (at least 20) above which the run "
        "sends the event opencode.run.failing. 0.2 is 20 %.",
    )
    max_steps: int = Field(
        default=500,
        ge=1,
        description="Model calls, those of sub-agents included, after which a prompt is ended. It is the "
        "last limit for an agent that does not stop; --max-row-cost is the limit in USD.",
    )
    breaker_failures: int = Field(
        default=10,
        ge=1,
        description="Number of consecutive server errors and time-outs that closes the gate of a provider "
        "for a while.",
    )
    outage: float = Field(
        default=59.0,
        ge=0,
        le=MAX_SECONDS,
        description="Time from a row's first failure to its last attempt if the provider is unavailable for "
        "this row (no connection, HTTP 502, 503, 504 or 529) and answers others, in seconds.",
    )
    max_outage_wait: Seconds = Field(
        default=600.0,
        description="Longest time for which a run waits while the provider is unavailable and answers no "
        "row, in seconds. A longer outage puts the run on hold until a person resumes it; no row fails.",
    )
    shared_file_systems: bool = Field(
        default=False,
        description="Whether a SQLite ledger and the directories of opencode may be on a network file system "
        "or on a folder of a host (NFS, SMB, 9p, virtiofs, vboxsf, FUSE). SQLite may lose data there.",
    )
    drain: Seconds = Field(
        default=60.0,
        description="Time that rows in flight get to finish when the run must wait for long, in seconds.",
    )
    suspend_timeout: Seconds = Field(
        default=30 * 24 * 3600.0,
        description="Time that a suspended flow run waits for a person before it fails, in seconds.",
    )
    lease: float = Field(
        default=60.0,
        ge=5,
        le=MAX_SECONDS,
        description="Time without a heartbeat after which another worker may take a row, in seconds.",
    )
    grace: Seconds = Field(
        default=8.0,
        description="Time that rows in flight get to be recorded after Ctrl-C, in seconds.",
    )
    server_rows: int = Field(
        default=2000,
        ge=1,
        description="Number of rows after which a new opencode server replaces the running one.",
    )
    server_memory: float | None = Field(
        default=None,
        gt=0,
        description="Resident memory of an opencode server above which a new one replaces it, in MB, "
        "checked after its first 100 rows. Unset: half of the machine's memory per CPU, between 1,500 and "
        "4,000.",
    )
    server_idle: Seconds = Field(
        default=60.0,
        description="Time without a prompt after which an opencode server ends, in seconds. The next prompt "
        "starts one again. A server whose key, login or config has changed ends with its last prompt, and "
        "at most two settings (agents, tools, time limits, …) keep idle servers.",
    )

    max_file_bytes: int = Field(
        default=20_000_000, ge=1, description="Maximum size in bytes of a file of --file."
    )
    max_row_file_bytes: int = Field(
        default=40_000_000, ge=1, description="Maximum size in bytes of all files of a row together."
    )
    max_workspace_files: int = Field(
        default=100_000, ge=1, description="Maximum number of files of a workspace of a row."
    )
    max_workspace_bytes: int = Field(
        default=2_000_000_000, ge=1, description="Maximum number of bytes of the files of a workspace."
    )
    kept_sessions: str | None = Field(
        default=None,
        description="Folder for the sessions of interrupted agents with a workspace or a sandbox, as a path "
        "that all machines share or a URL such as s3://bucket/sessions. Another machine then continues them. "
        "Unset: only the machine on which an agent worked continues its session.",
    )
    sandbox_memory_bytes: int = Field(
        default=4_000_000_000,
        ge=1,
        description="Maximum memory in bytes of all programs of a row in a sandbox together.",
    )
    sandbox_processes: int = Field(
        default=512, ge=1, description="Maximum number of processes of a row in a sandbox."
    )
    sandbox_file_bytes: int = Field(
        default=1_000_000_000, ge=1, description="Maximum size in bytes of a file written in a sandbox."
    )
    max_diff_bytes: int = Field(
        default=1_000_000,
        ge=0,
        description="Size in bytes above which the diff of a workspace is stored in a file, whose address is "
        "in the column diff_url.",
    )
    after_pilot: Literal["continue", "hold"] = Field(
        default="continue",
        description="What a run with --pilot does when the rows of the pilot have ended and nobody can be "
        "asked: continue with the other rows, or hold the run until a person resumes it.",
    )
    store_prompts: bool = Field(
        default=True, description="Whether the ledger keeps the prompts of a run after its end."
    )
    store_answers: bool = Field(
        default=True,
        description="Whether the ledger keeps the answers of a run after its end. Without them a later run "
        "sends the rows again.",
    )
    store_traces: bool = Field(
        default=True,
        description="Whether the ledger keeps the messages of a run's sessions after its end. They contain "
        "prompts and answers, so they are kept only if both are.",
    )

    def not_kept(self) -> frozenset[str]:
        """The kinds of text (prompts, answers, traces) that the ledger removes at the end of a run."""
        keeps_traces = self.store_traces and self.store_prompts and self.store_answers
        kinds = {"prompts": self.store_prompts, "answers": self.store_answers, "traces": keeps_traces}
        return frozenset(kind for kind, is_kept in kinds.items() if not is_kept)


@cache
def settings() -> Settings:
    """The settings of this process, read on the first call.

    An empty variable counts as unset. Raises InputError with a line for each variable whose value is not
    allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise InputError(
            tuple(
                f"OPENCODE_TASKS_{str(one['loc'][0]).upper()}: {value_fault(one)}"
                for one in cast("list[dict[str, Any]]", error.errors())
            )
        ) from None
