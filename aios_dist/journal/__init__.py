"""The journal: all that is known of a fleet's jobs, in Redis, and the only code that touches it."""

from aios_dist.journal.journal import Journal
from aios_dist.journal.keys import Keys
from aios_dist.journal.records import (
    Advance,
    Claim,
    Decision,
    NewJob,
    Nothing,
    RankedStep,
    Said,
    Stray,
    TenantRules,
    Ticket,
)
from aios_dist.journal.views import (
    DeadLetter,
    Event,
    History,
    JobView,
    LaneCount,
    LaneRules,
    Limits,
    ModelView,
    Need,
    Registry,
    Repairs,
    TenantView,
    WorkerInfo,
)

__all__ = [
    "Advance",
    "Claim",
    "DeadLetter",
    "Decision",
    "Event",
    "History",
    "JobView",
    "Journal",
    "Keys",
    "LaneCount",
    "LaneRules",
    "Limits",
    "ModelView",
    "Need",
    "NewJob",
    "Nothing",
    "RankedStep",
    "Registry",
    "Repairs",
    "Said",
    "Stray",
    "TenantRules",
    "TenantView",
    "Ticket",
    "WorkerInfo",
]
