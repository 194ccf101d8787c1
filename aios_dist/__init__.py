"""A distributed task-queue backend for LLM agents, on Celery, Redis, kombu and Flower.

The public names are imported when they are first used, so that a tool that needs one of them (the fake LLM,
the command line's help) does not pay for Celery. Nothing else is imported here, not even ``typing``: until
the command line's first own line has run, Ctrl-C is a traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aios_dist.agents import Agent, Budget, JobSpec, PromptsAgent, agent, prompts
    from aios_dist.bounds import as_done, within
    from aios_dist.calls import LLMRequest, LLMResponse, Usage
    from aios_dist.commands import gather, llm, signal, sleep, tool
    from aios_dist.errors import (
        AiosError,
        JobCancelled,
        JobFailed,
        LLMError,
        ResultTimeout,
        RetryableLLMError,
        ToolError,
        UsageError,
    )
    from aios_dist.facts import now, random, uuid
    from aios_dist.fleet import AsyncFleet
    from aios_dist.handles import AsyncJob, AsyncPlan
    from aios_dist.handovers import HandOver, handed_over
    from aios_dist.jobs import JobState, Outcome, Step, StepState
    from aios_dist.onces import once
    from aios_dist.plans import Plan, agent_first, fifo, fixed, hybrid
    from aios_dist.sync import Fleet, Job

_HOMES = {
    "agents": ("Agent", "Budget", "JobSpec", "PromptsAgent", "agent", "prompts"),
    "bounds": ("as_done", "within"),
    "commands": ("gather", "llm", "signal", "sleep", "tool"),
    "calls": ("LLMRequest", "LLMResponse", "Usage"),
    "errors": (
        "AiosError",
        "JobCancelled",
        "JobFailed",
        "LLMError",
        "ResultTimeout",
        "RetryableLLMError",
        "ToolError",
        "UsageError",
    ),
    "facts": ("now", "random", "uuid"),
    "fleet": ("AsyncFleet",),
    "handovers": ("HandOver", "handed_over"),
    "handles": ("AsyncJob", "AsyncPlan"),
    "jobs": ("JobState", "Outcome", "Step", "StepState"),
    "onces": ("once",),
    "plans": ("Plan", "agent_first", "fifo", "fixed", "hybrid"),
    "sync": ("Fleet", "Job"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AiosError",
    "AsyncFleet",
    "AsyncJob",
    "AsyncPlan",
    "Budget",
    "Fleet",
    "HandOver",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobSpec",
    "JobState",
    "LLMError",
    "LLMRequest",
    "LLMResponse",
    "Outcome",
    "Plan",
    "PromptsAgent",
    "ResultTimeout",
    "RetryableLLMError",
    "Step",
    "StepState",
    "ToolError",
    "Usage",
    "UsageError",
    "agent",
    "agent_first",
    "as_done",
    "fifo",
    "fixed",
    "gather",
    "handed_over",
    "hybrid",
    "llm",
    "now",
    "once",
    "prompts",
    "random",
    "signal",
    "sleep",
    "tool",
    "uuid",
    "within",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'aios_dist' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"aios_dist.{home}"), name)
