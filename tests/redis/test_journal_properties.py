"""Any verbs in any order, answers lost, workers dying: the invariants hold throughout, and all jobs end.

The moves, the model and what is looked at are in ``tests/driver``. Here hypothesis chooses them, so that what
it finds is made short; ``python -m tests.driver`` runs the same for minutes. ``MACHINE_EXAMPLES=300`` looks
for longer. Each runs on Redis and on Valkey, where both are installed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.driver.driver import WITH_SCENES, Driver
from tests.driver.fleet import Fleet
from tests.driver.known import MENDS, WIDE, cut

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.conftest import Fleets
    from tests.driver.patched import Change


class Machine(RuleBasedStateMachine):
    """A fleet without processes; its rules are the driver's moves."""

    url: ClassVar[str]
    new_name: ClassVar[Any]
    changes: ClassVar[tuple[Change, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(self.url, self.new_name(), self.changes)
        self.driver = Driver(self.fleet, random.Random(0), most_open=8)
        self.whole = False

    def make(self, move: str, choices: random.Random) -> None:
        """A move with hypothesis' choices."""
        self.whole = False
        self.driver.random = choices
        self.driver.make(move)
        self.whole = True

    def teardown(self) -> None:
        try:
            if self.whole:  # else a move has found something: that is to be shown, not what follows from it
                self.driver.random = random.Random(0)
                self.driver.drain()
        finally:
            self.fleet.close()


def _rule(move: str) -> Callable[..., None]:
    def make(self: Machine, choices: random.Random) -> None:
        self.make(move, choices)

    make.__name__ = move
    made: Callable[..., None] = rule(choices=st.randoms(use_true_random=False))(make)
    return made


# Hypothesis takes each rule as often as any other: those that make jobs go on are there several times.
for move, weight in WITH_SCENES.items():
    for nth in range(max(1, round(weight / 5))):
        setattr(Machine, f"{move}_{nth}", _rule(move))


def _run(server: EmbeddedRedis, fleets: Fleets, examples: int) -> None:
    names: list[str] = []
    fleet = {"url": server.url, "changes": MENDS if server.kind.startswith("redis") else WIDE}

    def new_name() -> str:
        names.append(fleets.new_name())
        return names[-1]

    try:
        run_state_machine_as_test(
            type("Machine", (Machine,), {**fleet, "new_name": staticmethod(new_name)}),
            settings=settings(
                max_examples=int(os.environ.get("MACHINE_EXAMPLES", examples)),
                stateful_step_count=50,
                derandomize=os.environ.get("CI") == "true",
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        fleets.names.difference_update(names)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_whatever_happens_in_whatever_order_the_invariants_hold_and_all_jobs_end(
    each_server: EmbeddedRedis, fleets: Fleets
) -> None:
    _run(each_server, fleets, 12 if each_server.kind.startswith("redis") else 6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_long_life_of_a_fleet_keeps_to_the_design(
    each_server: EmbeddedRedis, fleets: Fleets, seed: int
) -> None:
    live(each_server, fleets, seed + 100 * each_server.kind.startswith("valkey"), 200)


def live(server: EmbeddedRedis, fleets: Fleets, seed: int, moves: int) -> None:
    """A run of the driver: moves by chance, then everything ends."""
    fleet = Fleet(server.url, name := fleets.new_name(), cut(seed), functions=seed % 3 != 0)
    driver = Driver(fleet, random.Random(seed))
    try:
        for _ in range(moves):
            driver.move()
        driver.drain()
    finally:
        fleet.close()
        fleets.names.discard(name)
