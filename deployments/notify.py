"""Create Prefect automations that send a notification about runs.

A notification is sent if a run needs a person, has failed or crashed, waits for over an hour, has spent
its budget, has many failed rows, or if its canaries show a drift. Notifications go through an existing
notification block: create one in Prefect's UI under Blocks, or with `prefect block create`.

    python deployments/notify.py slack-webhook/my-team

Automations that exist are updated.
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
STATE_BODY = """{{ flow.name }} / {{ flow_run.name }}: {{ flow_run.state.name }}

{{ flow_run.state.message }}

{{ flow_run|ui_url }}
"""
PAUSED_BODY = """{{ event.payload.message }}

{{ event.payload.open_rows }} open rows; run {{ event.payload.run_id }}

{{ flow_run|ui_url }}
"""
FAILING_BODY = """{{ event.payload.failed }} of {{ event.payload.ended }} processed rows failed \
({{ event.payload.total }} rows in total); run {{ event.payload.run_id }}

{{ flow_run|ui_url }}
"""
DRIFT_BODY = """{{ event.payload.message }}

Since run {{ event.payload.since }}; {{ event.payload.rows }} canaries of run {{ event.payload.run_id }}

{{ flow_run|ui_url }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notification about an event of a flow run.

    ``subject`` continues "a run". ``match`` are labels of the event, all of which must match.
    """

    subject: str
    event: str
    body: str = STATE_BODY
    match: dict[str, str] = field(default_factory=dict[str, str])

    def automation(self, block_id: object) -> AutomationCore:
        """Return the automation that sends the notification through the block with this id."""
        # The flow is a related resource of the events of its flow runs.
        match = {"prefect.resource.id": "*", **self.match}
        related = {"prefect.resource.role": "flow", "prefect.resource.name": FLOW}
        return AutomationCore(
            name=f"opencode-tasks: a run {self.subject}",
            description=f"Sends a notification if a run of {FLOW} {self.subject}.",
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
                    subject=f"{FLOW} {self.subject}",
                    body=self.body,
                )
            ],
        )


NOTIFICATIONS = (
    Notification(subject="needs a person", event="prefect.flow-run.Suspended"),
    Notification(subject="has failed", event="prefect.flow-run.Failed"),
    Notification(subject="has crashed", event="prefect.flow-run.Crashed"),
    Notification(
        subject="waits for over an hour",
        event="opencode.run.paused",
        match={"opencode.wait": "long"},
        body=PAUSED_BODY,
    ),
    Notification(
        subject="has spent its budget",
        event="opencode.run.paused",
        match={"opencode.reason": "budget_exceeded"},
        body=PAUSED_BODY,
    ),
    Notification(subject="fails in many rows", event="opencode.run.failing", body=FAILING_BODY),
    Notification(subject="shows a drift", event="opencode.quality.drift", body=DRIFT_BODY),
)


def main(block: str) -> None:
    """Create or update the automations; ``block`` is ``type/name``."""
    block_type, _, name = block.partition("/")
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name(name, block_type)
        existing = {automation.name: automation.id for automation in client.read_automations()}
        for notification in NOTIFICATIONS:
            _save(client, notification.automation(document.id), existing)
            sys.stdout.write(f"a run {notification.subject} -> {block}\n")


def _save(client: SyncPrefectClient, automation: AutomationCore, existing: Mapping[str, object]) -> None:
    if automation.name in existing:
        client.update_automation(existing[automation.name], automation)  # pyright: ignore[reportArgumentType]
    else:
        client.create_automation(automation)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) != 1 or "/" not in arguments[0]:
        sys.exit("usage: python deployments/notify.py BLOCK_TYPE/BLOCK_NAME")
    main(arguments[0])
