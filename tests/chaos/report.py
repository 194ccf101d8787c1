"""What a chaos run has shown, beside its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.findings import Finding
from tests.chaos.machines import FLEET

WORK_S = 5.0
"""What restarting a worker and the like may take beside a lease, on a machine with nothing else to do."""

Check = tuple[str, str, str, bool, list[str]]
"""Name, measured, bound, whether it holds, and what speaks against it."""


@dataclass
class Report:
    """What a run has shown.

    Attributes:
        slowness: how much longer than on a free core work took (``slow.Slowness``): bounds of time are
            widened by it, but for the part that is timers.
        before: attempts of workers of the release before this one.
        people: how often each of them did what it is for.
    """

    found: Finding
    jobs: int
    kills: int
    outages_s: list[float]
    put_back: int
    parked: int
    told: int
    changed: list[str]
    samples: int
    left: list[str]
    limits_at_end: list[str]
    deserters: list[str]
    slowness: float
    people: dict[str, int]
    before: int = 0
    trouble: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)

    @property
    def recovery_s(self) -> float:
        """The bound of all recoveries: a lease, which is a timer, and work. (15 s with a lease of 10 s.)"""
        return FLEET.lease + WORK_S * self.slowness

    def checks(self) -> list[Check]:
        """Every bound, and how it fared."""
        f, jobs = self.found, self.jobs
        kills = " at a kill or put back"
        worst = max(f.ready_again, default=0.0)
        twice = f.written_twice + self.changed

        def none(what: str, against: list[str], more: str = "") -> Check:
            return what, f"{len(against)}{more}", "0", not against, against

        def within(what: str, seconds: float, against: list[str]) -> Check:
            bound = self.recovery_s
            return what, f"{seconds:.1f} s", f"<= {bound:.1f} s", seconds <= bound, against

        return [
            none("jobs lost", f.lost + self.unfinished),
            none("wrong texts or results", f.wrong),
            none("jobs failed for no cause", f.unexplained_failures, f" (+ {len(f.explained_failures)})"),
            ("callers told of the end", str(self.told), str(jobs), self.told == jobs, self.trouble),
            none("outcomes written twice or changed", twice, f" (in {self.samples} looks)"),
            none("calls begun after the outcome", f.calls_after_outcome),
            none("answered calls repeated", f.answered_again, f" (+ {f.answered_again_excused}{kills})"),
            none("calls beside an attempt", f.more_calls_than_attempts),
            none("steps taken from a live worker", f.taken_from_the_living),
            none("tools run again", f.tools_run_again, f" (+ {f.tools_run_again_excused}{kills})"),
            none("calls repeated", f.answered_again + f.begun_again, f" (+ {f.repeated_excused}{kills})"),
            none("calls over a limit", f.over_limits),
            none("limits not as in aios.toml at the end", self.limits_at_end),
            within("until ready again, longest", worst, []),
            within("longest pause of the whole", f.longest_pause_s, [f"after {f.longest_pause_at:.3f}"]),
            none("workers that ended by themselves", self.deserters),
            none("keys left over", self.left),
        ]

    def numbers(self) -> dict[str, Any]:
        """As ``--json`` gives them."""
        f = self.found
        return {
            "jobs": self.jobs,
            "steps": f.steps,
            "calls": f.calls,
            "faults": dict(sorted(f.faults.items())),
            "kills": self.kills,
            "redis_restarts": len(self.outages_s),
            "redis_put_back": self.put_back,
            "redis_away_s": [round(s, 2) for s in self.outages_s],
            "parked": self.parked,
            "by_release_before": self.before,
            "people": self.people,
            "slowness": round(self.slowness, 2),
            "attempts_lost": f.attempts_lost,
            "ready_again_p50_s": round(quantile(f.ready_again, 0.5), 2),
            "ready_again_p95_s": round(quantile(f.ready_again, 0.95), 2),
            "ready_again_max_s": round(max(f.ready_again, default=0.0), 2),
            "recovery_p50_s": round(quantile(f.recoveries, 0.5), 2),
            "recovery_p95_s": round(quantile(f.recoveries, 0.95), 2),
            "recovery_max_s": round(max(f.recoveries, default=0.0), 2),
            "longest_pause_s": round(f.longest_pause_s, 2),
            "seconds": round(f.seconds, 1),
            "steps_per_s": round(f.steps / f.seconds, 1) if f.seconds else 0.0,
            "checks": {
                name: {"is": got, "bound": bound, "ok": ok} for name, got, bound, ok, _ in self.checks()
            },
        }

    @property
    def holds(self) -> bool:
        """Every bound holds."""
        return all(ok for _, _, _, ok, _ in self.checks())

    def evidence(self, most: int = 10) -> str:
        """What speaks against us, for people."""
        lines = []
        for name, got, bound, ok, against in self.checks():
            if not ok:
                lines.append(f"{name}: {got}, bound {bound}")
                lines += [f"    {line}" for line in against[:most]]
        return "\n".join(lines)


def quantile(values: list[float], q: float) -> float:
    """Of the values, by rank; 0 where there are none."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0


def keep(report: Report, folder: Path) -> None:
    """Write the logs of all processes, for whoever looks into a broken bound."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in report.logs.items():
        (folder / name).write_text(text)
