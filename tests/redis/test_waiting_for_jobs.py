"""A producer that waits: what it hears of, in which order, and what a look finds that the news did not bring.

The worker's part is played by hand, on a real Redis.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from aios_dist import AsyncFleet, AsyncJob, Budget, agent, fixed, llm, prompts
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import FleetUnavailable, InvalidInput, JobConflict, ResultTimeout, UnknownName
from aios_dist.journal import WorkerInfo, hearing
from aios_dist.model.jobs import JobState, Outcome
from aios_dist.policies import Past
from aios_dist.producer import endings
from tests.redis.conftest import decides

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

ONE = prompts("one", ["say {input}"], model="small")


@pytest_asyncio.fixture
async def fleet(config: FleetConfig) -> AsyncIterator[AsyncFleet]:
    async with AsyncFleet(Config(fleet=config, models={"small": ModelConfig()})) as made:
        yield made


async def submitted(fleet: AsyncFleet, *ids: str) -> list[AsyncJob]:
    return await fleet.submit_many([ONE.job(id=id, input=id) for id in ids])


async def end(hand: Hand, id: str, state: JobState = JobState.DONE) -> None:
    """The job ends as by a turn of its own."""
    history = await hand.journal.load(id)
    view = history.view
    decision = decides(view.outcomes, view.steps, ends=state, result=Outcome(value=f"of {id}"))
    assert (await hand.journal.advance(id, decision)).status == "advanced"


async def waiting(fleet: AsyncFleet, *ids: str) -> None:
    """Until somebody waits for these, and the news are followed."""
    of = fleet._endings
    async with asyncio.timeout(10):
        while not (set(ids) <= of._waiting.keys() and of._hearing.tried.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def follows_nothing(fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is heard from here on, as where a line was cut behind our back."""

    async def silent() -> AsyncIterator[None]:
        fleet._endings._hearing.tried.set()
        await asyncio.Event().wait()
        yield None

    monkeypatch.setattr(fleet._endings._hearing, "listen", silent)


