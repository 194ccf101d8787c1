"""What a worker hears on the control channel, and that no message makes it deaf to the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgpack
import msgspec
import pytest
import pytest_asyncio

from aios_dist.journal import Claim, Journal
from aios_dist.worker.control import Control
from aios_dist.worker.leases import Leases
from tests.fleet.wire import Wire
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.redis.conftest import Hand

WORKER = "w1"
MALFORMED: dict[str, bytes] = {
    "a byte that begins nothing": b"\xc1",
    "nothing": b"",
    "two words": msgpack.packb(["a", "b"]),
    "a number": msgpack.packb(5),
    "a map": msgpack.packb({"lane": "x"}),
    "nil for a lane": msgpack.packb(["lane", None, "", ""]),
    "one word too many": msgpack.packb(["drop", "x", "y", "z", "extra"]),
    "an unknown word": msgpack.packb(["explode", "x", "y", "z"]),
    "a number for a word": msgpack.packb([5, "x", "y", "z"]),
    "no UTF-8": msgpack.packb(["lane", b"\xff\xfe", "", ""], use_bin_type=False),
    "a long name": msgpack.packb(["lane", "x" * 2000, "", ""]),
    "a long message": msgpack.packb(["lane", "x" * 1_000_000, "", ""]),
    "lists in each other": b"\x91" * 3000,
    "a list of four thousand million": b"\xdd\xff\xff\xff\xff",
}


class Listener:
    """One worker's ear, and what it has heard."""

    def __init__(self, journal: Journal) -> None:
        self.lanes: list[tuple[str, ...]] = []
        self.breaks: Exception | None = None
        self.leases = Leases(journal)
        self.woken: list[bool] = []
        self.control = Control(journal, self.leases, WORKER, self.new_rules, lambda: self.woken.append(True))
        self._task = asyncio.create_task(self.control.listen())

    async def new_rules(self, *lanes: str) -> None:
        self.lanes.append(lanes)
        if self.breaks is not None:
            raise self.breaks

    def works_on(self, claim: Claim) -> asyncio.Task[Any]:
        """A call for that step, which lasts."""
        task: asyncio.Task[Any] = asyncio.create_task(asyncio.sleep(60))
        self.leases.add(claim, task)
        return task

    async def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Look until it is so."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  # what it looks at tells nobody
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest_asyncio.fixture
async def listener(hand: Hand) -> AsyncIterator[Listener]:
    listener = Listener(hand.journal)
    await listener.until(lambda: listener.lanes)
    yield listener
    await listener.close()


async def test_after_any_malformed_message_a_call_can_still_be_stopped(
    hand: Hand, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    await hand.submit(starts("j", "x"))
    call = listener.works_on(await hand.claim(worker=WORKER))
    for said in MALFORMED.values():
        await hand.redis("PUBLISH", hand.keys.control, said)
    await hand.journal.cancel("j")
    await listener.until(call.cancelled)
    assert listener.control.dropped.count == len(MALFORMED)
    said = [r for r in caplog.records if r.name == "aios_dist.control"]
    assert [r.levelno for r in said] == [logging.WARNING], "once a minute"
    assert listener.lanes == [()], "none of them was obeyed"


async def test_a_plan_with_members_left_to_drop_wakes_the_reconciler(hand: Hand, listener: Listener) -> None:
    await hand.plan("p", ("fixed", "stop", "first", *(f"j{n}" for n in range(100))))
    assert listener.woken == []
    await hand.journal.cancel("first")
    await listener.until(lambda: listener.woken)
    await hand.go_on()
    assert listener.woken == [True], "once"
    assert await hand.state("j99") == "cancelled"


async def test_an_action_that_breaks_is_logged_and_the_next_is_done(
    hand: Hand, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.breaks = RuntimeError("boom")
    await hand.journal.set_lane("llm", policy="fixed")
    await listener.until(lambda: listener.lanes == [(), ("llm",)])
    await hand.journal.set_lane("llm", policy="hybrid")
    await listener.until(lambda: listener.lanes == [(), ("llm",), ("llm",)])
    (said,) = [r for r in caplog.records if r.name == "aios_dist.control"]
    assert said.exc_info is not None


async def test_a_call_for_another_worker_goes_on(hand: Hand, listener: Listener) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    mine = listener.works_on(await hand.claim(worker=WORKER))
    others = listener.works_on(await hand.claim(worker="w2"))
    await hand.journal.cancel("k")
    await hand.journal.cancel("j")
    await listener.until(mine.cancelled)
    assert not others.done()
    others.cancel()


async def test_what_was_missed_while_nobody_listened_is_looked_up(
    hand: Hand, config: FleetConfig, redis_server: EmbeddedRedis
) -> None:
    with Wire(redis_server.port) as wire:
        journal = Journal(msgspec.structs.replace(config, redis_url=wire.url))
        listener = Listener(journal)
        await listener.until(lambda: listener.lanes)
        await hand.submit(starts("a-strange-one", "x"), starts("j", "x"), starts("k", "x"))
        strange, ended, goes_on = [listener.works_on(await hand.claim(worker=WORKER)) for _ in range(3)]
        with wire.refused():
            await hand.journal.cancel("j")
            await hand.redis("HSET", hand.keys.job("a-strange-one"), "st", "wobbly")
        await listener.until(ended.cancelled)
        await listener.until(lambda: len(listener.lanes) == 2)
        await hand.redis("HSET", hand.keys.job("a-strange-one"), "st", "running")
        for call in (strange, goes_on):
            assert not call.done()
            call.cancel()
        await listener.close()
        await journal.close()


async def test_a_flood_of_new_rules_is_read_a_few_times_and_keeps_no_cancelled_call_waiting(
    hand: Hand, listener: Listener
) -> None:
    await hand.submit(starts("j", "x"))
    mine = listener.works_on(await hand.claim(worker=WORKER))
    for n in range(3000):
        await listener.control.obey(msgpack.packb(["lane", f"l{n}", "", ""]))
    await hand.journal.cancel("j")
    await listener.until(mine.cancelled)
    await listener.until(lambda: () in listener.lanes[1:])
    assert len(listener.lanes) < 10, "so many at once are all of them"


async def test_a_line_that_was_forgotten_on_its_way_is_noticed_and_what_was_missed_is_looked_up(
    hand: Hand, config: FleetConfig, redis_server: EmbeddedRedis
) -> None:
    with Wire(redis_server.port) as wire:
        journal = Journal(msgspec.structs.replace(config, redis_url=wire.url, redis_timeout=1.0))
        listener = Listener(journal)
        await listener.until(lambda: listener.lanes)
        await hand.submit(starts("j", "x"))
        mine = listener.works_on(await hand.claim(worker=WORKER))
        assert wire.forget()
        await hand.journal.cancel("j")
        await listener.until(mine.cancelled)
        await listener.close()
        await journal.close()
