"""The settings of this library: ``OPENCODE_TASKS_*`` environment variables, read once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Defaults for what a run is not told; an option or parameter wins over its setting."""

    model_config = SettingsConfigDict(env_prefix="OPENCODE_TASKS_", extra="ignore")

    ledger: str | None = Field(default=None, description="Ledger: a path, sqlite:///… or postgresql://… URL.")
    database: str | None = Field(
        default=None, description="Database of sql: tables, as SQLAlchemy writes its address."
    )
    opencode_bin: str | None = Field(default=None, description="Path of the opencode binary.")
    prices: str | None = Field(
        default=None,
        description="JSON file of own prices, for models whose price opencode does not state: "
        '{"provider/model": {"input": 1, "output": 5}}, in USD for a million tokens.',
    )
    max_inline_wait: float = Field(
        default=60.0, gt=0, description="Longest wait, in seconds, that is spent inside a batch."
    )
    max_rate_limit_wait: float = Field(
        default=24 * 3600.0, gt=0, description="Longest time, in seconds, that one row waits for rate limits."
    )
    cost_drift: float = Field(
        default=0.05,
        gt=0,
        description="Part of a model's reported cost by which the computed one may differ unmentioned.",
    )
    failure_alert: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Part of the rows ended (at least 20) that may fail before people are told.",
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
        description="Server errors and time-outs in a row after which a provider gets a rest.",
    )
    drain: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that rows in flight may go on once the run must wait for long.",
    )
    suspend_timeout: float = Field(
        default=30 * 24 * 3600.0, gt=0, description="Seconds that a suspended flow run waits for a person."
    )
    lease: float = Field(default=60.0, ge=5, description="Seconds after which a silent worker's row is free.")
    grace: float = Field(
        default=8.0,
        gt=0,
        description="Seconds that rows in flight get to be recorded when a run is interrupted.",
    )
    server_rows: int = Field(
        default=2000,
        ge=1,
        description="Rows after which a fresh opencode server takes over from the old one.",
    )
    server_memory: float | None = Field(
        default=None,
        gt=0,
        description="Resident memory of an opencode server, in MB, above which (and after 100 rows) a "
        "fresh one takes over; by default half of the machine's memory for each CPU, at least 1,500 and "
        "at most 4,000.",
    )

    store_prompts: bool = Field(
        default=True, description="Whether the ledger keeps the prompts of a run that has ended."
    )
    store_answers: bool = Field(
        default=True,
        description="Whether the ledger keeps the answers of a run that has ended; without them a "
        "later run asks again.",
    )
    store_traces: bool = Field(
        default=True,
        description="Whether the ledger keeps what was said in the sessions of a run that has ended.",
    )

    def not_kept(self) -> frozenset[str]:
        """The kinds of text (prompts, answers, traces) that the ledger forgets at a run's end."""
        kinds = {"prompts": self.store_prompts, "answers": self.store_answers, "traces": self.store_traces}
        return frozenset(kind for kind, is_kept in kinds.items() if not is_kept)

    def ledger_url(self) -> str:
        """The ledger's place; by default a SQLite file in the user's data folder."""
        return self.ledger or str(Path(user_data_path("opencode-tasks")) / "ledger.db")


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
