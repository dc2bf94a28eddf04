"""Have Prefect tell a person when a run waits, needs them, or has failed.

Makes one automation for each state, or brings it up to date, that sends the state's message through
a notification block that you have (in Prefect's pages under Blocks, or `prefect block create`):

    python deployments/notify.py slack-webhook/my-team
"""

from __future__ import annotations

import sys

from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

FLOW = "annotate-dataset"
STATES = {
    "Suspended": "needs a person",
    "AwaitingRetry": "waits",
    "Failed": "has failed",
    "Crashed": "has crashed",
}
BODY = """{{ flow.name }} / {{ flow_run.name }}: {{ flow_run.state.name }}

{{ flow_run.state.message }}

{{ flow_run|ui_url }}
"""


def main(block: str) -> None:
    """Make the automations; ``block`` is ``type/name``."""
    kind, _, name = block.partition("/")
    with get_client(sync_client=True) as client:
        found = client.read_block_document_by_name(name, kind)
        known = {automation.name: automation.id for automation in client.read_automations()}
        for state, words in STATES.items():
            title = f"opencode-tasks: a run {words}"
            automation = AutomationCore(
                name=title,
                description=f"Sends the message of {FLOW} runs that are {state} through {block}.",
                trigger=EventTrigger(
                    expect={f"prefect.flow-run.{state}"},
                    match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                    match_related=ResourceSpecification(
                        {"prefect.resource.role": "flow", "prefect.resource.name": FLOW}
                    ),
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[SendNotification(block_document_id=found.id, subject=f"{FLOW} {words}", body=BODY)],
            )
            if title in known:
                client.update_automation(known[title], automation)
            else:
                client.create_automation(automation)
            sys.stdout.write(f"{title}: {state} -> {block}\n")


if __name__ == "__main__":
    told = sys.argv[1:]
    if len(told) != 1 or "/" not in told[0]:
        sys.exit("usage: python deployments/notify.py BLOCK_TYPE/BLOCK_NAME")
    main(told[0])
