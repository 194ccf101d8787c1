"""The journal: all that is known of a fleet's jobs, in Redis, and the only code that touches it. Internal.

Its names are imported when they are first used: who wants a record (:mod:`.views`) wants no line to Redis.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aios_dist.journal.journal import Journal
    from aios_dist.journal.keys import Keys
    from aios_dist.journal.records import (
        Advance,
        Asks,
        Claim,
        Decision,
        Form,
        Lost,
        NewJob,
        Nothing,
        Onward,
        RankedStep,
        Refusal,
        Said,
        Stray,
        TenantRules,
        Ticket,
    )
    from aios_dist.journal.telling import Ended
    from aios_dist.journal.views import (
        DeadLetter,
        Event,
        History,
        JobView,
        LaneCount,
        LaneRules,
        LaneView,
        Limits,
        ModelView,
        Need,
        PlanView,
        Registry,
        Repairs,
        TenantView,
        Wanted,
        WorkerInfo,
    )

_HOMES = {
    "journal": ("Journal",),
    "keys": ("Keys",),
    "records": (
        "Advance",
        "Asks",
        "Claim",
        "Decision",
        "Form",
        "Lost",
        "NewJob",
        "Nothing",
        "Onward",
        "RankedStep",
        "Refusal",
        "Said",
        "Stray",
        "TenantRules",
        "Ticket",
    ),
    "telling": ("Ended",),
    "views": (
        "DeadLetter",
        "Event",
        "History",
        "JobView",
        "LaneCount",
        "LaneRules",
        "LaneView",
        "Limits",
        "ModelView",
        "Need",
        "PlanView",
        "Registry",
        "Repairs",
        "TenantView",
        "Wanted",
        "WorkerInfo",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Advance",
    "Asks",
    "Claim",
    "DeadLetter",
    "Decision",
    "Ended",
    "Event",
    "Form",
    "History",
    "JobView",
    "Journal",
    "Keys",
    "LaneCount",
    "LaneRules",
    "LaneView",
    "Limits",
    "Lost",
    "ModelView",
    "Need",
    "NewJob",
    "Nothing",
    "Onward",
    "PlanView",
    "RankedStep",
    "Refusal",
    "Registry",
    "Repairs",
    "Said",
    "Stray",
    "TenantRules",
    "TenantView",
    "Ticket",
    "Wanted",
    "WorkerInfo",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
