"""Answers are right and in time: what a caller hears while Redis hangs, lines break, and ends are missed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
import redis

from aios_dist import AsyncFleet, Budget, agent, fifo, llm, prompts
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import (
    FleetUnavailable,
    InvalidInput,
    JobCancelled,
    JobConflict,
    JournalError,
    ResultTimeout,
)
from aios_dist.journal import scripts
from aios_dist.journal.connection import BATCH_BYTES, Connection
from aios_dist.journal.keys import Keys
from aios_dist.model.jobs import JobState
from aios_dist.producer.handles import AsyncJob
from tests.redis.test_connection import Wire
from tests.verbs import load_verbs

ONE = prompts("one", ["say {input}"], model="small")
SOON_S = 8.0
"""Less than Redis' own time-out: who hears after this has been told by a clock of somebody else's."""


@agent(name="answers-echo")
async def echo(value: object = None) -> object:
    return value


@agent(name="answers-falls")
async def falls(value: object = None) -> object:
    raise ValueError(value)


class Bad(Wire):
    """A line that loses so many answers (to anything, or to verbs), or carries so many bytes a second."""

    losing = losing_verbs = 0
    rate = rate_back = delay = 0.0

    async def _back(self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await from_redis.read(1 << 14 if self.rate_back else 1 << 20):
            if self.losing:
                self.losing -= 1
                break
            await asyncio.sleep(self.delay + (len(data) / self.rate_back if self.rate_back else 0))
            if not self.silent:
                writer.write(data)
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, to_redis: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.requests.append(data)
            if self.losing_verbs and (b"FCALL" in data or b"EVAL" in data):
                self.losing_verbs, self.losing = self.losing_verbs - 1, 1
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            to_redis.write(data)
            await to_redis.drain()
        to_redis.close()


@pytest_asyncio.fixture
async def line(redis_server: Any, redis_url: str) -> AsyncIterator[Bad]:
    made = Bad(redis_server.port)
    await made.start()
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def opened(url: str, name: str, **settings: Any) -> AsyncIterator[AsyncFleet]:
    config = Config(fleet=FleetConfig(name=name, redis_url=url, **settings), models={})
    async with AsyncFleet(config) as fleet:
        yield fleet


@pytest_asyncio.fixture
async def fleet(line: Bad, fleet_name: str, near: redis.Redis) -> AsyncIterator[AsyncFleet]:
    """A producer at the far end of the line. Redis knows the verbs: no answer says that it does not."""
    load_verbs(near)
    async with opened(line.url, fleet_name) as fleet:
        yield fleet
        line.silent = False
        line.cut()


@pytest.fixture
def near(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def every(source: AsyncIterator[Any]) -> list[Any]:
    return [entry async for entry in source]


WAITS: dict[str, Callable[[AsyncFleet, AsyncJob, float], Awaitable[Any]]] = {
    "result": lambda fleet, job, timeout: job.result(timeout),
    "events": lambda fleet, job, timeout: every(job.events(timeout=timeout)),
    "as_completed": lambda fleet, job, timeout: every(fleet.as_completed([job], timeout)),
}
waits = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


# In time ------------------------------------------------------------------------------------------


async def test_an_end_that_was_missed_is_found_though_other_jobs_end_all_the_time(
    fleet: AsyncFleet, near: redis.Redis, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.endings.LOOK_AGAIN_S", 1.0)
    keys, cancel = Keys(fleet_name), scripts.load()["cancel"]
    job, other = await fleet.submit(ONE, input="x"), await fleet.submit(ONE, input="y")
    heard = asyncio.create_task(job.result(timeout=30))
    beside = asyncio.create_task(other.result(timeout=1))

    async def others_end() -> None:
        while True:
            near.publish(keys.end(other.id), "done")
            await asyncio.sleep(0.02)

    others = asyncio.create_task(others_end())
    await until(fleet._endings._hearing.tried.is_set)
    for _ in range(5):  # behind these the waiting caller has looked, and has not seen an end
        await job.status()
    # A verb that says nothing of it: as one of a release before, by a producer.
    silent = cancel.source.replace("redis.call('PUBLISH', key('end', job), state)", "")
    near.eval(silent, 1, keys.prefix, cancel.pack({"job": job.id, "retention_ms": 60_000}))
    began = time.monotonic()
    with pytest.raises(JobCancelled):
        await heard
    assert time.monotonic() - began < SOON_S, "it was found at the deadline only"
    others.cancel()
    await asyncio.gather(beside, return_exceptions=True)


@waits
@pytest.mark.parametrize("since", ["before", "meanwhile"])
async def test_a_callers_time_out_counts_while_redis_says_nothing(
    fleet: AsyncFleet, line: Bad, wait: Callable[..., Awaitable[Any]], since: str
) -> None:
    job = await fleet.submit(ONE, input="x")
    line.silent = since == "before"
    began = time.monotonic()
    waiting = asyncio.ensure_future(wait(fleet, job, 0.4))
    if since == "meanwhile":
        await until(lambda: any(b"XREAD" in said or b"SUBSCRIBE" in said for said in line.requests))
        line.silent = True
    with pytest.raises(ResultTimeout):
        await waiting
    assert time.monotonic() - began < SOON_S


async def test_a_submission_gives_up_in_time_and_names_its_jobs_which_are_the_same_when_submitted_again(
    fleet: AsyncFleet, line: Bad, near: redis.Redis, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.endings.PATIENCE_S", 0.4)
    monkeypatch.setattr("aios_dist.producer.fleet.CHUNK", 2)
    fleet.journal.connection.timeout = fleet.journal.connection._patience = 0.3
    for connection in [await fleet.journal.connection.client.connection_pool.get_connection()]:
        connection.socket_timeout = 0.3
        await fleet.journal.connection.client.connection_pool.release(connection)
    await fleet.submit(echo, value=0)
    line.silent = True
    specs, began = [echo.job(value=number) for number in range(5)], time.monotonic()
    with pytest.raises(FleetUnavailable, match=r"may be there all the same") as broke:
        await fleet.submit_many(specs)
    with pytest.raises(FleetUnavailable) as of_plan:
        await fleet.submit_plan(fifo(specs))
    with pytest.raises(FleetUnavailable) as alone:
        await fleet.submit(echo, value=9)
    assert time.monotonic() - began < SOON_S
    assert len(broke.value.ids) == 2, "the rest was not sent"
    line.silent = False
    line.cut()
    again = [spec.named(id) for spec, id in zip(specs, broke.value.ids, strict=False)]
    assert [job.id for job in await fleet.submit_many(again)] == list(broke.value.ids)
    assert of_plan.value.plan
    plan = await fleet.submit_plan(fifo(specs), id=of_plan.value.plan)
    assert [job.id for job in plan] == list(of_plan.value.ids)
    assert (await fleet.submit(echo, id=alone.value.ids[0], value=9)).id == alone.value.ids[0]
    assert len(await fleet.jobs()) == 1 + 2 + 5 + 1


async def test_what_has_ended_is_handed_out_before_the_clock_is_looked_at(
    fleet: AsyncFleet, near: redis.Redis, fleet_name: str
) -> None:
    jobs = await fleet.submit_many([echo.job(value=number) for number in range(3)])
    assert len(await every(fleet.as_completed(jobs, timeout=0))) == 3
    assert await jobs[0].result(timeout=0) == 0
    assert (await every(jobs[0].events(timeout=0)))[-1].what == "done"
    late = await fleet.submit(ONE, input="x")
    seen, ended = [], fleet.as_completed([*jobs, late], timeout=0.2)
    for _ in jobs:
        seen.append((await anext(ended)).id)
        time.sleep(0.15)  # noqa: ASYNC251  # the caller is slow, and this loop stands still
    with pytest.raises(ResultTimeout, match="1 of 4 jobs"):
        await anext(ended)
    assert sorted(seen) == sorted(job.id for job in jobs)
    for timeout in (0, -1, 0.05):
        with pytest.raises(ResultTimeout):
            await late.result(timeout)


async def test_what_has_ended_is_handed_out_however_many_they_are(
    fleet: AsyncFleet, line: Bad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at all of them takes longer than the clock gives for one."""
    monkeypatch.setattr("aios_dist.producer.endings.LOOK_S", 1.0)
    monkeypatch.setattr("aios_dist.producer.endings.PAGE", 1)
    monkeypatch.setattr("aios_dist.journal.connection.BATCH", 1)
    jobs = await fleet.submit_many([echo.job(value=number) for number in range(8)])
    line.delay = 0.2
    assert len(await every(fleet.as_completed(jobs, timeout=0))) == 8


