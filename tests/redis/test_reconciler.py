"""Invariant 5: as many tickets as ready steps on every lane; the reconciler, one at a time, sees to it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist.broker.app import Tickets
from aios_dist.config import Config
from aios_dist.errors import FleetUnavailable
from aios_dist.journal import Ticket, WorkerInfo
from aios_dist.policies import Rank
from aios_dist.worker import reconciler
from aios_dist.worker.reconciler import MOST_TICKETS, Reconciler
from tests.redis.conftest import plan_of, ranked, starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from tests.redis.conftest import Hand


class Pass:
    """A reconciler, and the queues that it fills."""

    def __init__(
        self, hand: Hand, config: FleetConfig, rank_anew: Callable[[str], Awaitable[bool]] | None = None
    ) -> None:
        self.tickets = Tickets(Config(fleet=config))
        self.reconciler = Reconciler(
            Config(fleet=config), hand.journal, self.tickets, "w1", rank_anew=rank_anew
        )
        self.once = self.reconciler.once
        self._hand = hand

    async def depth(self, lane: str = "llm") -> int:
        """Tickets on the lane."""
        return int(await self._hand.redis("LLEN", self.tickets.key(lane)))

    async def take(self, count: int, lane: str = "llm") -> None:
        """Tickets get lost."""
        for _ in range(count):
            await self._hand.redis("RPOP", self.tickets.key(lane))

    async def put(self, count: int, lane: str = "llm") -> None:
        """Tickets that no step is waiting for."""
        for command in self.tickets.commands([Ticket(lane, "?", "?")] * count):
            await self._hand.redis(*command)


def worker(lanes: Sequence[str] = ("llm",), slots: int = 0) -> WorkerInfo:
    """A worker that has just announced itself."""
    now = time.time()
    return WorkerInfo(
        id="w", host="h", pid=1, pool="p", lanes=list(lanes), slots=slots, started_at=now, seen_at=now
    )


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


async def test_what_is_no_list_of_tickets_is_put_away_and_the_write_before_it_stands(
    hand: Hand, passes: Pass
) -> None:
    await hand.redis("SET", passes.tickets.key("llm"), "x")
    await hand.submit(starts("j", "x"))
    ticket = passes.tickets.command(Ticket("llm", "j", "0"))
    assert await hand.journal._run("counts", ticket, lanes=["llm"], first=0, most=0, due=0) == [[1, [], 0, 0]]
    await passes.once()
    await passes.once()
    assert await passes.depth() == 1
    assert passes.reconciler.broken == {"tickets of lane llm": 1}


async def test_tickets_that_nothing_can_need_are_taken_away(hand: Hand, passes: Pass) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(5)))
    await passes.put(100)
    await passes.once()
    assert await passes.depth() == 5
    await hand.journal.announce(worker(slots=3), {})
    await Pass(hand, hand.config).once()
    await passes.put(100)
    await Pass(hand, hand.config).once()
    assert await passes.depth() == 5 + 3, "each slot may have one in hand"
    await hand.drain()
    await Pass(hand, hand.config).once()
    assert await passes.depth() == 0, "nothing is ready"


async def test_the_oldest_tickets_stay_which_are_taken_next(hand: Hand, passes: Pass) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    for name in ("first", "second", "third"):
        await hand.redis("LPUSH", passes.tickets.key("llm"), name)
    await passes.once()
    assert [await hand.redis("RPOP", passes.tickets.key("llm")) for _ in range(3)] == [
        b"first",
        b"second",
        None,
    ]


async def test_while_others_take_and_put_tickets_no_ready_step_is_left_without_one(
    hand: Hand, passes: Pass
) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(20)))
    rng = random.Random(7)
    for _ in range(40):
        await asyncio.gather(
            passes.put(rng.randrange(40)), passes.take(rng.randrange(40)), passes.once(), passes.once()
        )
        ready, tickets, _ = (await hand.journal.tickets(["llm"], [passes.tickets.key("llm")], [0]))["llm"]
        assert tickets >= ready - 40, "no more are gone than were taken since it was counted"
        await passes.once()
        assert await passes.depth() == ready == 20


async def test_what_breaks_one_part_of_a_pass_keeps_none_of_the_others(
    hand: Hand, config: FleetConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async def rank_anew(lane: str) -> bool:
        raise RuntimeError("no such policy")

    passes = Pass(hand, config, rank_anew)
    await hand.submit(starts("j", "x"), starts("t"), starts("odd", "x", lane="odd"))
    await hand.journal.announce(worker(lanes=["odd"]), {})
    await hand.journal.set_lane("llm", policy="fixed")
    await hand.submit(*(ranked(f"s{i}", Rank(5.0), "fifo") for i in range(3)))
    await hand.redis("SET", passes.tickets.key("odd"), "no list")
    for _ in range(3):
        await passes.once()
    assert (await passes.depth("llm"), await passes.depth("turns")) == (4, 1)
    assert passes.reconciler.broken == {"ranking lane llm": 3, "tickets of lane odd": 1}
    said = [r for r in caplog.records if r.name == "aios_dist.reconciler" and r.levelno >= logging.ERROR]
    assert len(said) == 2, "each once a minute"


async def test_a_hundred_thousand_sleeps_take_no_memory_and_one_timer(hand: Hand, passes: Pass) -> None:
    loop: Any = asyncio.get_running_loop()
    before = len(loop._scheduled)
    tracemalloc.start()
    for n in range(10_000):
        for seconds in (7 * 86400.0 + n, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2):
            passes.reconciler.look_again(seconds)
    assert tracemalloc.get_traced_memory()[0] < 200_000
    tracemalloc.stop()
    assert len([timer for timer in loop._scheduled if not timer.cancelled()]) <= before + 1
    await passes.reconciler.leave()


async def test_a_worker_looks_when_something_is_due_without_the_office(hand: Hand, passes: Pass) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    for seconds in (0.02, 0.15):
        await hand.journal.release(await hand.claim(), "429", after=seconds)
        passes.reconciler.look_again(seconds)
    assert await passes.depth() == 0
    async with asyncio.timeout(5):
        while await passes.depth() < 2:  # noqa: ASYNC110  # a list tells nobody
            await asyncio.sleep(0.01)
    assert sorted(await hand.names()) == ["j/0", "k/0"]


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
    assert [*await hand.whole()] == [f"{hand.keys.prefix}lanes"]
    assert await passes.depth() == 0


async def test_all_open_jobs_are_looked_at_in_time_however_many_steps_they_have(
    hand: Hand, passes: Pass, config: FleetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page holds so many steps, so the pace is that of the jobs in it."""
    in_passes, last = 3, "j59/0"
    monkeypatch.setattr(reconciler, "WALK_S", in_passes * config.reconcile)
    await hand.submit(*(starts(f"j{n:02}", *map(str, range(40))) for n in range(60)))
    await hand.redis("ZREM", hand.keys.ready("llm"), last)
    assert await passes.reconciler._office.ask("take")
    for _ in range(in_passes):
        await passes.reconciler._walk()
    assert await hand.redis("ZSCORE", hand.keys.ready("llm"), last) is not None


