"""Files of a request as opencode gets them: copies on this machine, which the plugin adds to the prompt."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from opencode_tasks.attachments.fault import FileFaultError
from opencode_tasks.attachments.file_cache import FileCache
from opencode_tasks.domain.records import AttemptRecord, Session
from opencode_tasks.errors import AttachedFileError
from opencode_tasks.opencode.backend import Request
from opencode_tasks.system.ray_node import current_node_id

# Key of the metadata of the prompt, as ``plugin/files.js`` reads it.
FILES_KEY = "opencodeTasksFiles"
IMAGE_NAME = "image"


@contextlib.asynccontextmanager
async def attached(
    cache: FileCache, request: Request, sessions_of: Callable[[str], Sequence[Session]]
) -> AsyncGenerator[list[dict[str, Any]]]:
    """The files of a request for the plugin, which are there in this context.

    ``sessions_of`` has what is known of a session that is continued. Raises AttachedFileError if a file
    cannot be read, or if its content has changed.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            paths = await stack.enter_async_context(cache.held(request.files))
        except FileFaultError as fault:
            raise _error(request, fault, sessions_of) from None
        yield [
            {
                "path": str(path),
                "media_type": file.media_type,
                # The name of an image does not decide the answer, so it is not sent.
                "name": IMAGE_NAME if file.kind == "image" else file.name,
            }
            for file, path in zip(request.files, paths, strict=True)
        ]


def _error(
    request: Request, fault: FileFaultError, sessions_of: Callable[[str], Sequence[Session]]
) -> AttachedFileError:
    error = AttachedFileError(current_node_id(), raw_message=str(fault))
    if fault.is_final:
        error.max_attempts = 1
    # Nothing was sent, but earlier prompts of the session are paid for.
    session_id = request.session_id
    found: Sequence[Session] = () if session_id is None else sessions_of(session_id)
    error.attempt = AttemptRecord(session_id=session_id, sessions=found)
    return error
