"""Taking over what a dead process of ours had bought: its finished sessions become outcomes.

A crash leaves attempts without an end in the ledger, and opencode's data on the disk of their host.
A batch that begins there looks for those of its own rows' keys before it sends anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from opencode_tasks.domain.answer_schema import ValidAnswer, parse_structured
from opencode_tasks.domain.policy import Fail, decide
from opencode_tasks.domain.records import Answer, Session
from opencode_tasks.engine.attempt import BatchContext
from opencode_tasks.errors import OpenCodeError, SetupError
from opencode_tasks.ledger import CRASHED, AlreadyLeased, FinishedRow, Lease, LeaseLostError, OrphanedAttempt
from opencode_tasks.opencode.instance_dir import is_owned
from opencode_tasks.opencode.leftovers import (
    ended_at,
    forget_session,
    instance_dir_of,
    instance_dirs,
    is_deserted,
    read_left,
    result_of,
    sessions_by_attempt,
    unfinished_record,
)
from opencode_tasks.outcomes.outcome import read_outcome
from opencode_tasks.system.process_identity import is_dead

# The guard of a dead process ends its opencode within this time.
GUARD_LIMIT_S = 10.0
LOOK_EVERY_S = 0.25


async def recover_attempts(context: BatchContext) -> int:
    """Record what dead attempts at the run's open rows on this host came to; how many there were.

    Rows whose session had come to its end have their outcome then; the others are free again, with
    an attempt that ended as ``crashed``. An attempt of a process that lives is left alone.
    """
    run_spec = context.run_spec
    found = await context.db(context.ledger.attempts.orphaned, run_spec.run_id, context.host)
    found = await asyncio.to_thread(_with_sessions, found)
    holders = await context.db(partial(context.ledger.queue.owners, run_spec.run_id, now=datetime.now(UTC)))
    at_work = {owner for owner in holders if not is_dead(owner)}
    by_folder: dict[str | None, list[tuple[OrphanedAttempt, Lease | None]]] = {}
    for left in found:
        if left.owner in at_work:
            continue
        if is_dead(left.owner):
            await context.db(context.ledger.queue.break_lease, left.row_key, left.owner)
        lease = await context.db(_take, context, left)
        if not isinstance(lease, AlreadyLeased):
            held = lease if isinstance(lease, Lease) else None
            by_folder.setdefault(left.data_dir, []).append((left, held))
    for folder, attempts in by_folder.items():
        session_ids = [left.session_id for left, _ in attempts if left.session_id is not None]
        try:
            sessions = await _read(context, folder, session_ids)
        except SetupError:
            # Nothing is known of them: they stay as they are, for a later batch, and their rows go on.
            for lease in (lease for _, lease in attempts if lease is not None):
                await context.db(context.ledger.queue.release, lease)
            continue
        for left, lease in attempts:
            told = sessions.get(left.session_id) if left.session_id is not None else None
            await context.db(_settle, context, left, lease, told or ())
    await context.db(_forget_ended, context)
    return sum(len(attempts) for attempts in by_folder.values())


def _forget_ended(context: BatchContext) -> None:
    """Let go of what died after its ledger was told of the end and before the disk was."""
    on_disk = sessions_by_attempt(
        instance_dir for instance_dir in instance_dirs() if not is_owned(instance_dir)
    )
    if not on_disk:
        return
    for attempt_id in context.ledger.attempts.ended(on_disk):
        data_dir, session_id = on_disk[attempt_id]
        # Asked of these alone, since it looks at every process of the machine.
        if is_deserted(instance_dir := instance_dir_of(data_dir)):
            forget_session(instance_dir, session_id)


def _with_sessions(found: Sequence[OrphanedAttempt]) -> list[OrphanedAttempt]:
    """The same, with the sessions of those that died before the ledger was told of them."""
    on_disk = sessions_by_attempt(instance_dirs()) if any(left.session_id is None for left in found) else {}

    def with_session(left: OrphanedAttempt) -> OrphanedAttempt:
        if left.session_id is not None or left.attempt_id not in on_disk:
            return left
        data_dir, session_id = on_disk[left.attempt_id]
        return replace(left, session_id=session_id, data_dir=str(data_dir))

    return [with_session(left) for left in found]


def _take(context: BatchContext, left: OrphanedAttempt) -> Any:
    now = datetime.now(UTC)
    return context.ledger.queue.claim_row(
        left.run_id, left.row_id, owner=context.owner, now=now, lease_s=context.run_spec.lease_s
    )


async def _read(
    context: BatchContext, folder: str | None, session_ids: Sequence[str]
) -> Mapping[str, list[Session]]:
    if folder is None:
        return {}
    deadline = time.monotonic() + GUARD_LIMIT_S
    while True:
        try:
            return await read_left(
                context.run_spec.spec, Path(folder), session_ids, context.run_spec.unpriced
            )
        except SetupError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(LOOK_EVERY_S)


def _settle(
    context: BatchContext, left: OrphanedAttempt, lease: Lease | None, sessions: Sequence[Session]
) -> None:
    answer, error = _come_to(context, left, sessions)
    now = ended_at(sessions) or datetime.now(UTC)
    record = answer.attempt if answer else error.attempt if error else None
    record = context.run_spec.prices.priced_record(
        record or unfinished_record(left.session_id or "", sessions)
    )
    is_end = answer is not None or isinstance(error and decide(error, 1, now, context.run_spec.limits), Fail)
    ledger = context.ledger
    if lease is not None and is_end:
        try:
            ledger.queue.finish(
                FinishedRow(
                    lease=lease,
                    attempt_id=left.attempt_id,
                    record=record,
                    run_id=left.run_id,
                    row_id=left.row_id,
                    answer=answer,
                    error=error,
                    now=now,
                )
            )
        except LeaseLostError:
            return
    else:
        crash = OpenCodeError(
            context.node_id, CRASHED, raw_message="the process died with this row in flight"
        )
        ended = error or (None if answer else crash)
        ledger.attempts.end(left.attempt_id, record=record, error=ended, now=now)
        if lease is not None:
            ledger.queue.release(lease)
    if left.data_dir is not None and left.session_id is not None:
        forget_session(instance_dir_of(Path(left.data_dir)), left.session_id)


def _come_to(
    context: BatchContext, left: OrphanedAttempt, sessions: Sequence[Session]
) -> tuple[Answer | None, OpenCodeError | None]:
    """The answer or the error that a session had come to; neither where it was not at its end."""
    result = result_of(sessions)
    if result is None:
        return None, None
    try:
        answer = read_outcome(result, node_id=context.node_id, now=ended_at(sessions) or datetime.now(UTC))
    except OpenCodeError as error:
        return None, error
    if left.schema is None:
        return answer, None
    parsed = parse_structured(answer.text, left.schema)
    # An answer that does not fit was to be repaired.
    return (
        (replace(answer, structured=parsed.value), None) if isinstance(parsed, ValidAnswer) else (None, None)
    )
