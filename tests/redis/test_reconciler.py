"""Invariant 5: as many tickets as ready steps on every lane; the reconciler, one at a time, sees to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aios_dist.broker import Tickets
from aios_dist.config import Config
from aios_dist.runtime.reconciler import MOST_TICKETS, Reconciler
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from tests.redis.conftest import Hand


class Pass:
    """A reconciler, and the queues that it fills."""

    def __init__(self, hand: Hand, config: FleetConfig) -> None:
        self.tickets = Tickets(Config(fleet=config))
        self.reconciler = Reconciler(Config(fleet=config), hand.journal, self.tickets, "w1")
        self.once = self.reconciler.once
        self._hand = hand

    async def depth(self, lane: str = "llm") -> int:
        """Tickets on the lane."""
        return int(await self._hand.redis("LLEN", self.tickets.key(lane)))

    async def take(self, count: int, lane: str = "llm") -> None:
        """Tickets get lost."""
        for _ in range(count):
            await self._hand.redis("RPOP", self.tickets.key(lane))


@pytest.fixture
def passes(hand: Hand, config: FleetConfig) -> Pass:
    return Pass(hand, config)


async def test_lost_tickets_are_replaced_by_counting(hand: Hand, passes: Pass) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(5)), starts("t"))
    await passes.once()
    assert (await passes.depth("llm"), await passes.depth("turns")) == (5, 1)
    await passes.once()
    assert (await passes.depth("llm"), await passes.depth("turns")) == (5, 1)
    await passes.take(2)
    await passes.once()
    assert await passes.depth() == 5


async def test_spare_tickets_are_left_alone(hand: Hand, passes: Pass) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    await passes.once()
    await hand.claim()
    await passes.once()
    assert await passes.depth() == 2


async def test_a_step_that_came_back_gets_a_ticket(hand: Hand, passes: Pass) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await passes.once()
    assert await passes.depth() == 0
    await hand.lapse(claim)
    await passes.once()
    assert await passes.depth() == 1


async def test_a_turn_that_nobody_ran_gets_a_ticket(hand: Hand, passes: Pass) -> None:
    await hand.submit(starts("j", "x"))
    await hand.commit(await hand.claim())
    await passes.once()
    assert await passes.depth("turns") == 0
    await hand.ring()
    await passes.once()
    assert await passes.depth("turns") == 1


async def test_a_flood_is_topped_up_over_several_passes(hand: Hand, passes: Pass) -> None:
    for start in range(0, MOST_TICKETS + 500, 500):
        await hand.submit(*(starts(f"j{i}", "x") for i in range(start, start + 500)))
    await passes.once()
    assert await passes.depth() == MOST_TICKETS
    await passes.once()
    assert await passes.depth() == MOST_TICKETS + 500


async def test_a_replacement_is_a_ticket_like_any_other(hand: Hand, passes: Pass) -> None:
    await hand.submit(starts("j", "x"))
    await passes.once()
    ticket = json.loads(await hand.redis("RPOP", passes.tickets.key("llm")))
    assert ticket["headers"]["task"] == "aios.step"
    assert ticket["properties"]["delivery_info"]["routing_key"] == "llm"


async def test_the_next_pass_is_when_something_is_due(hand: Hand, passes: Pass, config: FleetConfig) -> None:
    assert await passes.once() == config.reconcile
    await hand.submit(starts("j", "x"), starts("k", "x"))
    claim = await hand.claim()
    assert await passes.once() == config.reconcile  # the lease ends long after
    await hand.journal.release(claim, "429", after=0.5)
    assert 0.05 <= await passes.once() < config.reconcile
    await hand.claim()
    await hand.lapse()
    await passes.once()
    assert await passes.once() == pytest.approx(config.reconcile, abs=config.reconcile)


async def test_a_pass_over_nothing_does_nothing(hand: Hand, passes: Pass) -> None:
    await passes.once()
    assert await hand.whole() == {}
    assert await passes.depth() == 0
