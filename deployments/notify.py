"""Have Prefect tell a person when a run needs them, waits for long, fails, or has spent its budget.

Makes an automation for each, or brings it up to date, that sends word through a notification block
that you have (in Prefect's pages under Blocks, or `prefect block create`):

    python deployments/notify.py slack-webhook/my-team
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

FLOW = "annotate-dataset"
STATE = """{{ flow.name }} / {{ flow_run.name }}: {{ flow_run.state.name }}

{{ flow_run.state.message }}

{{ flow_run|ui_url }}
"""
PAUSED = """{{ event.payload.message }}

{{ event.payload.open_rows }} rows wait; run {{ event.payload.run_id }}

{{ flow_run|ui_url }}
"""
FAILING = """{{ event.payload.failed }} of {{ event.payload.ended }} rows that have ended failed \
(of {{ event.payload.total }} in all); run {{ event.payload.run_id }}

{{ flow_run|ui_url }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What a person is told of: an event of Prefect's or of ours, by its labels."""

    words: str
    event: str
    body: str = STATE
    match: dict[str, str] = field(default_factory=dict[str, str])

    def automation(self, block_id: object) -> AutomationCore:
        """The automation that sends it."""
        # The run's own id is a resource of every event; a flow is related to those of its flow runs.
        match = {"prefect.resource.id": "*", **self.match}
        related = {"prefect.resource.role": "flow", "prefect.resource.name": FLOW}
        return AutomationCore(
            name=f"opencode-tasks: a run {self.words}",
            description=f"Tells when a run of {FLOW} {self.words}.",
            trigger=EventTrigger(
                expect={self.event},
                match=ResourceSpecification(match),  # pyright: ignore[reportArgumentType]
                match_related=ResourceSpecification(related),  # pyright: ignore[reportArgumentType]
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                SendNotification(
                    block_document_id=block_id,  # pyright: ignore[reportArgumentType]
                    subject=f"{FLOW} {self.words}",
                    body=self.body,
                )
            ],
        )


WORDS = (
    Word(words="needs a person", event="prefect.flow-run.Suspended"),
    Word(words="has failed", event="prefect.flow-run.Failed"),
    Word(words="has crashed", event="prefect.flow-run.Crashed"),
    Word(
        words="waits for over an hour",
        event="opencode.run.paused",
        match={"opencode.wait": "long"},
        body=PAUSED,
    ),
    Word(
        words="has spent its budget",
        event="opencode.run.paused",
        match={"opencode.reason": "budget_exceeded"},
        body=PAUSED,
    ),
    Word(words="fails in many rows", event="opencode.run.failing", body=FAILING),
)


def main(block: str) -> None:
    """Make the automations; ``block`` is ``type/name``."""
    kind, _, name = block.partition("/")
    with get_client(sync_client=True) as client:
        found = client.read_block_document_by_name(name, kind)
        known = {automation.name: automation.id for automation in client.read_automations()}
        for word in WORDS:
            _put(client, word.automation(found.id), known)
            sys.stdout.write(f"a run {word.words} -> {block}\n")


def _put(client: SyncPrefectClient, automation: AutomationCore, known: Mapping[str, object]) -> None:
    if automation.name in known:
        client.update_automation(known[automation.name], automation)  # pyright: ignore[reportArgumentType]
    else:
        client.create_automation(automation)


if __name__ == "__main__":
    told = sys.argv[1:]
    if len(told) != 1 or "/" not in told[0]:
        sys.exit("usage: python deployments/notify.py BLOCK_TYPE/BLOCK_NAME")
    main(told[0])