async def test_an_end_whose_news_is_unread_at_the_deadline_counts(
    fleet: AsyncFleet, near: redis.Redis, fleet_name: str
) -> None:
    keys, cancel = Keys(fleet_name), scripts.load()["cancel"]
    first, second = await fleet.submit(echo, value=1), await fleet.submit(ONE, input="x")
    ended = fleet.as_completed([first, second], timeout=0.3)
    assert (await anext(ended)).id == first.id
    near.eval(cancel.source, 1, keys.prefix, cancel.pack({"job": second.id, "retention_ms": 60_000}))
    time.sleep(0.4)  # noqa: ASYNC251  # this loop stands still until the deadline is over
    assert (await anext(ended)).id == second.id
    with pytest.raises(StopAsyncIteration):
        await anext(ended)


@waits
async def test_who_waits_is_told_at_once_when_the_fleet_is_closed(
    redis_url: str, fleet_name: str, wait: Callable[..., Awaitable[Any]]
) -> None:
    async with opened(redis_url, fleet_name) as fleet:
        job = await fleet.submit(ONE, input="x")
        waiting = asyncio.ensure_future(wait(fleet, job, 3600))
        await asyncio.wait([waiting], timeout=0.2)
    with pytest.raises(FleetUnavailable, match="closed"):
        await asyncio.wait_for(waiting, SOON_S)


