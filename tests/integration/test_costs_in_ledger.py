"""Views and reports on SQLite and PostgreSQL, compared with sums computed in Python."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attempts import begin_attempt, finish, wait
from sqlalchemy import text

from opencode_tasks.domain.cost import PriceBook
from opencode_tasks.domain.records import TOKEN_COLUMNS, Answer, AttemptRecord, RowInput, Session, Step, Usage
from opencode_tasks.errors import InputError, InvalidRequestError, OpenCodeTimeoutError, ServerError
from opencode_tasks.ledger import GROUPINGS, GoldValue, Grouping, Lease, Ledger
from opencode_tasks.ledger.canaries import Measurement
from opencode_tasks.ledger.views import MEANINGS, VIEWS
from opencode_tasks.reports.cost_lines import report_lines
from opencode_tasks.reports.focus import focus_csv
from opencode_tasks.reports.import_sessions import import_sessions
from opencode_tasks.reports.page import report_page

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEAMS = ("support", "search")


def call(session_id: str, number: int, model: str, cost: int | None, at: datetime) -> Step:
    return Step(
        step_id=f"prt_{number}",
        session_id=session_id,
        message_id="msg",
        model_ref=model,
        agent="a",
        usage=Usage(
            input_tokens=7 * number,
            cache_read_tokens=number,
            cache_write_tokens=2,
            output_tokens=11,
            reasoning_tokens=number % 3,
            cost_pico=cost,
        ),
        cost_source="unpriced" if cost is None else "reported",
        finish_reason="stop",
        ended_at=at,
        cost_computed_pico=None if cost is None else cost + number,
        price_source=None if cost is None else "own prices",
    )


class Runs:
    """Two runs with every kind of row, and the list of their model calls."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.calls: list[dict[str, Any]] = []
        self.rows: set[tuple[str, str]] = set()
        for number, (model, deployment) in enumerate((("p/one", "flow/nightly"), ("p/two", None))):
            self._run(f"run-{number}", model, deployment, NOON + timedelta(hours=10 * number))

    def _run(self, run_id: str, model: str, deployment: str | None, begin: datetime) -> None:
        self.ledger.runs.create(
            run_id=run_id,
            parameters={},
            model_ref=model,
            backend="server",
            opencode_version="1.0",
            deployment=deployment,
            flow_run_id=None,
            input_fingerprint="f",
            row_count=8,
            refresh=False,
            now=begin,
        )
        inputs = [
            RowInput(
                row_id=f"row {i}",
                position=i,
                row_key=f"{run_id} {i}",
                prompt=f"prompt {i}",
                labels={"team": TEAMS[i % 2], "run": "x"},
            )
            for i in range(8)
        ]
        self.ledger.rows.add(run_id, inputs)
        self.ledger.runs.ready(run_id)
        self.rows |= {(run_id, row.row_id) for row in inputs}
        for i in range(6):
            self._row(run_id, model, deployment, i, begin + timedelta(minutes=30 * i))
        now = begin + timedelta(hours=5)
        self.ledger.rows.skip_open(run_id, error_type="budget_exceeded", error_message="no", now=now)
        self.ledger.runs.end(run_id, status="failed", now=now)

    def _row(self, run_id: str, model: str, deployment: str | None, i: int, at: datetime) -> None:
        """0, 1: completed; 2: failed once first; 3: failed; 4: refused without a call; 5: unpriced."""
        row_id = f"row {i}"
        errors: list[Any] = {
            2: [ServerError("n", raw_message="down"), None],
            3: [OpenCodeTimeoutError("n", raw_message="slow")],
            4: [InvalidRequestError("n", raw_message="no")],
        }.get(i, [None])
        for number, error in enumerate(errors, start=1):
            lease = self.ledger.queue.claim_row(run_id, row_id, owner="w", now=at, lease_s=60)
            assert isinstance(lease, Lease)
            attempt_id = begin_attempt(
                self.ledger, lease, run_id, row_id, attempt=number, now=at, reserve_pico=1000
            )
            session_id = f"ses_{run_id}_{i}_{number}"
            steps = [] if i == 4 else self._calls(session_id, model, i, at)
            for one in steps:
                self.calls.append(
                    {
                        "day": at.date(),
                        "model": one.model_ref,
                        "deployment": deployment,
                        "run": run_id,
                        "team": TEAMS[i % 2],
                        "row": (run_id, row_id),
                        "is_failed": error is not None,
                        "usage": one.usage,
                    }
                )
            record = AttemptRecord(
                session_id=session_id,
                sessions=[
                    Session(session_id=session_id, parent_id=None, messages=[], steps=steps[:1]),
                    Session(session_id=f"{session_id}_c", parent_id=session_id, messages=[], steps=steps[1:]),
                ],
                usage_known=i != 3,
            )
            self._end(lease, attempt_id, record, error, at, is_last=number == len(errors))

    def _calls(self, session_id: str, model: str, i: int, at: datetime) -> list[Step]:
        """A call of the root session and one of a child, the second on another model."""
        cost = None if i == 5 else 3 + i
        return [
            call(session_id, i + 1, model, cost, at),
            call(f"{session_id}_c", i + 2, "p/small", 1, at),
        ]

    def _end(
        self,
        lease: Lease,
        attempt_id: str,
        record: AttemptRecord,
        error: Any,
        at: datetime,
        *,
        is_last: bool,
    ) -> None:
        if error is not None and not is_last:
            wait(self.ledger, lease, attempt_id, error, record, now=at, until=at)
            return
        answer = Answer(
            text="yes", structured=None, finish_reason="stop", turns=1, model_ref="p/one", attempt=record
        )
        for _ in range(2):  # Every write is idempotent.
            assert finish(self.ledger, lease, attempt_id, error or answer, record, now=at)


