"""The local model's real server: real inference over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cluster import Desk
from processes import ours

from opencode_tasks.errors import SetupError
from opencode_tasks.local_model import (
    PROVIDER_MODEL_REF,
    RunningLocalModel,
    opencode_provider_config,
    start_local_model,
)
from opencode_tasks.opencode.install import install_local_model, install_opencode, model_path

REVIEW = "Is this review positive or negative? Answer with one word.\n\nReview: Best headphones I ever had!"


@pytest.fixture(scope="module")
def model() -> Iterator[RunningLocalModel]:
    install_local_model(print)
    with start_local_model(threads=2) as running:
        yield running


def ask(base_url: str, prompt: str, **options: Any) -> httpx.Response:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 12,
        **options,
    }
    return httpx.post(f"{base_url}/chat/completions", json=body, timeout=120, trust_env=False)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_it_answers_with_usage_and_the_same_each_time(model: RunningLocalModel) -> None:
    first, second = ask(model.base_url, REVIEW), ask(model.base_url, REVIEW)
    assert text_of(first).strip()
    assert text_of(first) == text_of(second)
    usage = first.json()["usage"]
    assert usage["prompt_tokens"] > 20
    assert 0 < usage["completion_tokens"] <= 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.slow
def test_a_streamed_answer_is_the_same_and_ends_with_usage(model: RunningLocalModel) -> None:
    streamed = ask(model.base_url, REVIEW, stream=True, stream_options={"include_usage": True})
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    whole = ask(model.base_url, REVIEW)
    assert "".join(pieces) == text_of(whole)
    assert chunks[-1]["usage"]["completion_tokens"] == whole.json()["usage"]["completion_tokens"]
    assert chunks[-1]["usage"]["prompt_tokens"] == whole.json()["usage"]["prompt_tokens"]


@pytest.mark.nightly
def test_four_at_once_get_their_own_answers(model: RunningLocalModel) -> None:
    prompts = [f"Say the word {word}." for word in ("apple", "river", "window", "tiger")]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda prompt: text_of(ask(model.base_url, prompt)), prompts))
    assert len(set(answers)) == 4


@pytest.mark.nightly
def test_each_slot_has_the_whole_context(model: RunningLocalModel) -> None:
    prompts = [f"{word} " * 600 for word in ("apple", "river", "window", "tiger")]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda prompt: ask(model.base_url, prompt, max_tokens=1), prompts))
    assert [reply.status_code for reply in replies] == [200] * 4
    assert all(reply.json()["usage"]["prompt_tokens"] > 600 for reply in replies)


def test_a_prompt_that_is_too_long_is_refused_clearly(model: RunningLocalModel) -> None:
    reply = ask(model.base_url, "word " * 3000)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "exceed_context_size_error"
    assert "exceeds the available context size (2048 tokens)" in reply.json()["error"]["message"]


def test_other_peoples_prompts_are_not_shown(model: RunningLocalModel) -> None:
    slots = httpx.get(model.base_url.removesuffix("/v1") + "/slots", trust_env=False)
    assert slots.status_code != 200


def test_the_config_fits_the_server(model: RunningLocalModel) -> None:
    provider = opencode_provider_config(model.base_url)["provider"]["local"]
    entry = provider["models"]["smollm2"]
    assert PROVIDER_MODEL_REF == "local/smollm2"
    assert provider["options"]["baseURL"] == model.base_url
    assert entry["cost"]["input"] == entry["cost"]["output"] == 0
    served = httpx.get(f"{model.base_url}/models", trust_env=False).json()["data"][0]
    assert served["id"] == "smollm2"
    assert served["meta"]["n_ctx"] == entry["limit"]["context"]


@pytest.mark.nightly
@pytest.mark.parametrize(("words", "ending"), [(1700, "step_finish"), (3000, "error")])
def test_opencode_asks_it_once_whatever_the_length(
    model: RunningLocalModel, tmp_path: Path, words: int, ending: str
) -> None:
    config = {
        **opencode_provider_config(model.base_url),
        "agent": {"plain": {"mode": "primary", "prompt": "You help.", "tools": {"*": False}}},
    }
    private = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CACHE", "CONFIG", "DATA", "STATE")}
    binary = install_opencode(print)
    (tmp_path / "prompt").write_text("word " * words)
    with (tmp_path / "prompt").open() as prompt, (tmp_path / "out").open("w") as out:
        subprocess.run(
            [
                *(str(binary), "run", "--format", "json", "--title", "t"),
                *("--agent", "plain", "--model", PROVIDER_MODEL_REF, "--dir", str(tmp_path)),
            ],
            env={
                **os.environ,
                **private,
                "OPENCODE_CONFIG_CONTENT": json.dumps(config),
                "TMPDIR": str(tmp_path),
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
            },
            stdin=prompt,
            stdout=out,
            timeout=200,
            check=False,
        )
    events = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    ends = [event for event in events if event["type"] in {"step_finish", "error"}]
    assert [event["type"] for event in ends] == [ending]
    if ending == "error":
        assert ends[0]["error"]["name"] == "ContextOverflowError"


def test_stop_ends_the_process_and_removes_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    running = start_local_model(threads=1, parallel=1)
    assert running.is_running()
    assert list(tmp_path.iterdir())
    running.stop()
    running.stop()
    assert not running.is_running()
    assert not psutil.pid_exists(running.pid)
    assert list(tmp_path.iterdir()) == []


def test_the_server_dies_with_a_killed_owner() -> None:
    code = "import time; from opencode_tasks.local_model import start_local_model as s\n"
    code += "print(s(threads=1, parallel=1).pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 15
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_a_taken_port_is_an_error_with_the_servers_words(model: RunningLocalModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SetupError, match="ended") as caught:
        start_local_model(port=taken.getsockname()[1], threads=1, parallel=1)
    assert "Failed to init server" in caught.value.raw_message


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF or not")
    with pytest.raises(SetupError, match="ended"):
        start_local_model(model=tmp_path / "model.gguf", threads=1)


def test_a_missing_model_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError) as caught:
        start_local_model(model=tmp_path / "gone.gguf")
    assert "opencode-tasks setup --local" in caught.value.hint
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SetupError) as caught:
        start_local_model()
    assert str(model_path()) in caught.value.raw_message
    assert "opencode-tasks setup --local" in caught.value.hint


@pytest.mark.nightly
def test_annotate_starts_the_model_only_to_send_rows(desk: Desk) -> None:
    install_local_model(print)
    desk.write_csv("in.csv", [{"id": "1", "text": "ok"}])
    arguments = ["in.csv", "-o", "out.csv", "--template", "{text}", "--model", PROVIDER_MODEL_REF]
    wrong = desk.annotate(*arguments, "--max-attempts", "0")
    assert (wrong.code, "--max-attempts" in wrong.stderr) == (2, True), wrong.stderr
    dry = desk.annotate(*arguments, "--dry-run")
    assert (dry.code, "1 of 1 row would be sent" in dry.stdout) == (0, True), dry.stderr
    sent = desk.annotate(*arguments)
    assert (sent.code, "local model: serving at" in sent.stderr) == (0, True), sent.stderr
    again = desk.annotate(*arguments, "--json")
    assert again.summary["rows"]["reused"] == 1, again.stderr
    assert not any("serving at" in ran.stderr for ran in (wrong, dry, again))


def test_setup_fails_without_the_package_that_serves_the_model(tmp_path: Path) -> None:
    # Hiding an installed package is what an environment without the extra looks like.
    code = "import sys; sys.modules['xllamacpp'] = None; from opencode_tasks.cli.app import main; main()"
    binary = install_opencode(print)
    ran = subprocess.run(
        [sys.executable, "-c", code, "setup", "--local"],
        env=os.environ | {"OPENCODE_TASKS_OPENCODE_BIN": str(binary), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 70, ran.stderr
    assert "the local model is ready" not in ran.stderr
    assert "pip install xllamacpp" in ran.stderr


def test_a_server_that_is_too_slow_is_ended(model: RunningLocalModel) -> None:
    before = local_models()
    with pytest.raises(SetupError, match="not ready in"):
        start_local_model(start_limit_s=0.01)
    assert local_models() <= before


def local_models() -> set[int]:
    return {process.pid for process, words in ours() if "opencode_tasks.local_model" in words}