# Broken lines -------------------------------------------------------------------------------------


async def failed(fleet: AsyncFleet) -> AsyncJob:
    return await fleet.submit(falls, value=1)


async def waiting(fleet: AsyncFleet) -> AsyncJob:
    return await fleet.submit(ONE, input="x")


async def paused(fleet: AsyncFleet) -> AsyncJob:
    job = await waiting(fleet)
    assert await job.pause()
    return job


async def cancelled(fleet: AsyncFleet) -> AsyncJob:
    job = await waiting(fleet)
    assert await job.cancel()
    return job


Made = Callable[[AsyncFleet], Awaitable[AsyncJob]]
SAID: dict[str, tuple[Made, Callable[[AsyncFleet, AsyncJob], Awaitable[Any]], Any]] = {
    "status": (waiting, lambda fleet, job: job.status(), JobState.RUNNING),
    "pause": (waiting, lambda fleet, job: job.pause(), True),
    "resume": (paused, lambda fleet, job: job.resume(Budget(tokens=5)), True),
    "rerank": (waiting, lambda fleet, job: job.rerank(priority=3), True),
    "signal": (waiting, lambda fleet, job: job.signal("go", 1), True),
    "cancel": (waiting, lambda fleet, job: job.cancel(), True),
    "cancel what was cancelled": (cancelled, lambda fleet, job: job.cancel(), False),
    "retry": (cancelled, lambda fleet, job: job.retry(), True),
    "retry what falls again": (failed, lambda fleet, job: job.retry(), True),
    "lanes": (waiting, lambda fleet, job: fleet.set_tenant("t", weight=2), None),
}


