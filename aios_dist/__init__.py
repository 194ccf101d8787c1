"""A distributed task-queue backend for LLM agents, on Celery, Redis, kombu and Flower.

The public names are imported when they are first used, so that a tool that needs one of them (the fake LLM,
the command line's help) does not pay for Celery. Nothing else is imported here, not even ``typing``: until
the command line's first own line has run, Ctrl-C is a traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aios_dist.config.tables import Config, PromptsConfig
    from aios_dist.errors import (
        AiosError,
        BadReply,
        BadRequest,
        BudgetReached,
        CallTimeout,
        ConfigError,
        ConnectionBroken,
        ContentRefused,
        DeadlineExceeded,
        FinalLLMError,
        FleetUnavailable,
        InvalidInput,
        JobCancelled,
        JobConflict,
        JobError,
        JobFailed,
        JobParked,
        JournalDamaged,
        JournalError,
        LLMError,
        ModelNotFound,
        NotAllowed,
        ProgramChanged,
        ProviderBusy,
        RateLimited,
        RedisUnfit,
        ResultTimeout,
        RetryableLLMError,
        StepError,
        ToolError,
        UnknownName,
        UsageError,
        WorkerLost,
    )
    from aios_dist.journal.views import (
        DeadLetter,
        Event,
        JobView,
        LaneRules,
        LaneView,
        PlanView,
        Registry,
        TenantView,
        WorkerInfo,
    )
    from aios_dist.model.calls import (
        LLMRequest,
        LLMResponse,
        SignalRequest,
        SleepRequest,
        Timings,
        ToolCall,
        ToolRequest,
        Usage,
    )
    from aios_dist.model.jobs import JobState, Kind, Outcome, Rejection, Step, StepState
    from aios_dist.model.plans import Plan, agent_first, fifo, fixed, hybrid
    from aios_dist.model.specs import Budget, JobSpec
    from aios_dist.producer.fleet import AsyncFleet
    from aios_dist.producer.handles import AsyncJob, AsyncPlan
    from aios_dist.producer.sync import Fleet, Job, PlanJobs
    from aios_dist.program.agents import Agent, PromptsAgent, agent, prompts
    from aios_dist.program.bounds import as_done, within
    from aios_dist.program.commands import gather, llm, signal, sleep, tool
    from aios_dist.program.facts import changed, now, once, random, uuid
    from aios_dist.program.foreign import HandOver, handed_over

_HOMES = {
    "config.tables": (
        "Config",
        "PromptsConfig",
    ),
    "program.agents": (
        "Agent",
        "PromptsAgent",
        "agent",
        "prompts",
    ),
    "program.bounds": (
        "as_done",
        "within",
    ),
    "program.commands": (
        "gather",
        "llm",
        "signal",
        "sleep",
        "tool",
    ),
    "model.calls": (
        "LLMRequest",
        "LLMResponse",
        "SignalRequest",
        "SleepRequest",
        "Timings",
        "ToolCall",
        "ToolRequest",
        "Usage",
    ),
    "errors": (
        "AiosError",
        "BadReply",
        "BadRequest",
        "BudgetReached",
        "CallTimeout",
        "ConfigError",
        "ConnectionBroken",
        "ContentRefused",
        "DeadlineExceeded",
        "FinalLLMError",
        "FleetUnavailable",
        "InvalidInput",
        "JobCancelled",
        "JobConflict",
        "JobError",
        "JobFailed",
        "JobParked",
        "JobParked",
        "JournalDamaged",
        "JournalError",
        "LLMError",
        "ModelNotFound",
        "NotAllowed",
        "ProgramChanged",
        "ProviderBusy",
        "RateLimited",
        "RedisUnfit",
        "ResultTimeout",
        "RetryableLLMError",
        "StepError",
        "ToolError",
        "UnknownName",
        "UsageError",
        "WorkerLost",
    ),
    "program.facts": (
        "changed",
        "now",
        "once",
        "random",
        "uuid",
    ),
    "producer.fleet": ("AsyncFleet",),
    "program.foreign": (
        "HandOver",
        "handed_over",
    ),
    "producer.handles": (
        "AsyncJob",
        "AsyncPlan",
    ),
    "journal.views": (
        "DeadLetter",
        "Event",
        "JobView",
        "LaneRules",
        "LaneView",
        "PlanView",
        "Registry",
        "TenantView",
        "WorkerInfo",
    ),
    "model.jobs": (
        "JobState",
        "Kind",
        "Outcome",
        "Rejection",
        "Step",
        "StepState",
    ),
    "model.specs": (
        "Budget",
        "JobSpec",
    ),
    "model.plans": (
        "Plan",
        "agent_first",
        "fifo",
        "fixed",
        "hybrid",
    ),
    "producer.sync": (
        "Fleet",
        "Job",
        "PlanJobs",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AiosError",
    "AsyncFleet",
    "AsyncJob",
    "AsyncPlan",
    "BadReply",
    "BadRequest",
    "Budget",
    "BudgetReached",
    "CallTimeout",
    "Config",
    "ConfigError",
    "ConnectionBroken",
    "ContentRefused",
    "DeadLetter",
    "DeadlineExceeded",
    "Event",
    "FinalLLMError",
    "Fleet",
    "FleetUnavailable",
    "HandOver",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobConflict",
    "JobError",
    "JobFailed",
    "JobParked",
    "JobSpec",
    "JobState",
    "JobView",
    "JournalDamaged",
    "JournalError",
    "Kind",
    "LLMError",
    "LLMRequest",
    "LLMResponse",
    "LaneRules",
    "LaneView",
    "ModelNotFound",
    "NotAllowed",
    "Outcome",
    "Plan",
    "PlanJobs",
    "PlanView",
    "ProgramChanged",
    "PromptsAgent",
    "PromptsConfig",
    "ProviderBusy",
    "RateLimited",
    "RedisUnfit",
    "Registry",
    "Rejection",
    "ResultTimeout",
    "RetryableLLMError",
    "SignalRequest",
    "SleepRequest",
    "Step",
    "StepError",
    "StepState",
    "TenantView",
    "Timings",
    "ToolCall",
    "ToolError",
    "ToolRequest",
    "UnknownName",
    "Usage",
    "UsageError",
    "WorkerInfo",
    "WorkerLost",
    "agent",
    "agent_first",
    "as_done",
    "changed",
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
