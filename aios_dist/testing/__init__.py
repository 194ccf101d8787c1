"""For tests, users' and ours: a fake LLM server and a clock to turn by hand. Needs nothing else of aios_dist.

python -m aios_dist.testing --latency 0.1        prints its base URL, answers until it is ended

async with FakeLLM(latency=0.1, faults="429:0.1") as llm:
    client = AsyncOpenAI(base_url=llm.url, api_key="any", max_retries=0)
"""

from aios_dist.testing.calls import CLIENT_LEFT, Call
from aios_dist.testing.clock import FakeClock
from aios_dist.testing.fake_llm import FakeLLM
from aios_dist.testing.faults import Fault, Faults
from aios_dist.testing.latency import Constant, LogNormal, Tokens, Uniform
from aios_dist.testing.replies import Reply, ToolCall

__all__ = [
    "CLIENT_LEFT",
    "Call",
    "Constant",
    "FakeClock",
    "FakeLLM",
    "Fault",
    "Faults",
    "LogNormal",
    "Reply",
    "Tokens",
    "ToolCall",
    "Uniform",
]
