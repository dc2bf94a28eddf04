"""What a killed process left behind is read, judged and forgotten, without a word to the provider."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import AGENTS

from opencode_tasks.domain.records import Session, Usage
from opencode_tasks.errors import OpenCodeError, SetupError
from opencode_tasks.opencode.backend import OpencodeSpec
from opencode_tasks.opencode.config import merge
from opencode_tasks.opencode.instance_dir import InstanceDir, instance_dirs_root, make_instance_dir
from opencode_tasks.opencode.leftovers import (
    ended_at,
    finished_result,
    forget_session,
    instance_dir_of,
    instance_dirs,
    is_orphaned,
    read_orphaned_sessions,
    remove_orphaned_dirs,
    unfinished_record,
)
from opencode_tasks.outcomes.backend_result import SessionResult
from opencode_tasks.outcomes.outcome import read_outcome, record_of
from opencode_tasks.outcomes.session_messages import answer_text, session_of
from opencode_tasks.testing import Reply, ScriptedProvider

LIMIT_S = 10.0
START_LIMIT_S = 120.0
RECORDINGS = Path(__file__).parents[1] / "recordings" / "opencode-1.18.33"

OWNER = """
import json, sys, time, threading
from pathlib import Path
from opencode_tasks.opencode.backend import OpencodeSpec, Request
from opencode_tasks.opencode.server_pool import server_pool

binary, config, name, asks = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
spec = OpencodeSpec(binary=binary, config=config, model_ref="fake/echo")

async def one(prompt, agent):
    request = Request(prompt=prompt, model_ref="fake/echo", agent=agent)
    async with server_pool.use(spec, name, frozenset()) as backend:
        def tell(session_id):
            told = {"session": session_id, "data": str(backend.data_dir(session_id))}
            print(json.dumps(told), flush=True)
        await backend.run(request, tell)
    print("{}", flush=True)

for prompt, agent in asks:
    server_pool.call(one, prompt, agent)
time.sleep(600)
"""

# It reads the sessions that are left, and prints a line before it queries the server that it started.
READER = """
import asyncio, json, sys, time
from pathlib import Path
from opencode_tasks.opencode import leftovers
from opencode_tasks.opencode.backend import OpencodeSpec

async def stuck(server, session_id, unpriced):
    print("reading", flush=True)
    await asyncio.sleep(600)

leftovers._read = stuck
spec = OpencodeSpec(binary=Path(sys.argv[1]))
asyncio.run(leftovers.read_orphaned_sessions(spec, Path(sys.argv[2]), ["ses_1"], frozenset()))
"""


class Owner:
    """A process of ours that asks ``prompt agent`` pairs one by one, until it is killed."""

    def __init__(self, spec: OpencodeSpec, backend: str, *asks: tuple[str, str]) -> None:
        config = json.dumps(spec.config)
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(spec.binary), config, backend, json.dumps(asks)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> dict[str, Any]:
        """The next line that it printed."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait(LIMIT_S)
        self.process.stdout.close()


def is_left(home: InstanceDir) -> bool:
    """Whether an instance directory has unrecorded sessions and no process that could record them."""
    return home.marks.is_dir() and any(home.marks.iterdir()) and is_orphaned(home)


def left_homes() -> list[InstanceDir]:
    return [home for home in instance_dirs() if is_left(home)]