@pytest.mark.parametrize("lost", [0, 1, 20, 39])
async def test_a_step_that_got_lost_is_found_wherever_it_stands_among_those_that_are_over(
    hand: Hand, lost: int
) -> None:
    """The walk reads the first heads with the record and the others after it, those that are over in part."""
    await hand.submit(starts("j", *map(str, range(40))))
    for claim in [await hand.claim() for _ in range(40)]:
        if claim.step not in ("0", "1", "20", "39"):
            await hand.commit(claim)
        else:
            await hand.journal.release(claim, "w1")
    names = await hand.names()
    assert set(names) == {"j/0", "j/1", "j/20", "j/39"}
    assert await hand.redis("ZREM", hand.keys.ready("llm"), f"j/{lost}") == 1
    assert (await hand.journal.walk()).found == [("j", f"step {lost}: ready on 0 sets")]
    assert await hand.names() == names


async def test_what_is_put_right_is_logged_and_counted(
    hand: Hand, passes: Pass, caplog: pytest.LogCaptureFixture
) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    await hand.redis("ZREM", hand.keys.ready("llm"), "j/0")
    await hand.redis("ZADD", hand.keys.dirty, 1, "j")  # as a verb leaves it that ended between two writes
    assert await passes.reconciler._office.ask("take")
    await passes.once()
    assert sorted(await hand.names()) == ["j/0", "k/0"]
    assert (await hand.journal.repairs()).counts == {"jobs": 1}
    (said,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert said.startswith("The journal was put right: job j: ")


# Plans that have something left to do -------------------------------------------------------------------


async def half_admitted(hand: Hand, count: int = 200) -> None:
    """A big plan whose producer has died behind its last slice."""

    async def told(_: Sequence[Ticket]) -> None:
        raise FleetUnavailable("the producer has died")

    layout, owners = plan_of("p", ("fifo", "continue", *(f"j{n:03}" for n in range(count))))
    with pytest.raises(FleetUnavailable):
        await hand.journal.submit([starts(id, "x") for id in owners], layout, told=told)
    assert (await hand.journal.plan("p")).at_work


async def test_a_plan_that_its_producer_has_left_is_admitted_in_the_next_pass(
    hand: Hand, passes: Pass
) -> None:
    await half_admitted(hand)
    await passes.once()
    assert (await hand.journal.plan("p")).at_work, "that is for the one in office"
    await passes.reconciler._office.ask("take")
    await passes.once()
    view = await hand.journal.plan("p")
    assert (view.admitted, view.at_work) == (200, False)
    assert await passes.depth() == 200
    assert await hand.run(most=200) == [f"j{n:03}" for n in range(200)]


async def test_a_pass_admits_some_of_a_plan_and_the_next_comes_at_once(
    hand: Hand, passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "MOST_SLICES", 1)
    await half_admitted(hand)
    await passes.reconciler._office.ask("take")
    await passes.once()
    assert (await hand.journal.plan("p")).at_work
    async with asyncio.timeout(20):
        while (await hand.journal.plan("p")).at_work:  # noqa: ASYNC110  # what it looks at tells nobody
            await asyncio.sleep(0.01)
    await passes.reconciler.leave()


async def test_a_plan_that_cannot_be_read_keeps_no_other_from_going_on(hand: Hand, passes: Pass) -> None:
    await half_admitted(hand)
    layout, owners = plan_of("q", ("fixed", "stop", "first", *(f"q{n}" for n in range(100))))
    await hand.journal.submit([starts(id, "x") for id in owners], layout)
    await hand.redis("HSET", hand.keys.plan("p"), "node0", "rubbish")
    await hand.journal.cancel("first")
    await passes.reconciler._office.ask("take")
    for _ in range(3):
        await passes.once()
    assert (await hand.journal.plan("q")).state == "failed"
    assert passes.reconciler.broken["plans"] >= 1
    await hand.redis("UNLINK", *await hand.redis("KEYS", hand.keys.prefix + "*"))


async def test_after_a_full_page_a_pass_goes_on_at_once(
    hand: Hand, passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 3)
    await hand.submit(*(starts(f"j{n}", "x") for n in range(7)))
    await hand.drain()
    await hand.lapse()
    await passes.once()
    assert len(await hand.names()) == 7


async def test_the_open_jobs_are_looked_at_page_by_page(
    hand: Hand, passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 2)
    await hand.submit(*(starts(f"j{n}", "x") for n in range(5)))
    for claim in await hand.drain():
        await hand.commit(claim, turn_here=True)
    await hand.redis("DEL", hand.keys.due)
    for _ in range(4):
        await passes.once()
    assert len(await hand.names("turns")) == 5


async def test_while_steps_are_left_to_rank_the_next_pass_comes_at_once(
    hand: Hand, config: FleetConfig
) -> None:
    async def more(lane: str) -> bool:
        return True

    await hand.submit(starts("j", "x", policy="fifo"))
    await hand.journal.set_lane("llm", policy="las")
    assert await Pass(hand, config, more).once() == 0.0


async def test_the_slots_of_a_lane_are_those_of_all_its_workers(hand: Hand, config: FleetConfig) -> None:
    await hand.submit(starts("j", "x"))
    for id, slots in (("one", 3), ("other", 4)):
        await hand.journal.announce(msgspec.structs.replace(worker(slots=slots), id=id), {})
    passes = Pass(hand, config)
    await passes.put(100)
    await passes.once()
    assert await passes.depth() == 1 + 3 + 4


async def test_one_pass_walks_as_many_jobs_as_all_need_to_be_looked_at_in_time(
    hand: Hand, passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 2)
    monkeypatch.setattr(reconciler, "WALK_S", hand.config.reconcile)
    await hand.submit(*(starts(f"j{n}", "x") for n in range(6)))
    walk, looked = hand.journal.walk, list[int]()

    async def counted(*args: Any) -> Any:
        walked = await walk(*args)
        looked.append(walked.looked)
        return walked

    hand.journal.walk = counted  # type: ignore[method-assign]
    await passes.reconciler._office.ask("take")
    await passes.once()
    assert sum(looked) >= 6
