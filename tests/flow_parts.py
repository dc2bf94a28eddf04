"""Flows of the tests, in a module that Ray's workers can import."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from prefect import flow, unmapped
from prefect_ray.context import remote_options
from processes import ours

from opencode_tasks import AnnotationResult, annotate, opencode_task

LIMIT_S = 90


@flow(persist_result=False, validate_parameters=False)
def users_flow(frame: pd.DataFrame, options: dict[str, Any]) -> list[AnnotationResult]:
    """A flow of a user. For Ray, everything in it must pickle."""
    return [annotate(frame, **options)]


@flow(persist_result=False, validate_parameters=False)
async def async_flow(frame: pd.DataFrame, options: dict[str, Any]) -> list[AnnotationResult]:
    """An async flow: an event loop runs in the thread that calls ``annotate``."""
    return [annotate(frame, **options)]


@flow(persist_result=False, validate_parameters=False)
def parent_flow(frame: pd.DataFrame, options: dict[str, Any]) -> list[AnnotationResult]:
    """A flow whose subflow annotates."""
    return users_flow(frame, options)


@flow(persist_result=False, validate_parameters=False)
def mapping_flow(prompts: list[str], options: dict[str, Any]) -> list[str]:
    """One task per prompt, on the nodes with credentials."""
    fixed: dict[str, Any] = {name: unmapped(value) for name, value in options.items()}
    with remote_options(resources={"opencode_creds": 0.01}):
        futures = opencode_task.map(prompts, **fixed)
    return [future.result().text for future in futures]


@contextmanager
def kill_worker_once(title: str, when: Callable[[], bool]) -> Generator[None]:
    """SIGKILL the first process with this title when ``when()`` is true; fails if that never happens."""
    killed: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and not killed:
            if when():
                for process, words in ours():
                    if words and words[0].startswith(title):
                        process.kill()
                        killed.append(process.pid)
                        return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    watcher.join(LIMIT_S)
    assert killed