@pytest.mark.parametrize("lost", ["losing", "losing_verbs"])
@pytest.mark.parametrize(("made", "say", "answer"), SAID.values(), ids=SAID)
async def test_a_verb_whose_answer_is_lost_is_said_again_and_answers_as_if_nothing_were(
    fleet: AsyncFleet, line: Bad, made: Made, say: Callable[..., Awaitable[Any]], answer: Any, lost: str
) -> None:
    job = await made(fleet)
    before = await job.steps()
    setattr(line, lost, 1)
    assert await say(fleet, job) == answer
    assert line.losing == 0
    assert line.losing_verbs == 0 or (lost, answer) == ("losing_verbs", JobState.RUNNING), "none was lost"
    line.losing_verbs = 0
    assert len(await job.steps()) == len(before)
    said = [event.what for event in await every_event(fleet, job)]
    for what in ("cancelled", "paused", "resumed", "retried", "reranked", "signal"):
        assert said.count(what) <= 1, said


async def every_event(fleet: AsyncFleet, job: AsyncJob) -> list[Any]:
    return await fleet.journal.events(job.id)


async def test_a_job_that_ends_again_before_its_retry_is_answered_is_not_retried_twice(
    fleet: AsyncFleet, line: Bad, near: redis.Redis, fleet_name: str
) -> None:
    keys, cancel = Keys(fleet_name), scripts.load()["cancel"]
    job = await cancelled(fleet)
    line.losing_verbs = 1
    retried = asyncio.create_task(job.retry())
    await until(lambda: any(b"retried" in event for event in near.lrange(keys.events(job.id), 0, -1)))
    near.eval(cancel.source, 1, keys.prefix, cancel.pack({"job": job.id, "retention_ms": 60_000}))
    await retried
    assert [event.what for event in await every_event(fleet, job)].count("retried") == 1


async def test_a_submission_a_fork_and_an_extension_whose_answer_is_lost_are_made_once(
    fleet: AsyncFleet, line: Bad
) -> None:
    job = await waiting(fleet)
    plan = await fleet.submit_plan(fifo([ONE.job("y")]), id="p")
    for make in (
        lambda: fleet.submit(ONE, input="x"),
        lambda: job.fork(0),
        lambda: plan.extend_with([ONE.job("z")]),
    ):
        line.losing = 1
        await make()
        assert line.losing == 0
    assert len(await fleet.jobs()) == 2 + 3