def added(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of calls as in a report; None if unknown."""

    def summed(name: str, of: list[dict[str, Any]]) -> int | None:
        values = [getattr(one["usage"], name) for one in of]
        return None if None in values else sum(values)

    failed = [one for one in calls if one["is_failed"]]
    return {
        **{name: summed(name, calls) for name in TOKEN_COLUMNS},
        "cost_pico": summed("cost_pico", calls),
        "known_cost_pico": sum(one["usage"].cost_pico or 0 for one in calls),
        "failed_cost_pico": summed("cost_pico", failed),
        "steps": len(calls),
    }


def grouped(runs: Runs, name: str) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for one in runs.calls:
        groups[one[name]].append(one)
    return {key: added(calls) for key, calls in groups.items()}


def only(line: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in like}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["day", "model", "deployment", "run"])
def test_a_grouping_adds_up_the_calls(ledger: Ledger, name: Any) -> None:
    runs = Runs(ledger)
    wanted = grouped(runs, name)
    lines = {line[name]: line for line in ledger.reports.spent((name,))}
    for key, sums in wanted.items():
        assert only(lines[key], sums) == sums
    with ledger.reports.frozen() as frozen:
        assert frozen.spent((name,)) == ledger.reports.spent((name,))


def test_rows_without_an_attempt_count_too(ledger: Ledger) -> None:
    runs = Runs(ledger)
    (total,) = ledger.reports.spent(())
    assert total["rows"] == len(runs.rows) == 16
    by_run = ledger.reports.spent(("run",))
    assert [line["rows"] for line in by_run] == [8, 8]
    by_model = {line["model"]: line["rows"] for line in ledger.reports.spent(("model",))}
    # Row 4 was refused and rows 6 and 7 were skipped: they count at the model of their run.
    assert by_model == {"p/one": 8, "p/two": 8, "p/small": 10}
    statuses = ledger.reports.rows_by_status()
    assert dict(statuses) == {"open": 0, "completed": 8, "failed": 4, "skipped": 4, "reused": 0}


def test_a_row_counts_under_each_of_its_labels(ledger: Ledger) -> None:
    runs = Runs(ledger)
    lines = {(line["label"], line["label_value"]): line for line in ledger.reports.spent(("label",))}
    assert set(lines) == {("team", "support"), ("team", "search"), ("run", "x")}
    for team, sums in grouped(runs, "team").items():
        assert only(lines["team", team], sums) == sums
    assert lines["run", "x"]["known_cost_pico"] == added(runs.calls)["known_cost_pico"]


def test_groupings_can_be_combined_and_limited_by_day(ledger: Ledger) -> None:
    runs = Runs(ledger)
    since = date(2026, 3, 2)
    lines = ledger.reports.spent(("day", "run", "label"), since=since)
    assert {line["day"] for line in lines} == {since}
    later = [one for one in runs.calls if one["day"] >= since]
    teams = [line for line in lines if line["label"] == "team"]
    assert sum(line["known_cost_pico"] for line in teams) == added(later)["known_cost_pico"] > 0
    before = ledger.reports.spent(before=since)[0]
    assert before["steps"] + len(later) == len(runs.calls)


def test_every_view_has_the_documented_columns(ledger: Ledger) -> None:
    Runs(ledger)
    row_id = ledger.results.outcomes("run-0")[0]["row_id"]
    ledger.gold.add("run-0", [GoldValue(row_id=row_id, field="response", value="yes")])
    shown = Measurement(series="s", changed_rows=0, compared_rows=8, has_drift=False, report={})
    ledger.canaries.record("run-1", shown, now=NOON)
    with ledger._database.engine.connect() as connection:
        for view in VIEWS:
            found = connection.execute(text(f"select * from {view.name}"))
            assert list(found.keys()) == view.columns
            assert found.all()
            assert set(view.columns) <= set(MEANINGS)


def test_dollars_in_a_view_equal_its_pico_dollars(ledger: Ledger) -> None:
    runs = Runs(ledger)
    with ledger._database.engine.connect() as connection:
        found = connection.execute(text("select model, cost_pico, cost_usd from cost_by_model")).all()
    sums = grouped(runs, "model")
    assert {model: pico for model, pico, _ in found} == {m: s["cost_pico"] for m, s in sums.items()}
    for _, pico, usd in found:
        assert (usd is None) == (pico is None)
        if ledger.url.startswith("postgresql") and usd is not None:
            assert Decimal(usd) * 10**12 == pico


def test_failures_have_their_cost_and_the_rows_that_failed(ledger: Ledger) -> None:
    Runs(ledger)
    lines = [line for line in ledger.reports.failures() if line["model"] == "p/one"]
    by_type = {
        line["error_type"]: (line["attempts"], line["rows"], line["failed_rows"], line["known_cost_pico"])
        for line in lines
    }
    # The calls of the child session count at their own model.
    assert by_type == {
        "server_error": (1, 1, 0, 5),
        "timeout": (1, 1, 1, 6),
        "invalid_request": (1, 1, 1, 0),
    }


def test_possibly_unreported_cost_is_listed_with_its_bound(ledger: Ledger) -> None:
    Runs(ledger)
    lines = ledger.reports.unreported()
    assert [(line["run"], line["row_id"], line["error_type"], line["at_most_pico"]) for line in lines] == [
        ("run-0", "row 3", "timeout", 1000 - 7),
        ("run-1", "row 3", "timeout", 1000 - 7),
    ]


@pytest.mark.parametrize(("max_call", "at_most"), [(0, 1000 - 7), (600, 2 * 600)])
def test_the_bound_for_an_agent_has_a_call_in_each_session(
    ledger: Ledger, max_call: int, at_most: int
) -> None:
    Runs(ledger)
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:
        connection.execute(text(f"update attempts set max_call_pico = {max_call}"))
    # The root session and its child session.
    assert {line["at_most_pico"] for line in ledger.reports.unreported()} == {at_most}


def test_focus_adds_up_to_the_ledger_exactly(ledger: Ledger) -> None:
    runs = Runs(ledger)
    text_ = "".join(focus_csv(ledger.reports.charges()))
    charges = list(csv.DictReader(io.StringIO(text_)))
    known = sum(Decimal(one["BilledCost"]) for one in charges if one["BilledCost"])
    assert known * 10**12 == added(runs.calls)["known_cost_pico"]
    assert sum(one["BilledCost"] == "" for one in charges) == 2
    quantity = sum(int(one["ConsumedQuantity"]) for one in charges)
    sums = added(runs.calls)
    assert quantity == sum(sums[name] for name in TOKEN_COLUMNS)


def test_reported_and_computed_costs_of_a_model_are_compared(ledger: Ledger) -> None:
    Runs(ledger)
    lines = {line["model"]: line for line in ledger.reports.sources()}
    one = lines["p/one"]
    assert (one["reported"], one["computed"], one["unpriced"], one["both"]) == (5, 0, 1, 5)
    assert one["cost_computed_pico"] - one["cost_reported_pico"] == 1 + 2 + 3 + 3 + 4


def test_report_lines_are_json_values(ledger: Ledger) -> None:
    Runs(ledger)
    groupings: list[tuple[Grouping, ...]] = [(), *((name,) for name in GROUPINGS)]
    for by in groupings:
        assert json.loads(json.dumps(report_lines(ledger.reports, by)))


def test_the_costliest_rows_come_first(ledger: Ledger) -> None:
    Runs(ledger)
    costliest = ledger.reports.costliest(3)
    assert [(line["row_id"], line["cost_pico"]) for line in costliest] == [
        ("row 2", 12),
        ("row 2", 12),
        ("row 3", 7),
    ]


# Purge


def texts(ledger: Ledger) -> set[str]:
    """Every text in the ledger: prompts, answers, messages of providers and ids of rows."""
    found: set[str] = set()
    with ledger._database.engine.connect() as connection:
        for query in (
            "select prompt from rows",
            "select response from rows",
            "select error_message from rows",
            "select error_message from attempts",
            "select row_id from rows",
        ):
            found |= {str(value) for (value,) in connection.execute(text(query)) if value is not None}
    return found


@pytest.mark.parametrize("texts_only", [True, False])
def test_a_purge_removes_texts_and_keeps_costs(ledger: Ledger, texts_only: bool) -> None:
    Runs(ledger)
    report_queries = ledger.reports
    before = (
        [report_queries.spent((name,)) for name in GROUPINGS],
        report_queries.unreported()[0]["at_most_pico"],
    )
    assert {"prompt 1", "yes", "down", "row 1"} <= texts(ledger)
    now = datetime.now(UTC)
    for _ in range(2):
        purged = ledger.retention.purge(NOON + timedelta(hours=6), texts_only=texts_only, now=now)
        assert (purged.runs, purged.rows) == (1, 8)
    assert "prompt 1" in texts(ledger)  # The other run ended later.
    purged = ledger.retention.purge(NOON + timedelta(days=1), texts_only=texts_only, now=now)
    assert (purged.runs, purged.rows) == (2, 16)
    left = texts(ledger)
    assert left.isdisjoint({"prompt 1", "yes", "down"})
    assert ("row 1" in left) == texts_only
    after = (
        [report_queries.spent((name,)) for name in GROUPINGS],
        report_queries.unreported()[0]["at_most_pico"],
    )
    assert after == before


def test_an_unfinished_run_is_not_purged(ledger: Ledger) -> None:
    Runs(ledger)
    ledger.runs.pause("run-0", until=None, reason="a key")
    purged = ledger.retention.purge(NOON + timedelta(days=1), texts_only=False, now=NOON)
    assert purged.runs == 1


def test_a_purged_answer_is_not_reused(ledger: Ledger) -> None:
    Runs(ledger)
    ledger.retention.purge(NOON + timedelta(days=1), texts_only=True, now=NOON)
    ledger.runs.create(
        run_id="later",
        parameters={},
        model_ref="p/one",
        backend="server",
        opencode_version="1.0",
        deployment=None,
        flow_run_id=None,
        input_fingerprint="f",
        row_count=1,
        refresh=False,
        now=NOON + timedelta(days=2),
    )
    ledger.rows.add("later", [RowInput(row_id="a", position=0, row_key="run-0 0", prompt="prompt 0")])
    assert ledger.rows.reuse_answers("later", now=NOON) == 0


# Imported sessions

RECORDED = ROOT / "tests" / "recordings" / "opencode-1.18.33" / "tool-call" / "run" / "export.json"


def test_an_export_is_imported_once_and_marked(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text("Exporting session: ses\n" + RECORDED.read_text())
    url = ledger.url
    lines = [*import_sessions([path], url, PriceBook()), *import_sessions([path], url, PriceBook())]
    assert "2 model calls" in lines[0]
    assert lines[0] == lines[1]
    (line,) = ledger.reports.spent(("run",))
    assert line["run"].startswith("import-ses_")
    assert (line["rows"], line["steps"]) == (1, 2)
    assert {charge["origin"] for charge in ledger.reports.charges()} == {"import"}
    (run,) = ledger.runs.newest()
    assert (run["status"], run["origin"], run["completed"]) == ("completed", "import", 1)


@pytest.mark.parametrize(
    "export",
    [
        {
            "info": {"id": "ses_new", "version": "2.3.2"},
            "messages": [{"id": "msg_1", "type": "user", "content": [{"type": "text", "text": "hello"}]}],
        },
        {"id": "ses_new", "messages": [{"type": "assistant", "content": [], "cost": 0.5, "finish": "stop"}]},
        {"session": {"id": "ses_new", "version": "2.0.1"}, "messages": []},
    ],
)
def test_an_export_of_the_next_major_version_is_refused_by_name(
    ledger: Ledger, tmp_path: Path, export: dict[str, Any]
) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(export))
    with pytest.raises(InputError, match=r"export\.json is a session of opencode 2, which cannot be"):
        list(import_sessions([path], ledger.url, PriceBook()))
    assert ledger.runs.newest() == []


def test_a_step_that_an_export_has_twice_counts_once(ledger: Ledger, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())
    answers = [message for message in recorded["messages"] if message["info"]["role"] == "assistant"]
    recorded["messages"] += answers
    path = tmp_path / "export.json"
    path.write_text(json.dumps(recorded))
    (line,) = import_sessions([path], ledger.url, PriceBook())
    assert "2 model calls" in line
    assert ledger.reports.spent(("run",))[0]["steps"] == 2


@pytest.mark.parametrize("cost", [-1.0, 1e30, 1e9])
def test_a_cost_that_cannot_be_is_computed_from_prices(ledger: Ledger, tmp_path: Path, cost: float) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(old_export(cost)))
    (line,) = import_sessions([path], ledger.url, PriceBook())
    assert line.endswith(", $0.00015")


def old_export(cost: float, model: str = "claude-haiku-4-5") -> dict[str, Any]:
    """An export of an early 1.x: its steps have no tokens, and ``mode`` is the agent."""
    info = {
        "id": "msg_2",
        "role": "assistant",
        "sessionID": "ses_old",
        "providerID": "anthropic",
        "modelID": model,
        "mode": "build",
        "cost": cost,
        "tokens": {"input": 100, "output": 10, "reasoning": 0, "cache": {"read": 0, "write": 0}},
        "time": {"created": 1_770_000_000_000, "completed": 1_770_000_001_000},
    }
    user = {"info": {"id": "msg_1", "role": "user"}, "parts": [{"type": "text", "text": "hello"}]}
    parts = [{"type": "step-start"}, {"type": "text", "text": "hi"}, {"type": "step-finish"}]
    times = {"created": 1_770_000_000_000, "updated": 1_770_000_002_000}
    return {
        "info": {"id": "ses_old", "version": "1.0.1", "time": times},
        "messages": [user, {"info": info, "parts": parts}],
    }


@pytest.mark.parametrize(
    ("cost", "model", "pico", "source"),
    [
        (0.5, "claude-haiku-4-5", 5 * 10**11, "reported"),
        (0, "claude-haiku-4-5", 150 * 10**6, "computed"),
        (0, "nobody-knows-it", None, "unpriced"),
    ],
)
def test_the_messages_of_an_old_export_count_as_calls(
    ledger: Ledger, tmp_path: Path, cost: float, model: str, pico: int | None, source: str
) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old_export(cost, model)))
    list(import_sessions([path], ledger.url, PriceBook()))
    (charge,) = ledger.reports.charges()
    assert (charge["cost_pico"], charge["cost_source"], charge["input_tokens"]) == (pico, source, 100)
    details = ledger.results.row("import-ses_old", "ses_old")
    assert details is not None
    assert (details["row"]["prompt"], details["row"]["response"]) == ("hello", "hi")


def test_the_page_shows_an_unknown_cost_of_failures(ledger: Ledger) -> None:
    Runs(ledger)
    timed_out = "select attempt_id from attempts where error_type = 'timeout'"
    with ledger._database.engine.execution_options(ledger_write=True).begin() as connection:
        connection.execute(text(f"update usage set cost_pico = null where attempt_id in ({timed_out})"))
    page = report_page(ledger.reports, since=None, now=datetime.now(UTC), source="here", drift=0.05)
    section = page.partition("Failures and their cost")[2].partition("</section>")[0]
    lines = [line for line in section.splitlines() if line.startswith("<tr><td>")]
    unknown = [">unknown</td>" in line for line in lines]
    assert unknown == ["timeout" in line for line in lines]
    assert set(unknown) == {True, False}
