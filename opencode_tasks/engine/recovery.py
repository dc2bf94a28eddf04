"""Recovery: finished sessions of a dead process become outcomes, so that no row is paid for twice.

After a crash, the ledger has attempts without an end, and opencode's data is on the disk of their
host. A batch that starts there recovers the attempts at its rows before it sends any row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opencode_tasks.domain.policy import Fail, decide
from opencode_tasks.domain.records import Answer, Session
from opencode_tasks.domain.work import WorkSpec
from opencode_tasks.engine.attempt import BatchContext
from opencode_tasks.engine.continuation import ended_answer, has_work
from opencode_tasks.engine.row_work import RowPlace, checked, required, with_work
from opencode_tasks.errors import OpenCodeError, SetupError
from opencode_tasks.ledger import (
    CRASHED,
    AlreadyLeased,
    EndedAttempt,
    Lease,
    OrphanedAttempt,
    completed,
    failed,
)
from opencode_tasks.opencode.instance_dir import is_locked
from opencode_tasks.opencode.kept_sessions import keep_session
from opencode_tasks.opencode.leftovers import (
    ended_at,
    forget_session,
    instance_dir_of,
    instance_dirs,
    is_orphaned,
    kept_sessions,
    read_orphaned_sessions,
    unfinished_record,
    unrecorded_sessions,
)
from opencode_tasks.opencode.session_store import SessionStore, session_store
from opencode_tasks.system.process_identity import is_dead

# The guard of a dead process ends its opencode within this time.
GUARD_LIMIT_S = 10.0
POLL_INTERVAL_S = 0.25


async def recover_attempts(context: BatchContext) -> int:
    """Record the end of attempts of dead processes on this host, at open rows of the run.

    A row whose session has ended gets its outcome. The others are open again, and their attempt ended
    as ``crashed``; the session of an agent is kept for the next attempt. Attempts of living processes are
    left alone. Returns the number of recovered attempts.
    """
    by_data_dir: dict[str | None, list[tuple[OrphanedAttempt, Lease | None]]] = {}
    for orphan in await _orphans(context):
        if is_dead(orphan.owner) and await asyncio.to_thread(_is_deserted, orphan):
            await context.db(context.ledger.queue.break_lease, orphan.row_key, orphan.owner)
        lease = await context.db(_take_lease, context, orphan)
        if not isinstance(lease, AlreadyLeased):
            own_lease = lease if isinstance(lease, Lease) else None
            by_data_dir.setdefault(orphan.data_dir, []).append((orphan, own_lease))
    for data_dir, attempts in by_data_dir.items():
        session_ids = [orphan.session_id for orphan, _ in attempts if orphan.session_id is not None]
        try:
            sessions = await _read_sessions(context, data_dir, session_ids)
        except SetupError:
            # Nothing is known about them: a later batch recovers them, and their rows are sent again.
            for lease in (lease for _, lease in attempts if lease is not None):
                await context.db(context.ledger.queue.release, lease)
            continue
        for orphan, lease in attempts:
            found = sessions.get(orphan.session_id) if orphan.session_id is not None else None
            await context.db(_record_end, context, orphan, lease, found or ())
    await context.db(forget_recorded, context)
    return sum(len(attempts) for attempts in by_data_dir.values())


async def _orphans(context: BatchContext) -> list[OrphanedAttempt]:
    """Attempts without an end whose owner is not at work, with their sessions on this disk."""
    ledger, run_id = context.ledger, context.run_spec.run_id
    orphans = await context.db(ledger.attempts.orphaned, run_id, context.host)
    orphans = await asyncio.to_thread(_with_sessions, orphans)
    owners = await context.db(ledger.queue.owners, run_id)
    at_work = {owner for owner in owners if not is_dead(owner)}
    return [orphan for orphan in orphans if orphan.owner not in at_work]


def _is_deserted(orphan: OrphanedAttempt) -> bool:
    """Whether no process works in the instance directory of an attempt, so that nothing is in flight."""
    if orphan.data_dir is None:
        return True
    instance_dir = instance_dir_of(Path(orphan.data_dir))
    return not instance_dir.root.exists() or is_orphaned(instance_dir)


def forget_recorded(context: BatchContext) -> None:
    """Delete sessions that no attempt needs any more.

    Those whose end is in the ledger (their process died before it deleted them), and kept ones of rows that
    have an outcome or another session.
    """
    unused = [instance_dir for instance_dir in instance_dirs() if not is_locked(instance_dir)]
    recorded, kept = unrecorded_sessions(unused), kept_sessions(unused)
    found = context.ledger.attempts.ended(recorded) if recorded else []
    found += context.ledger.continued.without_successor(kept) if kept else []
    for attempt_id in found:
        data_dir, session_id = (recorded | kept)[attempt_id]
        # Checked last, since it looks at every process of the machine.
        if is_orphaned(instance_dir := instance_dir_of(data_dir)):
            forget_session(instance_dir, session_id)
    store = _store(context)
    if store is not None and (stored := store.attempt_ids()):
        store.remove(context.ledger.continued.without_successor(stored))


def _store(context: BatchContext) -> SessionStore | None:
    """The store of the run. Only with the backend ``cli`` each session has a directory of its own."""
    return session_store(context.run_spec.spec) if context.run_spec.backend == "cli" else None


def _with_sessions(orphans: Sequence[OrphanedAttempt]) -> list[OrphanedAttempt]:
    """The attempts, with the sessions of those that died before their session was written to the ledger."""
    is_missing = any(orphan.session_id is None for orphan in orphans)
    among = instance_dirs() if is_missing else []
    on_disk = unrecorded_sessions(among) | kept_sessions(among)

    def with_session(orphan: OrphanedAttempt) -> OrphanedAttempt:
        if orphan.session_id is not None or orphan.attempt_id not in on_disk:
            return orphan
        data_dir, session_id = on_disk[orphan.attempt_id]
        return replace(orphan, session_id=session_id, data_dir=str(data_dir))

    return [with_session(orphan) for orphan in orphans]


def _take_lease(context: BatchContext, orphan: OrphanedAttempt) -> Any:
    return context.ledger.queue.claim_row(
        orphan.run_id, orphan.row_id, owner=context.owner, lease_s=context.run_spec.lease_s
    )


async def _read_sessions(
    context: BatchContext, data_dir: str | None, session_ids: Sequence[str]
) -> Mapping[str, list[Session]]:
    if data_dir is None:
        return {}
    deadline = time.monotonic() + GUARD_LIMIT_S
    while True:
        try:
            return await read_orphaned_sessions(
                context.run_spec.spec, Path(data_dir), session_ids, context.run_spec.unpriced
            )
        except SetupError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(POLL_INTERVAL_S)


def _record_end(
    context: BatchContext, orphan: OrphanedAttempt, lease: Lease | None, sessions: Sequence[Session]
) -> None:
    answer, error = ended_answer(sessions, context.run_spec.answer_format, context.node_id)
    now = ended_at(sessions) or datetime.now(UTC)
    is_failed = error is not None and _is_final(context, error, now)
    work = context.run_spec.work
    if answer is not None and work is not None and work.check_retries and has_work(sessions):
        # The next attempt checks it: the agent may get the output of the check.
        answer = None
    if work is not None and orphan.data_dir is not None and (answer or is_failed):
        place = RowPlace(run_id=orphan.run_id, row_id=orphan.row_id)
        if answer is not None:
            # Without the prompts that --check-retries allows: the process of the session is gone.
            answer, error = _checked(work, Path(orphan.data_dir), answer)
        answer, error = with_work(work, place, Path(orphan.data_dir), answer, error)
    record = answer.attempt if answer else error.attempt if error else None
    record = context.run_spec.prices.priced_record(
        record or unfinished_record(orphan.session_id or "", sessions)
    )
    row = None
    if answer is not None:
        row = completed(answer)
    elif error is not None and _is_final(context, error, now):
        row = failed(error, record)
    elif error is None:
        error = OpenCodeError(
            context.node_id, CRASHED, raw_message="the process died with this row in flight"
        )
    is_kept = row is None and _keep(orphan, error, sessions, _store(context))
    end = EndedAttempt(
        lease=lease, attempt_id=orphan.attempt_id, record=record, now=now, error=error, row=row
    )
    if not context.ledger.queue.end([end])[0] or is_kept:
        return
    if orphan.data_dir is not None and orphan.session_id is not None:
        forget_session(instance_dir_of(Path(orphan.data_dir)), orphan.session_id)


def _is_final(context: BatchContext, error: OpenCodeError, now: datetime) -> bool:
    return isinstance(decide(error, 1, now, context.run_spec.limits), Fail)


def _keep(
    orphan: OrphanedAttempt,
    error: OpenCodeError | None,
    sessions: Sequence[Session],
    store: SessionStore | None,
) -> bool:
    """Keep the session of an agent for the next attempt at its row; whether it is kept."""
    if orphan.data_dir is None or orphan.session_id is None:
        return False
    if not has_work(sessions) or (error is not None and not error.reaction.continues_session):
        return False
    keep_session(instance_dir_of(Path(orphan.data_dir)), orphan.session_id, orphan.attempt_id, store)
    return True


def _checked(work: WorkSpec, data_dir: Path, answer: Answer) -> tuple[Answer | None, OpenCodeError | None]:
    try:
        return required(work, checked(work, data_dir, answer)[0]), None
    except OpenCodeError as error:
        return None, error
