"""What is reported: the runs of one plan beside the simulator's, and whether the two agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from benchmarks.experiment.observed import Observed, figures, from_simulation
from benchmarks.experiment.running import Runs
from benchmarks.experiment.scenarios import PLANS, Scenario

COMPARED = ("makespan_s", "turnaround_mean_s")
TOLERANCE = 0.05
"""So far may fleet and simulator be apart."""


class Spread(NamedTuple):
    """A figure over the repeats."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """One plan on one load.

    Attributes:
        runs: on the fleet.
        simulated: the same plan and durations in the simulator.
    """

    scenario: Scenario
    plan: str
    runs: tuple[Observed, ...]
    simulated: Observed

    @property
    def typical(self) -> Observed:
        """The run with the median makespan, for pictures."""
        return sorted(self.runs, key=lambda run: run.makespan_s)[len(self.runs) // 2]

    def fleet(self) -> dict[str, Spread]:
        """The figures on the fleet."""
        seen = [figures(self.scenario, run) for run in self.runs]
        return {
            name: Spread(median(values), min(values), max(values))
            for name in seen[0]
            for values in [[one[name] for one in seen]]
        }

    def expected(self) -> dict[str, float]:
        """The simulator's figures."""
        return figures(self.scenario, self.simulated)

    def differences(self) -> dict[str, float]:
        """By how much the fleet's medians are above the simulator's figures: 0.02 is 2 %."""
        fleet, expected = self.fleet(), self.expected()
        return {name: fleet[name].median / expected[name] - 1 for name in COMPARED}

    @property
    def agrees(self) -> bool:
        """All within the tolerance."""
        return all(abs(difference) <= TOLERANCE for difference in self.differences().values())

    def plain(self) -> dict[str, Any]:
        """As ``--json`` gives it."""
        return {
            "plan": self.plan,
            "runs": len(self.runs),
            "order": self.typical.order,
            "turnarounds_s": {name: round(s, 4) for name, s in self.typical.turnarounds().items()},
            "fleet": {name: _rounded(spread._asdict()) for name, spread in self.fleet().items()},
            "simulated": _rounded(self.expected()),
            "difference": _rounded(self.differences()),
            "agrees": self.agrees,
        }


Results = dict[str, list[Result]]
"""By scenario, a result for each plan."""


def results(scenarios: Sequence[Scenario], runs: Runs) -> Results:
    """All results of what the fleet has run."""
    return {
        scenario.name: [
            Result(
                scenario, plan, tuple(runs[scenario.name][plan]), from_simulation(scenario.simulated(plan))
            )
            for plan in PLANS
        ]
        for scenario in scenarios
    }


def plain(found: Results) -> list[dict[str, Any]]:
    """The scenarios as ``--json`` gives them."""
    return [
        {
            "scenario": name,
            "title": plans[0].scenario.title,
            "slots": plans[0].scenario.slots,
            "agents": len(plans[0].scenario.jobs),
            "bound_s": round(plans[0].scenario.bound_s, 4),
            "plans": [result.plain() for result in plans],
        }
        for name, plans in found.items()
    ]


def agree(found: Results) -> bool:
    """Fleet and simulator agree everywhere."""
    return all(result.agrees for plans in found.values() for result in plans)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