async def heard_by(hand: Hand, id: str) -> None:
    """Until somebody hears of this job."""
    async with asyncio.timeout(10):
        while not await hand.redis("PUBSUB", "CHANNELS", hand.keys.end(id)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _all(source: AsyncIterator[AsyncJob]) -> list[AsyncJob]:
    return [job async for job in source]


# What has ended ---------------------------------------------------------------------------------------


async def test_the_result_of_a_job_that_has_ended_is_there_at_once(fleet: AsyncFleet, hand: Hand) -> None:
    (job,) = await submitted(fleet, "x")
    await end(hand, "x")
    assert await job.result(timeout=0) == "of x"
    assert await job.result(timeout=5) == "of x"


async def test_a_job_that_ends_between_two_looks_is_found_by_the_second(
    fleet: AsyncFleet, hand: Hand
) -> None:
    (job,) = await submitted(fleet, "x")
    standing, calls = fleet.journal.standing, list[str]()

    async def ends_behind_the_first(id: str) -> Any:
        said = await standing(id)
        if not calls:
            await end(hand, id)  # before anybody follows the news
        calls.append(id)
        return said

    fleet.journal.standing = ends_behind_the_first  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        assert await job.result(timeout=60) == "of x"


async def test_jobs_come_in_the_order_in_which_they_end_and_what_had_ended_comes_first(
    fleet: AsyncFleet, hand: Hand
) -> None:
    jobs = await submitted(fleet, "a", "b", "c", "d")
    await end(hand, "c")
    got = []
    async with asyncio.timeout(endings.LOOK_AGAIN_S / 2):  # nobody has to look again
        async for job in fleet.as_completed(jobs, timeout=60):
            got.append(job.id)
            for id in {1: ["d", "a"], 3: ["b"]}.get(len(got), []):
                await end(hand, id)
    assert got == ["c", "d", "a", "b"]
    assert fleet._endings._waiting == {}, "nothing is kept of those that nobody waits for"


async def test_a_result_that_has_not_come_in_time_is_waited_for_no_longer(fleet: AsyncFleet) -> None:
    (job,) = await submitted(fleet, "x")
    async with asyncio.timeout(10):
        with pytest.raises(ResultTimeout, match="it goes on"):
            await job.result(timeout=0.2)


async def test_how_many_have_not_ended_is_said(fleet: AsyncFleet, hand: Hand) -> None:
    jobs = await submitted(fleet, "a", "b", "c")
    await end(hand, "b")
    ended = aiter(fleet.as_completed(jobs, timeout=0.2))
    assert (await anext(ended)).id == "b"
    with pytest.raises(ResultTimeout, match=r"2 of 3 jobs have not ended within 0\.2 s"):
        await anext(ended)
    assert fleet._endings._waiting == {}


async def test_a_job_that_expires_while_it_is_waited_for_ends_the_wait(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LOOK_AGAIN_S", 0.1)
    (job,) = await submitted(fleet, "x")
    result = asyncio.create_task(job.result(timeout=60))
    await waiting(fleet, "x")
    await hand.redis("RENAME", hand.keys.job("x"), hand.keys.job("x-gone"))
    async with asyncio.timeout(10):
        with pytest.raises(UnknownName):
            await result
    await hand.redis("RENAME", hand.keys.job("x-gone"), hand.keys.job("x"))


@pytest.mark.parametrize("way", ["result", "as_completed"])
async def test_an_end_that_the_news_never_bring_is_found_by_looking(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(endings, "LOOK_AGAIN_S", 0.1)
    (job,) = await submitted(fleet, "x")
    await follows_nothing(fleet, hand, monkeypatch)

    async def wait() -> Any:
        if way == "result":
            return await job.result(timeout=60)
        return await (await anext(aiter(fleet.as_completed([job], timeout=60)))).result(timeout=0)

    result = asyncio.create_task(wait())
    await waiting(fleet, "x")
    await end(hand, "x")
    async with asyncio.timeout(10):
        assert await result == "of x"


async def test_a_producer_hears_of_its_own_jobs_and_of_no_others(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many end beside them; and what is over is heard no more."""
    monkeypatch.setattr(endings, "LOOK_AGAIN_S", 3600.0)
    monkeypatch.setattr(hearing, "MOST_LEFT", 3)
    heard, listen = list[tuple[str, str]](), fleet._endings._hearing.listen

    async def noted() -> AsyncIterator[tuple[str, str] | None]:
        async for said in listen():
            heard.extend([said] if said is not None else [])
            yield said

    monkeypatch.setattr(fleet._endings._hearing, "listen", noted)
    ids = [f"x{n}" for n in range(8)]
    jobs = await submitted(fleet, *ids, *(f"other{n}" for n in range(8)))
    for job in jobs[:8]:
        result = asyncio.create_task(job.result(timeout=60))
        await waiting(fleet, job.id)
        await end(hand, job.id.replace("x", "other"))
        await end(hand, job.id)
        async with asyncio.timeout(10):
            assert await result == f"of {job.id}"
    assert {channel for channel, _ in heard} <= {hand.keys.end(id) for id in ids}
    still = await hand.redis("PUBSUB", "CHANNELS", hand.keys.end("*"))
    assert len(still) <= hearing.MOST_LEFT


async def test_an_end_while_the_line_is_cut_is_found_as_soon_as_there_is_another(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LOOK_AGAIN_S", 3600.0)
    first, second = await submitted(fleet, "first", "second")
    of, gaps = fleet._endings._hearing, list[int]()
    listen = of.listen

    async def ends_between() -> AsyncIterator[tuple[str, str] | None]:
        async for said in listen():
            yield said
            if said is None and not gaps:  # who listens has looked, and there is no other line yet
                gaps.append(1)
                await hand.journal.cancel("second")

    monkeypatch.setattr(of, "listen", ends_between)
    every = asyncio.create_task(_all(fleet.as_completed([first, second], timeout=60)))
    await waiting(fleet, "first", "second")
    await heard_by(hand, "second")
    host, port = of._line._writer.get_extra_info("sockname")
    await hand.redis("CLIENT", "KILL", "ADDR", f"{host}:{port}")
    async with asyncio.timeout(10):
        while "second" in fleet._endings._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await heard_by(hand, "first")
    await end(hand, "first")
    async with asyncio.timeout(10):
        assert [job.id for job in await every] == ["second", "first"]


async def test_an_id_of_a_shard_is_an_id_as_any_other(fleet: AsyncFleet, hand: Hand) -> None:
    """Another release may make them on this Redis: a plan, its jobs, their handles, a fork and a retry."""
    await hand.plan("s3~p", ("fixed", "continue", "s3~p.0", "s3~p.1"))
    first, second = fleet.job("s3~p.0"), fleet.job("s3~p.1")
    waits = asyncio.create_task(_all(fleet.as_completed([second, first], timeout=60)))
    await heard_by(hand, "s3~p.1")
    await hand.run(fails=["s3~p.0"])
    async with asyncio.timeout(10):
        assert [job.id for job in await waits] == ["s3~p.0", "s3~p.1"]
    assert [event.what async for event in second.events()][-1] == "done"
    (late,) = await fleet.extend_plan("s3~p", [ONE.job(input="x")])
    assert late.id.startswith("s3~one-"), "it is where its plan is"
    fork = await second.fork(0)
    assert fork.id.startswith("s3~p.1-fork-")
    assert await first.retry()
    assert await first.cancel()
    await hand.look()


async def test_a_gap_in_the_news_is_a_reason_to_look(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = await submitted(fleet, "x")
    ended = asyncio.Event()

    async def gap() -> AsyncIterator[None]:
        fleet._endings._hearing.tried.set()
        await ended.wait()
        yield None
        await asyncio.Event().wait()

    monkeypatch.setattr(fleet._endings._hearing, "listen", gap)
    result = asyncio.create_task(job.result(timeout=60))
    await waiting(fleet, "x")
    await end(hand, "x")
    ended.set()
    async with asyncio.timeout(endings.LOOK_AGAIN_S / 2):
        assert await result == "of x"


async def test_a_redis_that_was_never_there_is_not_waited_for() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        async with AsyncFleet(Config(fleet=FleetConfig(redis_url=url))) as fleet, asyncio.timeout(10):
            with pytest.raises(FleetUnavailable):
                await fleet.submit(ONE, input="x")


async def test_a_look_that_breaks_is_not_the_last(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LOOK_AGAIN_S", 0.05)
    (job,) = await submitted(fleet, "x")
    await follows_nothing(fleet, hand, monkeypatch)
    over, broke = fleet.journal.over_and_plans, list[int]()

    async def breaks(ids: Any) -> Any:
        if len(broke) < 3:
            broke.append(1)
            raise FleetUnavailable("nobody answers") if len(broke) == 1 else ValueError("odd")
        return await over(ids)

    fleet.journal.connection.met = False  # a look does not wait for a Redis that is away
    fleet.journal.over_and_plans = breaks  # type: ignore[method-assign]
    result = asyncio.create_task(job.result(timeout=60))
    await waiting(fleet, "x")
    await end(hand, "x")
    async with asyncio.timeout(10):
        assert await result == "of x"


async def test_who_waits_is_told_why_the_news_ended_and_the_next_follows_them_anew(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await submitted(fleet, "a", "b")
    go, hearing = asyncio.Event(), fleet._endings._hearing
    listen = hearing.listen

    async def refused() -> AsyncIterator[None]:
        hearing.tried.set()
        await go.wait()
        raise FleetUnavailable("NOPERM this account may not read")
        yield None

    monkeypatch.setattr(hearing, "listen", refused)
    result = asyncio.create_task(a.result(timeout=60))
    rest = asyncio.create_task(anext(aiter(fleet.as_completed([a, b], timeout=60))))
    await waiting(fleet, "a", "b")
    go.set()
    for task in (result, rest):
        async with asyncio.timeout(10):
            with pytest.raises(FleetUnavailable, match="NOPERM"):
                await task
    monkeypatch.setattr(hearing, "listen", listen)
    again = asyncio.create_task(b.result(timeout=60))
    await waiting(fleet, "b")
    await end(hand, "b")
    async with asyncio.timeout(5):
        assert await again == "of b"


async def test_news_that_end_before_they_begin_are_raised_at_once(
    fleet: AsyncFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = await submitted(fleet, "x")

    async def refused() -> str:
        raise ValueError("an odd answer")

    monkeypatch.setattr(fleet.journal, "registry", refused)
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="odd"):
            await job.result(timeout=60)


async def test_who_waits_as_the_fleet_is_closed_hears_it(fleet: AsyncFleet) -> None:
    (job,) = await submitted(fleet, "x")
    waits = [
        asyncio.create_task(job.result(timeout=60)),
        asyncio.create_task(anext(aiter(fleet.as_completed([job], timeout=60)))),
    ]
    await waiting(fleet, "x")
    await fleet.close()
    for wait in waits:
        async with asyncio.timeout(5):
            with pytest.raises(FleetUnavailable, match="closed"):
                await wait


async def test_who_has_only_begun_to_wait_as_the_fleet_is_closed_hears_it_too(
    fleet: AsyncFleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not cancelled: a CancelledError that nobody has asked for ends a caller without a word."""
    (job,) = await submitted(fleet, "x")
    begun = asyncio.Event()

    async def never() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(fleet.journal, "registry", never)
    wait = asyncio.create_task(job.result(timeout=60))
    async with asyncio.timeout(5):
        await begun.wait()
        await fleet.close()
        with pytest.raises(FleetUnavailable, match="closed"):
            await wait
    del wait
    gc.collect()
    assert "never retrieved" not in caplog.text


# Steering: what is ready again has its ticket in the same breath --------------------------------------


async def tickets(hand: Hand, lane: str = "llm") -> int:
    return int(await hand.redis("LLEN", f"{hand.config.name}.{lane}"))


async def taken(hand: Hand) -> None:
    """Workers have taken all tickets that there were."""
    await hand.redis("DEL", f"{hand.config.name}.llm", f"{hand.config.name}.turns")


async def test_what_is_submitted_has_a_ticket_for_each_step(fleet: AsyncFleet, hand: Hand) -> None:
    await submitted(fleet, "a", "b", "c")
    assert await tickets(hand) == 3


async def test_a_job_that_is_resumed_signalled_retried_or_forked_has_its_tickets(
    fleet: AsyncFleet, hand: Hand
) -> None:
    (job,) = await submitted(fleet, "x")
    assert await job.pause()
    await taken(hand)
    assert await job.resume()
    assert await tickets(hand) == 1
    assert await job.cancel()
    await taken(hand)
    assert await job.retry()
    assert await tickets(hand) + await tickets(hand, "turns") > 0
    await taken(hand)
    fork = await job.fork(0, id="y")
    assert await tickets(hand, "turns") == 1
    assert fork.id == "y"
    await hand.redis("HSET", hand.keys.registry, "agent/one", "")
    (waits,) = await submitted(fleet, "z")
    claim = await hand.journal.load("z")
    await hand.journal.advance("z", decides(claim.view.outcomes, claim.view.steps, "signal:go"))
    await taken(hand)
    assert await waits.signal("go", 1)
    assert await tickets(hand, "turns") == 1


async def test_the_end_of_a_member_by_a_cancel_brings_the_ticket_of_the_next(
    fleet: AsyncFleet, hand: Hand
) -> None:
    jobs = [ONE.job(id=id, input=id) for id in ("a", "b")]
    plan = await fleet.submit_plan(fixed(jobs, on_failure="continue"), id="p")
    await taken(hand)
    assert await plan[0].cancel()
    assert await hand.states("a", "b") == ["cancelled", "running"]
    assert await tickets(hand) == 1


async def test_events_come_once_each_and_end_with_the_job_or_in_time(fleet: AsyncFleet, hand: Hand) -> None:
    (job,) = await submitted(fleet, "x")
    async with asyncio.timeout(20):
        events = aiter(job.events(timeout=0.5))
        got = [(await anext(events)).index, (await anext(events)).index]
        with pytest.raises(ResultTimeout, match="has not ended"):
            await anext(events)
        assert await job.rerank(priority=9)
        async for event in job.events(after=got[-1], timeout=60):
            got.append(event.index)
            if event.index < 4:
                assert await job.rerank(priority=event.index)
            elif event.index == 4:
                await end(hand, "x")
    assert got == [0, 1, 2, 3, 4, 5]


async def test_what_is_asked_of_a_job_that_has_ended_or_is_none_says_so(
    fleet: AsyncFleet, hand: Hand
) -> None:
    ended, other = await submitted(fleet, "x", "y")
    await end(hand, "x")
    assert not await ended.rerank(priority=3)
    assert not await ended.signal("go")
    assert not await ended.cancel()
    assert await other.rerank(priority=3)
    with pytest.raises(JobConflict, match="'y' is taken"):
        await ended.fork(0, id="y")
    for step in (-1, 7, 2**40):
        with pytest.raises(InvalidInput, match="has no step"):
            await ended.fork(step)
    with pytest.raises(UnknownName):
        await fleet.job("nobody").cancel()


async def test_made_up_ids_stay_within_what_an_id_may_be(fleet: AsyncFleet, hand: Hand) -> None:
    long = "j" * 128
    (job,) = await submitted(fleet, long)
    fork = await job.fork(0)
    assert fork.id.startswith("j" * 100 + "-fork-")
    assert await fork.status() is JobState.RUNNING
    many = await fleet.submit_many([prompts("n" * 128, ["{input}"], model="small").job(input="x")])
    assert many[0].id.startswith("n" * 100 + "-")


async def test_a_signals_value_may_have_as_many_bytes_as_a_prompt(
    fleet: AsyncFleet, config: FleetConfig
) -> None:
    (job,) = await submitted(fleet, "x")
    most = config.input_limit
    assert await job.signal("go", "v" * (most - 2))
    with pytest.raises(InvalidInput, match=f"{most + 1:,} bytes, more than input_limit"):
        await job.signal("go", "v" * (most - 1))


async def test_a_signal_whose_sending_broke_names_the_id_under_which_it_is_the_same(
    fleet: AsyncFleet,
) -> None:
    (job,) = await submitted(fleet, "x")

    async def away(*_: Any) -> Any:
        raise FleetUnavailable("Redis is away.")

    fleet.journal.connection.met = False
    fleet.journal.signal = away  # type: ignore[method-assign]
    with pytest.raises(FleetUnavailable, match=r"under id='mine' it is the same"):
        await job.signal("go", 1, id="mine")


async def test_a_conflict_says_which_jobs_before_it_were_submitted(
    fleet: AsyncFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.fleet.CHUNK", 2)
    await submitted(fleet, "d")
    with pytest.raises(JobConflict) as raised:
        await fleet.submit_many([ONE.job(id=id, input=f"another {id}") for id in ("a", "b", "c", "d")])
    assert raised.value.ids == ("a", "b")


async def test_a_retry_of_a_job_that_moved_meanwhile_looks_again(fleet: AsyncFleet, hand: Hand) -> None:
    (job,) = await submitted(fleet, "x")
    await end(hand, "x", JobState.FAILED)
    load, loads = fleet.journal.load, list[str]()

    async def moved(id: str) -> Any:
        history = await load(id)
        if not loads:
            await hand.journal.retry(id, basis=history.basis, undone=[], salt="another's")
            await end(hand, id, JobState.FAILED)
        loads.append(id)
        return history

    fleet.journal.load = moved  # type: ignore[method-assign]
    await job.retry()
    assert len(loads) == 2


async def test_an_extension_with_an_id_twice_is_refused_before_it_is_written(
    fleet: AsyncFleet, hand: Hand
) -> None:
    await fleet.submit_plan(fixed([ONE.job(id="a", input="a")]), id="p")
    with pytest.raises(InvalidInput, match="comes twice"):
        await fleet.extend_plan("p", [ONE.job(id="b", input="b"), ONE.job(id="b", input="b")])
    assert await hand.journal.states(["b"]) == [None]


# What a producer knows of the fleet -------------------------------------------------------------------


@agent(name="waits-newcomer")
async def asks_the_newcomer() -> str:
    return str((await llm("a", model="newcomer")).text)


async def announced(hand: Hand, **models: str) -> None:
    now = await hand.journal.now()
    info = WorkerInfo(
        id="w", host="h", pid=1, pool="p", lanes=["llm"], slots=1, models=sorted(models),
        started_at=now, seen_at=now, unpriced=sorted(models),
    )  # fmt: skip
    await hand.journal.announce(info, models)


async def test_a_model_that_a_worker_brought_since_is_known_at_the_next_submission(
    fleet: AsyncFleet, hand: Hand
) -> None:
    await submitted(fleet, "x")
    with pytest.raises(UnknownName, match="newcomer"):
        await fleet.submit(asks_the_newcomer)
    await announced(hand, newcomer="llm")
    job = await fleet.submit(asks_the_newcomer)
    assert await job.status() is JobState.RUNNING


async def test_a_budget_of_money_that_sees_no_price_is_said_once_for_the_same_models(
    fleet: AsyncFleet, hand: Hand, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    asked, registry = list[int](), fleet.journal.registry

    async def counted() -> Any:
        asked.append(1)
        return await registry()

    fleet.journal.registry = counted  # type: ignore[method-assign]

    async def submit() -> int:
        await fleet.submit(msgspec.structs.replace(ONE.job(input="x"), budget=Budget(money=1.0)))
        return caplog.text.count("No price is known")

    await announced(hand, small="llm")
    said = await submit()
    before = len(asked)
    assert [said, await submit(), await submit()] == [1, 1, 1]
    assert len(asked) == before, "the fleet is asked now and then"
    monkeypatch.setattr("aios_dist.producer.fleet.RULES_S", 0.0)
    fleet._prices_until = 0.0
    assert [await submit(), await submit()] == [1, 1]
    await announced(hand, small="llm", other="llm")
    assert [await submit(), await submit()] == [2, 2]


async def test_steps_are_ranked_by_the_rules_of_now_and_by_what_is_known_of_the_agent(
    fleet: AsyncFleet, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.fleet.RULES_S", 0.0)
    await submitted(fleet, "x")
    await hand.journal.set_lane("llm", policy="remaining")
    await hand.redis("LPUSH", hand.keys.past("one"), "2000000:1")
    await hand.redis("PEXPIRE", hand.keys.past("one"), 60_000)
    await submitted(fleet, "y")
    assert fleet._catalog is not None
    assert fleet._catalog.pasts["one"] == Past((2.0,), 1)
