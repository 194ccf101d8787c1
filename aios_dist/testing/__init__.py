"""For tests, users' and ours: a fake LLM server, and ``rehearse()``: an agent, run here and now.

But for the last it needs nothing else of aios_dist.

python -m aios_dist.testing --latency 0.1        prints its base URL, answers until it is ended

async with FakeLLM(latency=0.1, faults="429:0.1") as llm:
    client = AsyncOpenAI(base_url=llm.url, api_key="any", max_retries=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aios_dist.testing.calls import CLIENT_LEFT, Call
from aios_dist.testing.fake_llm import FakeLLM
from aios_dist.testing.faults import Fault, Faults
from aios_dist.testing.latency import Constant, LogNormal, Tokens, Uniform
from aios_dist.testing.replies import Reply, ToolCall

if TYPE_CHECKING:
    from aios_dist.testing.rehearsal import rehearse

__all__ = [
    "CLIENT_LEFT",
    "Call",
    "Constant",
    "FakeLLM",
    "Fault",
    "Faults",
    "LogNormal",
    "Reply",
    "Tokens",
    "ToolCall",
    "Uniform",
    "rehearse",
]


def __getattr__(name: str) -> Any:
    if name != "rehearse":
        raise AttributeError(f"module 'aios_dist.testing' has no attribute {name!r}")
    from aios_dist.testing.rehearsal import rehearse

    return rehearse
