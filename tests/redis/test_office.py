"""Who reconciles, whatever Redis' clock says; and that a jump of it puts nothing out of place.

A clock cannot be set here (tests/fleet/test_clock.py does that): what was made before a jump is moved the
other way instead, which looks the same to the verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aios_dist.broker.app import Tickets
from aios_dist.config import Config
from aios_dist.worker import office
from aios_dist.worker.office import Office
from aios_dist.worker.reconciler import Reconciler
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

PERIOD_S = 2.0
HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump", [HOUR_S, -HOUR_S], ids=["forward", "back"])


class OurClock:
    """The workers' own clock, which a test may set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> OurClock:
    clock = OurClock()
    monkeypatch.setattr(office, "_elapsed", clock)
    return clock


# The office ------------------------------------------------------------------------------------------------


@pytest.fixture
def offices(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> list[Office]:
    """Three workers' views of it; Redis' clock is no part of these tests."""
    monkeypatch.setattr(office, "JUMP_S", 1e9)
    return [Office(hand.journal, f"w{n}", PERIOD_S) for n in (1, 2, 3)]


async def test_one_worker_is_in_office_as_long_as_its_beat_goes_on(
    offices: list[Office], clock: OurClock
) -> None:
    for _ in range(20):
        assert [await office.ask("take") for office in offices] == [True, False, False]
        clock.now += PERIOD_S


async def test_an_office_whose_beat_has_stopped_is_taken_by_one_within_three_periods(
    offices: list[Office], clock: OurClock
) -> None:
    await offices[0].ask("take")
    taken = []
    for _ in range(3):
        taken.append([await office.ask("take") for office in offices[1:]])
        clock.now += PERIOD_S
    assert taken == [[False, False], [False, False], [True, False]]
    assert not await offices[0].ask("take"), "whoever was away is told"


async def test_a_worker_that_looks_does_not_take_the_office(offices: list[Office], hand: Hand) -> None:
    assert not await offices[0].ask("look")
    assert await hand.redis("EXISTS", hand.keys.reconciler) == 0
    assert await offices[1].ask("take")
    assert await offices[1].ask("look")


async def test_a_worker_that_leaves_gives_the_office_up(offices: list[Office]) -> None:
    assert await offices[0].ask("take")
    await offices[1].ask("leave")
    assert not await offices[2].ask("take"), "only the one in office can"
    await offices[0].ask("leave")
    assert await offices[2].ask("take")


@pytest.mark.parametrize("before", ["w9", "garbage|w9", "", "|", "99999999999999999999|w9"])
async def test_an_office_of_an_odd_kind_is_taken(
    offices: list[Office], hand: Hand, clock: OurClock, before: str
) -> None:
    await hand.redis("SET", hand.keys.reconciler, before, "PX", 60_000)
    for _ in range(3):
        got = await offices[0].ask("take")
        clock.now += PERIOD_S
    assert got


async def test_what_is_no_office_at_all_is_taken_too(offices: list[Office], hand: Hand) -> None:
    await hand.redis("LPUSH", hand.keys.reconciler, "x")
    await hand.redis("LPUSH", hand.keys.prefix + "jumps", "x")
    assert await offices[0].ask("take")
    assert await offices[0].ask("take")
    await hand.redis("DEL", hand.keys.prefix + "jumps")


async def test_no_time_to_live_ends_an_office_between_two_passes(offices: list[Office], hand: Hand) -> None:
    await offices[0].ask("take")
    assert await hand.redis("PTTL", hand.keys.reconciler) > 20 * HOUR_S * 1000


# The clock -------------------------------------------------------------------------------------------------


class Scene:
    """Everything that has a time, and what it should be."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        keys, prefix = hand.keys, hand.keys.prefix
        self.sets = [keys.leases, keys.timers, keys.deadlines, keys.due]
        self.sets += [prefix + name for name in ("inflight:small", "inflight:@default", "window:small")]

    async def make(self, id: str) -> None:
        """A call in flight, a try to come, a sleep, a deadline, a turn that is due."""
        hand = self.hand
        await hand.submit(starts(f"{id}-flight", "x"))
        await hand.claim()
        await hand.submit(starts(f"{id}-late", "x"))
        await hand.journal.release(await hand.claim(), "429", after=20.0)
        await hand.submit(starts(f"{id}-sleeps", "sleep:50"), starts(f"{id}-long", "sleep:9000"))
        await hand.submit(starts(f"{id}-deadline", "signal:x", deadline=7200.0))
        await hand.submit(starts(f"{id}-due", "x"))
        await hand.commit(await hand.claim())

    async def times(self) -> dict[str, float]:
        """Every entry and its time in seconds."""
        found = {}
        for key in self.sets:
            flat = await self.hand.redis("ZRANGE", key, 0, -1, "WITHSCORES")
            pairs = flat if flat and isinstance(flat[0], list) else zip(flat[::2], flat[1::2], strict=True)
            found |= {f"{key} {member.decode()}": float(score) / 1e6 for member, score in pairs}
        return found

    async def jumped(self, by: float) -> None:
        """As if all that there is had been made before Redis' clock went ``by`` seconds on."""
        for key in self.sets:
            for member in await self.hand.redis("ZRANGE", key, 0, -1):
                await self.hand.redis("ZINCRBY", key, f"{-by * 1e6:.0f}", member)


@JUMPS
async def test_what_was_made_before_a_jump_keeps_its_distance_from_now_and_the_rest_stays(
    hand: Hand, jump: float
) -> None:
    await hand.limit(flight=1000)
    await hand.limit("@default", flight=1000)
    await hand.journal.announce(_worker(), {"small": "llm"})
    await hand.journal.set_tenant("default", max_in_flight=1000)
    await hand.reap()  # looks at the models whose limits are new
    scene = Scene(hand)
    await scene.make("before")
    right = await scene.times()
    await scene.jumped(jump)
    await scene.make("since")
    right |= {name: at for name, at in (await scene.times()).items() if name not in right}
    assert len(right) == 2 * 8
    moved, jumps = await hand.journal.shift(jump, 5.0, 0)
    assert (moved, jumps) == (8, 1)
    assert await scene.times() == pytest.approx(right, abs=0.001)


@JUMPS
async def test_a_jump_that_several_workers_saw_moves_things_once(hand: Hand, jump: float) -> None:
    await hand.limit(rpm=1000, tpm=1000)
    await hand.journal.announce(_worker(), {"small": "llm"})
    await hand.reap()
    scene = Scene(hand)
    await scene.make("before")
    right = await scene.times()
    await scene.jumped(jump)
    for _ in range(3):
        await hand.journal.shift(jump, 5.0, 0)
    assert len(right) == 10, "three calls in the window of the minute"
    assert await scene.times() == pytest.approx(right, abs=0.001)


@JUMPS
async def test_a_hold_of_a_model_that_is_over_does_not_begin_anew_and_one_that_lasts_goes_on(
    hand: Hand, jump: float
) -> None:
    await hand.journal.announce(_worker(), {"past": "llm", "lasts": "llm", "new": "llm"})
    now = await hand.journal.now()
    right = {"past": now - 60.0, "lasts": now + 60.0, "new": now + 60.0}
    for model, till in right.items():
        made = till if model == "new" else till - jump
        await hand.redis("HSET", hand.keys.model(model), "hold", f"{made * 1e6:.0f}")
        if model != "past":
            await hand.redis("ZADD", hand.keys.timers, f"{made * 1e6 + 1:.0f}", f"model:{model}/!")
    await hand.journal.shift(jump, 5.0, 0)
    for model, till in right.items():
        held = float(await hand.redis("HGET", hand.keys.model(model), "hold")) / 1e6
        assert held == pytest.approx(till, abs=0.001), model


@JUMPS
async def test_after_a_jump_leases_end_neither_early_nor_late_and_sleeps_are_as_long(
    hand: Hand, jump: float, clock: OurClock
) -> None:
    reconciler = Reconciler(Config(fleet=hand.config), hand.journal, Tickets(Config(fleet=hand.config)), "w1")
    await hand.submit(starts("held", "x"), starts("lost", "x"), starts("sleeps", "sleep:50"))
    held, lost = await hand.claim(), await hand.claim()
    await reconciler.once()
    scene = Scene(hand)
    await scene.jumped(jump)
    beat = (await hand.redis("GET", hand.keys.prefix + "beat")).split(b"|")
    await hand.redis("SET", hand.keys.prefix + "beat", f"{int(beat[0]) - jump * 1e6:.0f}|0")
    clock.now -= jump  # to our clock, Redis' own has gone that much too far
    await reconciler.once()
    assert await hand.names() == []
    assert await hand.state("sleeps") == "running"
    await hand.redis("ZADD", hand.keys.leases, "XX", 1, lost.lease)
    await reconciler.once()
    assert await hand.names() == ["lost/0"], "at once: no silence was seen"
    assert await hand.journal.renew([held.lease]) == set()
    lease = float(await hand.redis("ZSCORE", hand.keys.leases, held.lease)) / 1e6
    assert lease - await hand.journal.now() == pytest.approx(hand.config.lease, abs=2.0)


async def test_a_lease_that_ends_later_than_any_can_is_shortened_when_the_office_is_taken(
    hand: Hand, offices: list[Office]
) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    late = (await hand.journal.now() + HOUR_S) * 1e6
    await hand.redis("ZADD", hand.keys.leases, f"{late:.0f}", claim.lease)
    await hand.redis("SET", hand.keys.prefix + "beat", f"{late:.0f}|{late:.0f}")
    await offices[0].ask("take")
    lease = float(await hand.redis("ZSCORE", hand.keys.leases, claim.lease)) / 1e6
    assert lease - await hand.journal.now() == pytest.approx(hand.config.lease, abs=2.0)
    await hand.redis("ZADD", hand.keys.leases, 1, claim.lease)
    await hand.redis("SET", hand.keys.prefix + "beat", f"{late:.0f}|0")
    await hand.reap()
    assert await hand.names() == ["j/0"]


async def test_what_takes_long_is_no_jump(hand: Hand, clock: OurClock) -> None:
    """A loop that stood still between a question and its answer cannot tell; it must not guess."""
    here, truly = Office(hand.journal, "w1", PERIOD_S), hand.journal.office
    await here.ask("look")

    async def slowly(*args: Any, **more: Any) -> Any:
        clock.now += 30.0
        seat = await truly(*args, **more)
        clock.now += 30.0
        return seat._replace(now_us=seat.now_us + 30_000_000)

    hand.journal.office = slowly  # type: ignore[method-assign]
    await here.ask("look")
    hand.journal.office = truly  # type: ignore[method-assign]
    assert (await hand.journal.office("w1", "look")).jumps == 0


async def test_one_record_that_cannot_be_read_keeps_nothing_else_from_being_put_right(hand: Hand) -> None:
    scene = Scene(hand)
    await scene.make("before")
    right = await scene.times()
    await scene.jumped(HOUR_S)
    broken = [hand.keys.job("odd"), hand.keys.prefix + "inflight:odd"]
    await hand.journal.announce(_worker(), {"odd": "llm"})
    await hand.redis("HSET", broken[0], "h0", b"\xc1\xc1", "dl", "x")
    await hand.redis("SET", broken[1], "x")
    for name in ("odd/0", "odd", "/", "x/y/z"):
        await hand.redis("ZADD", hand.keys.timers, 1, name)
    await hand.redis("ZADD", hand.keys.deadlines, 1, "odd")
    await hand.journal.shift(HOUR_S, 5.0, 0)
    after = await scene.times()
    await hand.redis("DEL", *broken)
    for name in ("odd/0", "odd", "/", "x/y/z"):
        await hand.redis("ZREM", hand.keys.timers, name)
    await hand.redis("ZREM", hand.keys.deadlines, "odd")
    assert {name: after[name] for name in right} == pytest.approx(right, abs=0.001)


@JUMPS
async def test_each_of_thousands_of_timers_is_moved_once(hand: Hand, jump: float) -> None:
    """Over several pages, in which those that were moved must not come again."""
    now, many = await hand.journal.now(), 4500
    right = {f"j{n}/0": (now + n * 0.1) * 1e6 for n in range(1, many)}
    entries = [x for name, at in right.items() for x in (f"{at - jump * 1e6:.0f}", name)]
    await hand.redis("ZADD", hand.keys.timers, *entries)
    moved, _ = await hand.journal.shift(jump, 1.0, 0)
    flat = await hand.redis("ZRANGE", hand.keys.timers, 0, -1, "WITHSCORES")
    await hand.redis("DEL", hand.keys.timers)
    found = dict(flat) if isinstance(flat[0], list) else dict(zip(flat[::2], flat[1::2], strict=True))
    assert moved == len(right)
    assert {name.decode(): float(at) for name, at in found.items()} == pytest.approx(right, abs=1000)


def _worker() -> Any:
    from aios_dist.journal import WorkerInfo

    return WorkerInfo(id="w", host="h", pid=1, pool="p", lanes=["llm"], slots=1, started_at=1.0, seen_at=1e12)


@JUMPS
async def test_each_jump_of_redis_clock_is_put_right_once_and_the_next_one_too(
    hand: Hand, clock: OurClock, jump: float
) -> None:
    """Our clock goes the other way instead."""
    here = Office(hand.journal, "w1", PERIOD_S)
    await here.ask("take")
    for _ in range(2):
        clock.now -= jump
        await here.ask("take")
    await here.ask("take")
    assert (await hand.journal.office("w1", "look")).jumps == 2