async def test_a_fork_or_a_signal_that_gives_up_says_under_which_id_it_is_the_same(
    line: Bad, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.endings.PATIENCE_S", 0.4)
    async with opened(line.url, fleet_name, redis_timeout=0.5) as fleet:
        job = await waiting(fleet)
        line.silent = True
        with pytest.raises(FleetUnavailable, match=r"It was asked for \d s\. .*may be there") as of_fork:
            await job.fork(0)
        line.silent = False
        line.cut()
        await job.status()
        line.silent = True
        with pytest.raises(FleetUnavailable, match="may have come") as of_signal:
            await job.signal("go", 1)
        line.silent = False
        line.cut()
        assert (await job.fork(0, id=of_fork.value.ids[0])).id == of_fork.value.ids[0]
        assert len(await fleet.jobs()) == 2
        assert await job.signal("go", 1, id=str(of_signal.value).split("'")[-2])
        assert [event.what for event in await every_event(fleet, job)].count("signal") == 1


async def test_dead_letters_that_were_dropped_are_counted_though_the_answer_is_lost(
    fleet: AsyncFleet, line: Bad, near: redis.Redis, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    near.zadd(Keys(fleet_name).dead, {"j/0": 1e6, "j/1": 2e6})
    send = fleet.journal.connection.command

    async def loses(*command: Any) -> Any:
        line.losing = int(command[0] == "ZREM")
        return await send(*command)

    monkeypatch.setattr(fleet.journal.connection, "command", loses)
    assert await fleet.drop_dead("j") == 2
    assert await fleet.dead_letters() == []


async def test_ids_on_the_error_of_a_conflict_are_those_that_were_submitted_before_it(
    fleet: AsyncFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.fleet.CHUNK", 1)
    await fleet.submit(echo, id="taken", value=0)
    with pytest.raises(JobConflict) as conflict:
        await fleet.submit_many([echo.job(value=1), echo.job(value=2, id="taken")])
    assert {view.id for view in await fleet.jobs()} == {"taken", *conflict.value.ids}


async def test_a_first_turn_that_cannot_be_leaves_nothing_of_the_jobs_before_it(
    fleet: AsyncFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.fleet.CHUNK", 1)

    @agent(name="asks-what-cannot-be")
    async def odd() -> str:
        return (await llm("x", model="small", temperature=float("nan"))).text

    with pytest.raises(InvalidInput):
        await fleet.submit_many([echo.job(value=1), odd.job()])
    assert await fleet.jobs() == []


async def test_what_cannot_be_read_of_a_job_is_said_in_one_sentence(
    fleet: AsyncFleet, near: redis.Redis, fleet_name: str
) -> None:
    keys = Keys(fleet_name)
    job, other = await fleet.submit(echo, value=1), await fleet.submit(echo, value=2)
    near.lset(keys.events(other.id), 0, b"junk")
    with pytest.raises(JournalError, match="cannot be read"):
        await every(other.events(timeout=1))
    for damaged in (b"jgarbage{", b"zgarbage", b""):
        near.hset(keys.job(job.id), "res", damaged)
        with pytest.raises(JournalError, match="cannot be read"):
            await job.result(1)


# Large --------------------------------------------------------------------------------------------


async def test_large_jobs_go_in_parts_with_time_by_their_size(
    line: Bad, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes over a line that takes seconds for them, where Redis is given up after half a second."""
    sent: list[int] = []
    async with opened(line.url, fleet_name, redis_timeout=0.5) as fleet:
        await fleet.submit(echo, value=0)
        eval_ = fleet.journal.connection.eval

        async def measured(script: Any, prefix: str, argument: bytes, *then: Any, **more: Any) -> Any:
            sent.append(len(argument))
            return await eval_(script, prefix, argument, *then, **more)

        monkeypatch.setattr(fleet.journal.connection, "eval", measured)
        line.rate = 1e6
        large = random.Random(1).randbytes(400_000).hex()
        jobs = await fleet.submit_many([ONE.job(large[number:]) for number in range(4)])
        line.rate = 0
        assert len(jobs) == len({job.id for job in jobs}) == 4
        assert len(await fleet.jobs()) == 5
    assert max(sent) > 0.5 * 1e6, "one alone takes longer than a silence may"
    assert len([size for size in sent if size > 100_000]) == 4, "each is more than half of a part"


async def test_a_large_answer_has_its_time_as_long_as_some_of_it_comes(line: Bad, fleet_name: str) -> None:
    async with opened(line.url, fleet_name, redis_timeout=0.5) as fleet:
        large = "".join(f"{number * 7919 % 65537:x}," for number in range(120_000))
        job = await fleet.submit(echo, value=large)
        line.rate_back = 3e5
        began = time.monotonic()
        assert await job.result(30) == large
        assert time.monotonic() - began > 0.5, "it took no longer than a silence may"


async def test_a_flood_of_large_commands_goes_in_round_trips_of_bounded_size() -> None:
    connection = Connection("redis://127.0.0.1:1/0")
    loop = asyncio.get_running_loop()
    sizes = [BATCH_BYTES // 3] * 7 + [3 * BATCH_BYTES] + [10] * 300
    connection._queue = [((b"x" * size,), size, loop.create_future()) for size in sizes]
    trips = []
    while connection._queue:
        batch, size = connection._next_batch()
        trips.append([len(args[0]) for args, *_ in batch])
        assert size == sum(trips[-1])
    assert [size for trip in trips for size in trip] == sizes, "all, in their order"
    assert all(sum(trip) <= BATCH_BYTES or len(trip) == 1 for trip in trips)
    assert len(trips) <= 6
    await connection.close()
