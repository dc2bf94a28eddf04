"""A small language model on this machine, behind an OpenAI-compatible server, free of charge.

SmolLM2-135M-Instruct, served by llama.cpp (xllamacpp, the extra ``local``) in a child process that ends
with its parent. It needs no provider and no network. Its answers are poor.
"""

from opencode_tasks.local_model.provider import PROVIDER_MODEL_REF, opencode_provider_config
from opencode_tasks.local_model.server import (
    LocalModelOnDemand,
    RunningLocalModel,
    local_model_on_demand,
    local_provider,
    require_engine,
    start_local_model,
)

__all__ = [
    "PROVIDER_MODEL_REF",
    "LocalModelOnDemand",
    "RunningLocalModel",
    "local_model_on_demand",
    "local_provider",
    "opencode_provider_config",
    "require_engine",
    "start_local_model",
]
