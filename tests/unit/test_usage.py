"""Sums of usage keep the unknown unknown."""

from __future__ import annotations

import pytest

from opencode_tasks.domain.records import AttemptRecord, Session, Step, Usage
from opencode_tasks.domain.usage import FIELDS, UNKNOWN, add_usage, total_usage


def step(number: int, usage: Usage) -> Step:
    return Step(
        step_id=f"prt_{number}",
        session_id="ses_1",
        message_id="msg_1",
        model_ref="p/m",
        agent="a",
        usage=usage,
        cost_source="reported",
        finish_reason="stop",
        ended_at=None,
    )


def record(*sessions: list[Usage], usage_known: bool = True) -> AttemptRecord:
    found = [
        Session(
            session_id=f"ses_{n}",
            parent_id=None,
            messages=[],
            steps=[step(i, u) for i, u in enumerate(usages)],
        )
        for n, usages in enumerate(sessions)
    ]
    return AttemptRecord(sessions=found, usage_known=usage_known)


def test_the_fields_are_those_of_usage() -> None:
    assert set(FIELDS) == set(Usage.__dataclass_fields__)
    assert all(getattr(UNKNOWN, name) is None for name in FIELDS)


@pytest.mark.parametrize(
    ("usages", "total"),
    [
        ([], Usage()),
        (
            [Usage(input_tokens=1, cost_pico=10), Usage(input_tokens=2, cost_pico=5)],
            Usage(input_tokens=3, cost_pico=15),
        ),
        (
            [Usage(input_tokens=1, cost_pico=10), Usage(input_tokens=2, cost_pico=None)],
            Usage(input_tokens=3, cost_pico=None),
        ),
        (
            [Usage(input_tokens=None, output_tokens=4), Usage(input_tokens=2)],
            Usage(input_tokens=None, output_tokens=4),
        ),
        ([Usage(), UNKNOWN, Usage(output_tokens=4)], UNKNOWN),
    ],
)
def test_sums(usages: list[Usage], total: Usage) -> None:
    assert add_usage(usages) == total


def test_money_adds_up_exactly() -> None:
    assert add_usage([Usage(cost_pico=1)] * 3 + [Usage(cost_pico=10**18)]).cost_pico == 10**18 + 3


ONE = Usage(input_tokens=1, output_tokens=2, cost_pico=3)


@pytest.mark.parametrize(
    ("attempt", "total"),
    [
        (record(), Usage()),
        (record(usage_known=False), UNKNOWN),
        (record([], usage_known=False), UNKNOWN),
        (record([ONE]), ONE),
        # Children count with their root.
        (record([ONE], [ONE, ONE]), Usage(input_tokens=3, output_tokens=6, cost_pico=9)),
        # What is reported of a broken attempt is what is known of it.
        (record([ONE], usage_known=False), ONE),
        (record([ONE], [UNKNOWN]), UNKNOWN),
    ],
)
def test_what_an_attempt_bought(attempt: AttemptRecord, total: Usage) -> None:
    assert total_usage(attempt) == total
