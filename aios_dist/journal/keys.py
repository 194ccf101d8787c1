"""Every key that the journal uses: nothing else in the project spells one.

All under one prefix with a hash tag per fleet, so that a fleet never straddles two Redis nodes and more
fleets can be put on more of them.
"""

from __future__ import annotations

PERMANENT = (
    *("clock", "beat", "leases", "timers", "due", "deadlines", "open", "ended", "ends", "dead", "registry"),
    *(
        "dirty",
        "mended",
        "aside",
        "rules",
        "serving",
        "limited",
        "lanes",
        "waits",
        "used",
        "plans",
        "sweeps",
        "jumps",
        "told",
        "parked",
        "parkedin",
        "libraries",
        "older",
    ),
    *("ready:*", "readyby:*", "readyold:*", "stray:*", "astray:*", "holds:*", "lane:*", "share:*"),
    *("held:*", "heldby:*", "heldold:*", "in:*", "model:*", "inflight:*", "tenant:*", "wanted:*"),
)
"""Keys without a time to live (patterns below the prefix); all else expires (invariant 9).
The keys of a job or plan that has not ended (``job:*``, ``ev:*``, ``plan:*``) get theirs when it
ends: an agent that waits for a human for a month must not expire under him."""


FORMAT = 2
"""The journal's format. It stands in the prefix: others see nothing of it, and break nothing."""


def prefix(fleet: str) -> str:
    """What all keys of a fleet begin with."""
    return f"aios:{{{fleet}}}:{FORMAT}:"


def other_formats(fleet: str) -> dict[str, str]:
    """Where journals of other formats keep the fleet's open jobs, by the format."""
    others = {"1": f"aios:{{{fleet}}}:open"}  # it had no number
    for number in range(FORMAT + 1, FORMAT + 4):
        others[str(number)] = f"aios:{{{fleet}}}:{number}:open"
    return others


def libraries(prefix: str) -> str:
    """The libraries that processes of a fleet use, by until when they have said so."""
    return f"{prefix}libraries"


class Keys:
    """The keys of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.prefix = prefix(fleet)
        self.open = self.prefix + "open"
        self.ended = self.prefix + "ended"
        self.ends = self.prefix + "ends"
        self.told = self.prefix + "told"
        self.leases = self.prefix + "leases"
        self.timers = self.prefix + "timers"
        self.due = self.prefix + "due"
        self.registry = self.prefix + "registry"
        self.dead = self.prefix + "dead"
        self.deadlines = self.prefix + "deadlines"
        self.control = self.prefix + "control"
        self.reconciler = self.prefix + "reconciler"
        self.dirty = self.prefix + "dirty"
        self.mended = self.prefix + "mended"
        self.aside = self.prefix + "aside"
        self.rules = self.prefix + "rules"
        self.serving = self.prefix + "serving"
        self.plans = self.prefix + "plans"
        self.parked = self.prefix + "parked"
        self.parked_in = self.prefix + "parkedin"
        self.waits = self.prefix + "waits"
        self.libraries = libraries(self.prefix)
        self.older = self.prefix + "older"

    def job(self, id: str) -> str:
        """All of a job but its events: one hash."""
        return f"{self.prefix}job:{id}"

    def events(self, id: str) -> str:
        """The job's events: a list, and the channel on which each new one is announced."""
        return f"{self.prefix}ev:{id}"

    def end(self, id: str) -> str:
        """The channel on which a job's end, or that it was parked, is announced."""
        return f"{self.prefix}end:{id}"

    def behind(self, plan: str) -> str:
        """The channel on which it is announced that a member of a plan was parked: others may wait for it."""
        return f"{self.prefix}behind:{plan}"

    def plan(self, id: str) -> str:
        """A plan's tree: one hash."""
        return f"{self.prefix}plan:{id}"

    def model(self, name: str) -> str:
        """A model's limits, and the hold it may be under."""
        return f"{self.prefix}model:{name}"

    def held(self, model: str) -> str:
        """The steps that a limit of their model holds, by rank."""
        return f"{self.prefix}held:{model}"

    def held_by(self, model: str) -> str:
        """The tenants that have held steps, where the model's lane is shared."""
        return f"{self.prefix}heldby:{model}"

    def wanted(self, lane: str) -> str:
        """What steps of a lane need that the workers which met them do not have."""
        return f"{self.prefix}wanted:{lane}"

    def room(self, lane: str, kin: str) -> str:
        """A worker of that kin that has room for steps of the lane; expires."""
        return f"{self.prefix}room:{lane}|{kin}"

    def lane(self, name: str) -> str:
        """A lane's rules."""
        return f"{self.prefix}lane:{name}"

    def share(self, lane: str) -> str:
        """What each tenant has had of a lane."""
        return f"{self.prefix}share:{lane}"

    def rounds(self, lane: str) -> str:
        """The rounds of a lane's groups; expires."""
        return f"{self.prefix}rounds:{lane}"

    def past(self, agent: str) -> str:
        """The last runs of an agent; expires when there are no more for a month."""
        return f"{self.prefix}past:{agent}"

    def inflight(self, model: str) -> str:
        """The leases that count against a model's limit of calls in flight."""
        return f"{self.prefix}inflight:{model}"

    def window(self, model: str) -> str:
        """A model's calls of the last minute and their tokens, by start; expires."""
        return f"{self.prefix}window:{model}"

    def tenant(self, name: str) -> str:
        """A tenant's budget of a day."""
        return f"{self.prefix}tenant:{name}"

    def spend(self, name: str, day: int) -> str:
        """What a tenant has spent on a day (days since the epoch, UTC); expires."""
        return f"{self.prefix}spend:{name}:{day}"

    def ready_by(self, lane: str) -> str:
        """The tenants that have ready steps, where the lane is shared, by what they have had of it."""
        return f"{self.prefix}readyby:{lane}"

    def ready(self, lane: str) -> str:
        """The ready steps of a lane, by rank."""
        return f"{self.prefix}ready:{lane}"