def eventually(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def spec(opencode_binary: Path, provider: ScriptedProvider) -> OpencodeSpec:
    config = merge(provider.opencode_config(), {"agent": AGENTS})
    return OpencodeSpec(binary=opencode_binary, config=config, model_ref="fake/echo")


@pytest.fixture
def own(spec: OpencodeSpec) -> Iterator[Callable[..., Owner]]:
    started: list[Owner] = []

    def start(backend: str, *asks: tuple[str, str]) -> Owner:
        started.append(Owner(spec, backend, *asks))
        return started[-1]

    yield start
    for owner in started:
        owner.kill()


def read(spec: OpencodeSpec, data_dir: Path, *session_ids: str) -> dict[str, list[Session]]:
    return asyncio.run(read_orphaned_sessions(spec, data_dir, session_ids, frozenset()))


def prints_of(folder: Path) -> dict[str, str]:
    """The files below a folder with what is in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def judged(sessions: list[Session]) -> Any:
    result, at = finished_result(sessions), ended_at(sessions)
    assert result is not None
    assert at is not None
    return read_outcome(result, node_id="node", now=at)


@pytest.mark.slow
def test_the_sessions_of_a_killed_server_are_adopted(
    own: Callable[..., Owner], spec: OpencodeSpec, provider: ScriptedProvider
) -> None:
    task = {"description": "a part", "prompt": "the hand's part", "subagent_type": "hand"}
    step = ("bash", {"command": "echo stepped", "description": "say a word"})
    full = Reply(
        text="Finished.", input_tokens=100, cache_read_tokens=30, output_tokens=20, reasoning_tokens=5
    )
    provider.on("finishes", full)
    provider.on("hands on", Reply(tool_calls=[("task", task)]), Reply(text="Handed on."))
    provider.on("fails", Reply(status=429, headers={"retry-after": "7200"}, body="slow down"))
    provider.on("hangs", Reply(tool_calls=[step]), Reply(hang=True))
    asks = [("finishes", "plain"), ("hands on", "boss"), ("fails", "plain"), ("hangs", "worker")]
    owner = own("server", *asks)
    told = [owner.told() for _ in range(7)]
    assert eventually(lambda: provider.prompts().count("hangs") == 2, START_LIMIT_S)
    finishes, hands_on, fails, hangs = [line["session"] for line in told if line]
    data_dir = Path(told[0]["data"])
    home = instance_dir_of(data_dir)
    assert not is_left(home)
    with pytest.raises(SetupError, match="still runs"):
        read(spec, data_dir, finishes)
    owner.kill()
    assert eventually(lambda: left_homes() == [home])
    calls, before = len(provider.calls), prints_of(home.root)

    found = read(spec, data_dir, finishes, hands_on, fails, hangs, "ses_df2e4d562ffeoXq0lnOnPrbYVG")

    assert list(found) == [finishes, hands_on, fails, hangs]
    assert len(provider.calls) == calls
    assert prints_of(home.root) == before
    assert [path.name for path in instance_dirs_root().iterdir()] == [home.root.name]

    answer = judged(found[finishes])
    assert answer.text == "Finished."
    assert answer.attempt.usage_known
    [bought] = answer.attempt.steps
    assert bought.usage == Usage(
        input_tokens=70,
        cache_read_tokens=30,
        output_tokens=15,
        reasoning_tokens=5,
        cost_pico=bought.usage.cost_pico,
    )
    call = next(call for call in provider.calls if call.prompt == "finishes")
    assert (call.input_tokens, call.output_tokens) == (100, 20)
    assert bought.usage.cost_pico

    assert judged(found[hands_on]).text == "Handed on."
    root, child = found[hands_on]
    assert (child.parent_id, answer_text(child.messages)) == (root.session_id, "the hand's part")
    with pytest.raises(OpenCodeError) as failed:
        judged(found[fails])
    assert failed.value.error_type == "rate_limit"

    assert finished_result(found[hangs]) is None
    record = unfinished_record(hangs, found[hangs])
    assert not record.usage_known
    assert [step.finish_reason for step in record.steps] == ["tool-calls"]

    for session_id in (finishes, hands_on, fails):
        forget_session(home, session_id)
        assert is_left(home)
    forget_session(home, hangs)
    assert list(instance_dirs_root().iterdir()) == []
    assert read(spec, data_dir, finishes) == {}


@pytest.mark.nightly
def test_the_sessions_of_killed_runs_are_adopted(
    own: Callable[..., Owner], spec: OpencodeSpec, provider: ScriptedProvider
) -> None:
    provider.on("hangs", Reply(hang=True))
    owner = own("cli", ("finishes", "plain"), ("hangs", "plain"))
    finishes, _, hangs = [owner.told() for _ in range(3)]
    assert eventually(lambda: "hangs" in provider.prompts(), START_LIMIT_S)
    assert left_homes() == []
    owner.kill()
    by_session = {told["session"]: instance_dir_of(Path(told["data"])) for told in (finishes, hangs)}
    assert eventually(lambda: set(left_homes()) == set(by_session.values()))
    calls = len(provider.calls)
    [done] = read(spec, Path(finishes["data"]), finishes["session"]).values()
    [undone] = read(spec, Path(hangs["data"]), hangs["session"]).values()
    assert judged(done).text == "finishes"
    assert finished_result(undone) is None
    assert len(provider.calls) == calls
    for session_id, home in by_session.items():
        forget_session(home, session_id)
    assert list(instance_dirs_root().iterdir()) == []


@pytest.mark.nightly
def test_a_reader_that_is_killed_loses_nothing(opencode_binary: Path) -> None:
    home = left(marks=["ses_1"])
    (home.data / "opencode").mkdir()
    (home.data / "opencode" / "note").write_text("kept")
    before = prints_of(home.root)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(opencode_binary), str(home.data)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    reader.kill()
    reader.communicate()
    assert eventually(lambda: list(instance_dirs_root().iterdir()) == [home.root])
    assert prints_of(home.root) == before
    assert left_homes() == [home]


def left(*, marks: list[str]) -> InstanceDir:
    """A home whose owner is gone, with these marks."""
    home = make_instance_dir()
    for session_id in marks:
        home.mark(session_id)
    home.release()
    return home


def test_a_home_is_left_once_nobody_is_there() -> None:
    home = make_instance_dir()
    home.mark("ses_1")
    assert not is_left(home)
    home.release()
    assert is_left(home)
    guard = psutil.Popen(["sleep", "60"], cwd=home.work)
    try:
        assert not is_left(home)
    finally:
        guard.send_signal(signal.SIGKILL)
        guard.wait()
    assert is_left(home)
    home.lock_file.unlink()
    assert not is_left(home)


def test_a_home_without_marks_is_swept_and_not_left() -> None:
    lived_in, empty, marked = make_instance_dir(), left(marks=[]), left(marks=["ses_1"])
    assert left_homes() == [marked]
    remove_orphaned_dirs()
    assert not empty.root.exists()
    assert lived_in.run.is_dir()
    assert (marked.data.is_dir(), marked.run.exists()) == (True, False)
    lived_in.remove()


def test_nothing_is_started_for_nothing(tmp_path: Path) -> None:
    nowhere = OpencodeSpec(binary=tmp_path / "nothing")
    assert read(nowhere, left(marks=["ses_1"]).data) == {}
    assert read(nowhere, tmp_path / "gone" / "data", "ses_1") == {}


UNFINISHED = {
    *("hang", "429-long-without-plugin", "500-without-plugin", "insufficient-quota-without-plugin"),
    "permission",
}


@pytest.mark.parametrize("folder", sorted(RECORDINGS.glob("*/server")), ids=lambda path: path.parent.name)
def test_a_recording_is_finished_or_not(folder: Path) -> None:
    messages = json.loads((folder / "messages.json").read_text())
    sessions = [session_of("ses_1", messages)]
    assert (finished_result(sessions) is None) == (folder.parent.name in UNFINISHED)
    # Before its last message was complete, nothing was.
    del messages[-1]["info"]["time"]["completed"]
    assert finished_result([session_of("ses_1", messages)]) is None
    assert finished_result([session_of("ses_1", messages[:1])]) is None


def test_an_empty_session_is_unfinished() -> None:
    assert finished_result([]) is None
    assert finished_result([session_of("ses_1", [])]) is None
    assert ended_at([]) is None
    came = SessionResult(session_id="ses_1")
    assert unfinished_record("ses_1").usage_known == record_of(came, usage_known=False).usage_known


def test_the_end_is_the_last_messages() -> None:
    times = [{"created": 1000, "completed": 2000}, {"created": 3000, "completed": 4000}]
    messages = [{"info": {"role": "assistant", "time": time}, "parts": []} for time in times]
    assert ended_at([session_of("ses_1", messages)]) == datetime.fromtimestamp(4, UTC)
