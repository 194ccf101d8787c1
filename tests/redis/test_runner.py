"""What a worker does with a ticket: all of its parts but Celery, in this process, on a real Redis.

The provider is one of a user's (``provider = "module:Class"``): it answers or raises what a test says.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
from celery.worker import state

from aios_dist import AsyncFleet, agent, fixed, gather, llm, sleep, tool
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.errors import (
    BadRequest,
    FleetUnavailable,
    JobFailed,
    JournalError,
    ProviderBusy,
    RateLimited,
)
from aios_dist.journal import Advance, Claim, Decision, RankedStep, Ticket, WorkerInfo
from aios_dist.model.calls import LLMRequest, LLMResponse, Usage
from aios_dist.model.jobs import JobState, Kind, NewStep
from aios_dist.policies import Past, Rank
from aios_dist.program import replay, waits
from aios_dist.worker import onward, spool
from aios_dist.worker import runner as ours
from aios_dist.worker.onward import Onwards, kin_of
from aios_dist.worker.rows import Rows
from aios_dist.worker.work import Origin, Work
from aios_dist.worker.worker import Runtime
from aios_dist.worker.writing import _beyond
from tests.found import files
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

USED = Usage(30, 20, 1)


class Anybodys:
    """A provider of a user's own. What each prompt gets stands in ``said``; else it is echoed."""

    name = "anybodys"
    said: dict[str, list[Any]] = {}
    asked: list[str] = []

    def __init__(self, name: str, model: ModelConfig, env: Any) -> None:
        self.model = name

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        prompt = request.messages[-1]["content"]
        self.asked.append(f"{self.model} {prompt}")
        left = self.said.get(prompt)
        said = left.pop(0) if left else f"re {prompt}"
        if isinstance(said, BaseException):
            raise said
        if callable(said):
            said = await said()
        if isinstance(said, LLMResponse):
            return said
        return LLMResponse(said, usage=USED, model="m")

    async def aclose(self) -> None:
        """Nothing is open."""


@agent(name="runner-two")
async def two(first: str = "a", second: str = "b") -> str:
    one = await llm(first, model="small")
    return f"{one.text}, {(await llm(f'{second} after {one.text}', model='small')).text}"


@agent(name="runner-tools")
async def uses_tools(rounds: int = 4) -> list[str]:
    return [str(await tool(str.upper, f"x{n}")) for n in range(rounds)]


@agent(name="runner-wide")
async def wide(count: int = 3) -> list[str]:
    return [one.text for one in await gather(*(llm(f"w{n}", model="small") for n in range(count)))]


class Told(Rows):
    """Notes what was claimed; Flower hears nothing."""

    def __init__(self, told: list[Claim]) -> None:
        super().__init__(lambda *_, **__: None)
        self._told = told

    def started(self, claim: Claim) -> None:
        self._told.append(claim)
        super().started(claim)


class Bench:
    """A fleet of which the workers are in this process, and take tickets when a test says."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.fleet = AsyncFleet(config)
        self.workers: list[Runtime] = []
        self.told: list[Claim] = []

    async def worker(self, onward: bool = False) -> Runtime:
        """One more. It does nothing by itself: nothing of it runs in the background, and, but for ``onward``,
        no slot goes on without a ticket."""
        made = Runtime(self.config, "all", PoolConfig(lanes=["llm", "turns"], slots=4), {})
        made._background.start = lambda *_: None  # type: ignore[method-assign]
        made._background.repeat = lambda *_: None  # type: ignore[method-assign]
        made.ending.begin = lambda: True  # type: ignore[method-assign]  # it ends the process that is late
        await made.open(lambda: 0)
        made.runner._rows = Told(self.told)
        if not onward:
            made.runner._onwards._open = list  # type: ignore[method-assign]
        self.workers.append(made)
        return made

    async def serve(self, worker: Runtime, lane: str = "llm") -> str:
        """A ticket."""
        return await worker.runner.serve(lane, Origin("t"))

    async def run(self, *workers: Runtime, most: int = 50) -> list[str]:
        """Tickets in turn, until nothing may run."""
        said: list[str] = []
        idle = 0
        while idle < 2 * len(workers):
            for lane in ("llm", "turns"):
                words = await self.serve(workers[len(said) % len(workers)], lane)
                idle = idle + 1 if words.startswith("spare") else 0
                said.append(words)
                assert len(said) < most
        return [words for words in said if not words.startswith("spare")]


@pytest_asyncio.fixture
async def bench(config: FleetConfig, tmp_path: Path, hand: Hand) -> AsyncIterator[Bench]:
    await hand.warm()
    Anybodys.said, Anybodys.asked = {}, []
    threshold, interval, dispose, served = (
        gc.get_threshold(),
        sys.getswitchinterval(),
        replay.dispose,
        [*waits._served],
    )
    fleet = msgspec.structs.replace(config, shutdown_grace=0.0, spool_dir=str(tmp_path / "spool"))
    provider = f"{__name__}:Anybodys"
    models = {
        "small": ModelConfig(
            provider=provider, fallback=["big"], attempts=2, breaker=0, input_price=1e6, output_price=2e6
        ),
        "big": ModelConfig(provider=provider),
    }
    made = Bench(Config(fleet=fleet, models=models))
    yield made
    await made.fleet.close()
    for worker in made.workers:
        await worker.close()
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)
    replay.dispose, waits._served[:] = dispose, served


async def tickets(hand: Hand, lane: str = "llm") -> int:
    return int(await hand.redis("LLEN", f"{hand.config.name}.{lane}"))


async def test_a_ticket_is_a_call_a_commit_and_the_next_step(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    job = await bench.fleet.submit(two, id="x")

    async def no_turn(*_: Any, **__: Any) -> Any:
        raise AssertionError("it went with the commit")

    worker.journal.advance = no_turn  # type: ignore[method-assign]
    assert await bench.serve(worker) == "30 + 20 tokens"
    assert [step.kind for step in await job.steps()] == ["llm", "llm"]
    assert await tickets(hand) == 1, "that of the first still lies there: it does for the second"
    assert await bench.serve(worker) == "30 + 20 tokens"
    assert await job.result(timeout=0) == "re a, re b after re a"
    assert await bench.serve(worker) == "spare ticket: nothing may run"
    assert Anybodys.asked == ["small a", "small b after re a"]
    assert [claim.step for claim in bench.told] == ["0", "1"]
    assert worker.leases.held == {}
    assert await job.usage() == Usage(60, 40, 2)


async def test_two_workers_that_alternate_on_one_jobs_tools_tell_its_program_all(bench: Bench) -> None:
    one, other = await bench.worker(), await bench.worker()
    job = await bench.fleet.submit(uses_tools, id="x", rounds=7)
    await bench.run(one, other)
    assert await job.result(timeout=0) == [f"X{n}" for n in range(7)]


async def test_branches_served_by_two_workers_at_once_are_all_told(bench: Bench) -> None:
    one, other = await bench.worker(), await bench.worker()
    job = await bench.fleet.submit(wide, id="x", count=4)
    await asyncio.gather(*(bench.serve(worker) for worker in (one, other, one, other)))
    await bench.run(one, other)
    assert await job.result(timeout=0) == [f"re w{n}" for n in range(4)]
    assert len(Anybodys.asked) == 4


async def test_workers_that_answer_branches_of_one_job_all_the_time_leave_no_turn_to_others(
    bench: Bench,
) -> None:
    workers = [await bench.worker() for _ in range(2)]
    job = await bench.fleet.submit(wide, id="x", count=10)
    for _ in range(5):
        await asyncio.gather(*(bench.serve(worker) for worker in workers))
    assert await job.result(timeout=0) == [f"re w{n}" for n in range(10)]


async def test_a_claim_that_lets_others_in_publishes_their_tickets(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    for id in "xy":
        await bench.fleet.submit(two, id=id)
    await hand.redis("DEL", f"{hand.config.name}.llm")
    take = worker.journal.take

    async def lets_in(*args: Any, **more: Any) -> Any:
        got = await take(*args, **more)
        return msgspec.structs.replace(got, tickets=[Ticket("llm", "y", "0")])

    worker.journal.take = lets_in  # type: ignore[method-assign]
    await bench.serve(worker)
    assert await tickets(hand) == 2, "y's, and that of the step that came with the commit"


@pytest.mark.parametrize("apart", [False, True])
async def test_the_next_member_of_a_plan_has_its_ticket_as_the_one_before_ends(
    bench: Bench, hand: Hand, apart: bool
) -> None:
    """``apart``: the outcome and its turn are two writes."""
    worker = await bench.worker()
    worker.runner.turns.shared = lambda _: apart  # type: ignore[method-assign]
    await bench.fleet.submit_plan(fixed([wide.job(id=id, count=1) for id in "ab"]), id="p")
    await hand.redis("DEL", f"{hand.config.name}.llm")
    await bench.serve(worker)
    assert await hand.states("a", "b") == ["done", "running"]
    assert await tickets(hand) == 1


@agent(name="runner-rests")
async def rests() -> str:
    await llm("a", model="small")
    await sleep(1.5)
    return "rested"


async def test_a_worker_looks_again_when_a_sleep_that_it_wrote_is_over(bench: Bench) -> None:
    worker = await bench.worker()
    looks: list[float] = []
    worker._writer.look_again = looks.append  # type: ignore[method-assign]
    await bench.fleet.submit(rests, id="x")
    await bench.serve(worker)
    assert looks == [1.5]


async def test_an_answer_without_usage_costs_what_it_was_guessed_to_take(bench: Bench) -> None:
    worker = await bench.worker()
    job = await bench.fleet.submit(wide, id="x", count=1)
    Anybodys.said = {"w0": [LLMResponse("silent", usage=Usage(), model="m")]}
    await bench.serve(worker)
    view = await job.view()
    assert view.usage.output_tokens > 0
    assert view.money == view.usage.prompt_tokens * 1.0 + view.usage.output_tokens * 2.0


def test_of_tickets_that_went_with_a_write_as_many_are_left_out_as_went() -> None:
    step = NewStep(Kind.LLM, "llm", b"", "d", "small")
    sent = Decision(0, 0, [RankedStep(step, Rank(), "")])
    asked_for = [Ticket("llm", "x", "1"), Ticket("llm", "y", "0"), Ticket("turns", "z", "t")]
    assert _beyond(Advance("advanced", 1, asked_for), sent) == asked_for[1:]


async def test_who_is_told_of_a_step_may_break_over_it(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")

    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("Flower")

    worker.runner._rows = Rows(breaks)
    assert await bench.serve(worker) == "30 + 20 tokens"


async def test_a_worker_that_ends_or_cannot_renew_gives_the_ticket_back_and_takes_nothing(
    bench: Bench, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "NOT_NOW_S", 0.01)
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")
    ends = worker._writer.closing
    for stop in (lambda: setattr(worker.leases, "_through", float("-inf")), ends.set):
        await hand.redis("DEL", f"{hand.config.name}.llm")
        await worker.leases.renew()
        stop()
        assert await bench.serve(worker) == "given back: this worker takes nothing now"
        assert await tickets(hand) == 1
    assert bench.told == []


async def test_a_call_that_may_pass_is_tried_again_then_elsewhere_and_the_job_goes_on(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    job = await bench.fleet.submit(two, id="x")
    Anybodys.said = {"a": [ProviderBusy("503"), ProviderBusy("503")]}
    assert (await bench.serve(worker)).startswith("ProviderBusy: again in ")
    assert await bench.serve(worker) == "spare ticket: nothing may run", "it waits without a slot"
    await hand.ring()
    await hand.reap()
    assert await bench.serve(worker) == "ProviderBusy: goes to big"
    assert await bench.serve(worker) == "30 + 20 tokens"
    assert Anybodys.asked == ["small a", "small a", "big a"]
    said = [(event.what, event.detail) for event in await hand.journal.events("x", -1)]
    assert [one for one in said if one[0] in ("retry", "released")] == [
        ("retry", "ProviderBusy"),
        ("released", "time"),
        ("retry", "ProviderBusy, next: big"),
    ]
    assert (await job.view()).state is JobState.RUNNING


async def test_a_429_holds_the_model_for_all_its_steps(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    for id in ("x", "y"):
        await bench.fleet.submit(two, id=id)
    Anybodys.said = {"a": [RateLimited("slow down", retry_after_s=30.0)]}
    assert (await bench.serve(worker)).startswith("RateLimited: again in 30.")
    assert await bench.serve(worker) == "spare ticket: nothing may run"
    assert Anybodys.asked == ["small a"]


async def test_a_call_that_fails_for_good_is_written_raised_and_the_agents(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    Anybodys.said = {"a": [BadRequest("400")]}
    job = await bench.fleet.submit(two, id="x")
    with pytest.raises(BadRequest):
        await bench.serve(worker)
    with pytest.raises(JobFailed, match="400"):
        await job.result(timeout=0)
    assert worker.leases.held == {}


async def thinking(bench: Bench, worker: Runtime) -> asyncio.Task[str]:
    """The worker serves a call whose provider does not answer."""
    begun = asyncio.Event()

    async def thinks() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    Anybodys.said = {"a": [thinks]}
    serving = asyncio.create_task(bench.serve(worker))
    await begun.wait()
    return serving


async def test_a_step_whose_job_ends_goes_back_at_once_and_is_not_held_against_it(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    job = await bench.fleet.submit(two, id="x")
    serving = await thinking(bench, worker)
    assert await job.cancel()
    assert worker.leases.cancel("x", "0")
    assert await serving == "handed back: job ended"
    assert await hand.redis("ZCARD", hand.keys.leases) == 0


@pytest.mark.parametrize("reason", ["shutdown", "odd"])
async def test_a_step_that_is_handed_back_waits_as_is_right_for_why(
    bench: Bench, hand: Hand, reason: str
) -> None:
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")
    serving = await thinking(bench, worker)
    worker.leases.stop_all(reason)
    assert await serving == f"handed back: {reason}"
    later = [m for m in await hand.redis("ZRANGE", hand.keys.timers, 0, -1) if not m.endswith(b"/!")]
    assert (await hand.names(), later) == ((["x/0"], []) if reason == "shutdown" else ([], [b"x/0"]))


async def test_a_claim_that_redis_breaks_over_is_a_spare_ticket_and_the_next_is_served(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")
    take = worker.journal.take

    async def breaks(*_: Any, **__: Any) -> Any:
        worker.journal.take = take  # type: ignore[method-assign]
        raise JournalError("claim broke")

    worker.journal.take = breaks  # type: ignore[method-assign]
    assert await bench.serve(worker) == "spare ticket: nothing may run"
    assert "claim broke" in caplog.text
    assert await bench.serve(worker) == "30 + 20 tokens"


async def test_a_claim_whose_answer_was_lost_is_asked_for_again_and_is_the_same(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")
    take, tokens = worker.journal.take, list[tuple[str, bool]]()

    async def lost(lane: str, me: str, token: str, *, again: bool = False, **more: Any) -> Any:
        tokens.append((token, again))
        got = await take(lane, me, token, again=again, **more)
        if len(tokens) == 1:
            raise FleetUnavailable("cut")
        return got

    worker.journal.take = lost  # type: ignore[method-assign]
    assert await bench.serve(worker) == "30 + 20 tokens"
    assert len({token for token, _ in tokens}) == 1
    assert [again for _, again in tokens] == [False, True]
    assert [claim.attempt for claim in bench.told] == [1]


@pytest.mark.parametrize("answered", ["a step", "nothing"])
async def test_a_worker_that_ends_gives_back_what_a_claim_has_got_whose_answer_was_lost(
    bench: Bench, hand: Hand, answered: str
) -> None:
    """Else the step waits until its lease ends, and counts as taken from a worker that lives."""
    worker = await bench.worker()
    if answered == "a step":
        await bench.fleet.submit(two, id="x")
    take, asked = worker.journal.take, list[int]()

    async def lost(*args: Any, again: int = 0, **more: Any) -> Any:
        asked.append(again)
        got = await take(*args, again=again, **more)
        if len(asked) == 1:
            worker._writer.closing.set()
            await bench.fleet.submit(two, id="y")  # … and is not taken by who only asks what it had
            raise FleetUnavailable("no answer within 1 s")
        return got

    worker.journal.take = lost  # type: ignore[method-assign]
    assert await bench.serve(worker) == "spare ticket: this worker ends"
    assert asked == [0, 2]
    assert await hand.members(hand.keys.leases) == set()
    waiting = {"x/0", "y/0"} if answered == "a step" else {"y/0"}
    assert await hand.members(hand.keys.ready("llm")) == waiting
    assert await tickets(hand) >= len(waiting)


async def test_a_step_that_only_others_can_serve_leaves_its_ticket_to_them(
    bench: Bench, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "ELSEWHERE_S", 0.01)
    worker = await bench.worker()
    info = WorkerInfo(
        id="w2", host="h", pid=1, pool="p", lanes=["turns"], slots=1, agents=["runner-elsewhere"],
        started_at=await hand.journal.now(), seen_at=await hand.journal.now(),
    )  # fmt: skip
    await hand.journal.announce(info, {})
    await bench.fleet.submit("runner-elsewhere", id="x")
    await hand.redis("DEL", f"{hand.config.name}.turns")
    assert await bench.serve(worker, "turns") == "spare ticket: nothing may run"
    assert await tickets(hand, "turns") == 1
    assert bench.told == []
    await hand.journal.cancel("x")


async def test_a_ticket_is_good_for_one_look_at_all_that_others_could_not_serve(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    needs = [f"agent/nobodys-{n:02}" for n in range(70)]
    await hand.redis("ZADD", hand.keys.wanted("turns"), *(part for need in needs for part in (0, need)))
    take, asked = worker.journal.take, list[int | None]()

    async def counted(*_: Any, unsought: int | None, **more: Any) -> Any:
        asked.append(unsought)
        assert len(asked) < 10
        return await take(*_, unsought=unsought, **more)

    worker.journal.take = counted  # type: ignore[method-assign]
    assert await bench.serve(worker, "turns") == "spare ticket: nothing may run"
    assert asked == [None, 40, 10]
    await hand.redis("DEL", hand.keys.wanted("turns"))


async def test_a_turn_whose_job_has_expired_meanwhile_is_over(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    take = worker.journal.take

    async def expires(*_: Any, **more: Any) -> Any:
        got = await take(*_, **more)
        if isinstance(got, Claim):
            await hand.expire(got)
        return got

    worker.journal.take = expires  # type: ignore[method-assign]
    await hand.submit(starts("y", agent="runner-tools"))
    assert await bench.serve(worker, "turns") == "the job has expired"


# Into the journal: what is paid for, and what was saved -----------------------------------------------


async def test_an_answer_in_hand_is_saved_at_the_end_and_written_by_the_next_life(
    bench: Bench, hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    worker = await bench.worker()
    job = await bench.fleet.submit(two, id="x")
    commit = worker.journal.commit

    async def refused(*_: Any, **__: Any) -> Any:
        raise FleetUnavailable("OOM")

    worker.journal.commit = refused  # type: ignore[method-assign]
    serving = asyncio.create_task(bench.serve(worker))
    async with asyncio.timeout(10):
        while not worker.answers._held:  # noqa: ASYNC110  # the commit is refused by then
            await asyncio.sleep(0.01)
    worker.answers.save()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    folder = Path(bench.config.fleet.spool_dir)
    (place,) = files(folder, "*.answer")
    assert "Saved 1 answers" in caplog.text
    worker.journal.commit = commit  # type: ignore[method-assign]
    again = await bench.worker()
    assert not place.exists()
    assert "The saved answer of x/0: turn." in caplog.text
    assert (await job.usage()) == USED
    assert await tickets(hand, "turns") == 1, "somebody has to run its turn"
    await bench.run(again)
    assert await job.result(timeout=0) == "re a, re b after re a"
    assert Anybodys.asked == ["small a", "small b after re a"], "none is paid twice"


async def test_answers_of_another_fleet_stay_where_they_are(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")
    claim = await hand.claim()
    folder = Path(bench.config.fleet.spool_dir)
    place = spool.write(folder, spool.Answer.of("another", claim, b"j{}", True, USED, 0.0))
    await worker._write_saved()
    assert place.exists()


async def test_what_is_paid_for_is_insisted_on_and_what_is_not_is_not_as_the_worker_ends(
    bench: Bench,
) -> None:
    worker = await bench.worker()
    writer, tried = worker._writer, list[int]()

    def away(times: int) -> Callable[[], Awaitable[str]]:
        async def write() -> str:
            tried.append(1)
            if len(tried) <= times:
                raise FleetUnavailable("away")
            return "written"

        return write

    writer.closing.set()
    assert await writer.insist(away(3)) == "written"
    tried.clear()
    with pytest.raises(ours.Stopped, match="shutdown"):
        await writer.insist(away(3), paid=False)
    assert len(tried) == 1


async def test_a_verb_that_breaks_is_asked_again_where_its_answer_is_paid_for(bench: Bench) -> None:
    worker = await bench.worker()
    tried: list[int] = []

    async def breaks() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise JournalError("commit broke")
        return "written"

    assert await worker._writer.insist(breaks) == "written"
    tried.clear()
    with pytest.raises(JournalError):
        await worker._writer.insist(breaks, paid=False)


# Rules ------------------------------------------------------------------------------------------------


async def test_a_worker_reads_the_lanes_policies_and_says_one_that_it_does_not_know_once(
    bench: Bench, hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await bench.worker()
    await hand.journal.set_lane("llm", policy="las")
    await hand.redis("HSET", hand.keys.lane("turns"), "policy", "of-a-newer-version")
    for _ in range(2):
        await worker._rules.read()
    assert worker.runner.turns.catalog.lane_policies["llm"] == "las"
    assert caplog.text.count("of-a-newer-version") == 1


async def test_what_redis_has_lost_of_aios_toml_is_said_again(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    await worker._rules.keep()
    await hand.redis("DEL", hand.keys.rules, hand.keys.lane("llm"))
    await worker._rules.keep()
    assert await hand.redis("HGET", hand.keys.lane("llm"), "policy") == b"fifo"
    assert await worker.journal.knows(worker._rules.said())


async def test_pasts_are_read_of_the_agents_that_were_served_where_a_policy_looks_back(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    await bench.fleet.submit(two, id="x")
    await bench.run(worker)
    await worker._rules.read()
    assert worker.runner.turns.catalog.pasts == {}, "nobody looks back"
    await hand.journal.set_lane("llm", policy="remaining")
    await bench.fleet.submit(two, id="y")
    await bench.serve(worker)
    await worker._rules.read()
    past = worker.runner.turns.catalog.pasts["runner-two"]
    assert past != Past()
    await worker._rules.read()
    assert worker.runner.turns.catalog.pasts == {"runner-two": past}, "kept, where it is not served just now"


async def test_what_waited_under_other_rules_is_ranked_by_the_policy_of_now(bench: Bench, hand: Hand) -> None:
    worker = await bench.worker()
    for id, deadline in (("late", 9000.0), ("soon", 60.0)):
        await bench.fleet.submit(msgspec.structs.replace(two.job(id=id), deadline=deadline))
    await hand.journal.set_lane("llm", policy="deadline")
    assert not await worker._rules.rank_anew("llm")
    assert await hand.names() == ["soon/0", "late/0"]


async def test_what_waited_is_ranked_anew_by_what_is_known_of_agents_that_nobody_served(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    await bench.fleet.submit_many([wide.job(id="long", count=1), two.job(id="short")])
    for name, us in (("runner-wide", 100_000_000), ("runner-two", 1_000_000)):
        await hand.redis("LPUSH", hand.keys.past(name), f"{us}:1")
        await hand.redis("PEXPIRE", hand.keys.past(name), 60_000)
    await hand.journal.set_lane("llm", policy="remaining")
    await worker._rules.rank_anew("llm")
    assert await hand.names() == ["short/0", "long/0"]


class Slots:
    """Where steps go on without a ticket."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Future[None]] = []

    def begin(self, body: Any) -> None:
        """As the pool does it."""
        self.tasks.append(asyncio.ensure_future(body))

    async def over(self) -> None:
        """Until none goes on."""
        while self.tasks:
            await self.tasks.pop()


@pytest.fixture
def requests() -> Iterator[None]:
    """Celery's own records are of the whole process."""
    yield
    state.reset_state()


@pytest.fixture
def slots() -> Slots:
    return Slots()


async def going_on(bench: Bench, slots: Slots) -> Runtime:
    worker = await bench.worker(onward=True)
    worker.runner._onwards.spawn = slots.begin
    worker.runner._task = SimpleNamespace(name="aios.step")
    return worker


@pytest.mark.usefixtures("requests")
async def test_one_ticket_serves_all_that_is_ready_and_celery_counts_each(
    bench: Bench, hand: Hand, slots: Slots
) -> None:
    worker = await going_on(bench, slots)
    jobs = [await bench.fleet.submit(two, id=id) for id in "xy"]
    seen: list[tuple[int, int, list[str]]] = []

    async def look() -> LLMResponse:
        active = [request.info()["args"] for request in state.active_requests]
        seen.append((len(state.reserved_requests), len(worker.leases.held), active))
        return LLMResponse("looked", usage=USED, model="m")

    Anybodys.said = {"b after looked": [look, look], "a": [look, look]}
    await hand.redis("RPOP", f"{hand.config.name}.llm")
    assert await bench.serve(worker) == "30 + 20 tokens"
    await slots.over()
    assert [await job.result(timeout=0) for job in jobs] == 2 * ["looked, looked"]
    assert [claim.job + claim.step for claim in bench.told] == ["x0", "y0", "x1", "y1"]
    first, *rest = seen  # (the first is the ticket's: here Celery has not sent it)
    assert first == (0, 1, [])
    assert rest == [(1, 1, [f"['{job}', '{step}']"]) for job, step in (("y", 0), ("x", 1), ("y", 1))]
    assert (len(state.reserved_requests), state.all_total_count[0], state.requests) == (0, 3, {})
    assert await tickets(hand) == 0
    assert worker.leases.held == {}
    assert worker.runner.works == {}


@pytest.mark.usefixtures("requests")
async def test_a_call_that_fails_for_good_ends_no_slot(bench: Bench, slots: Slots) -> None:
    worker = await going_on(bench, slots)
    for id in "xyz":
        await bench.fleet.submit(two, id=id)
    Anybodys.said = {"a": [BadRequest("no"), BadRequest("no")]}
    with pytest.raises(BadRequest):
        await bench.serve(worker)
    await slots.over()
    assert await bench.fleet.job("z").result(timeout=0) == "re a, re b after re a"


@pytest.mark.usefixtures("requests")
async def test_what_came_with_a_commit_as_the_worker_ends_goes_back_uncalled(
    bench: Bench, hand: Hand, slots: Slots
) -> None:
    worker = await going_on(bench, slots)
    await bench.fleet.submit(two, id="x")
    commit = worker.journal.commit

    async def ends(*args: Any, **more: Any) -> Any:
        done = await commit(*args, **more)
        worker._writer.closing.set()
        return done

    worker.journal.commit = ends  # type: ignore[method-assign]
    await bench.serve(worker)
    await slots.over()
    assert Anybodys.asked == ["small a"]
    assert await hand.names() == ["x/1"]
    assert worker.leases.held == {}


@pytest.mark.parametrize(
    "why",
    [
        lambda w: w._writer.closing.set(),
        lambda w: setattr(w.leases, "_through", float("-inf")),
        lambda w: w._slots.resize(0, 0),
        lambda w: w.runner.hung.update(object() for _ in range(4)),
    ],
    ids=["it ends", "it cannot renew", "fewer slots", "tools that were given up"],
)
async def test_a_slot_that_is_not_to_go_on_leaves_the_next_step_to_its_ticket(
    bench: Bench, hand: Hand, slots: Slots, why: Callable[[Runtime], None]
) -> None:
    worker = await going_on(bench, slots)
    await bench.fleet.submit(two, id="x")

    async def meanwhile() -> LLMResponse:
        why(worker)
        return LLMResponse("a", usage=USED, model="m")

    Anybodys.said = {"a": [meanwhile]}
    await bench.serve(worker)
    worker.runner.hung.clear()
    assert slots.tasks == []
    assert (await tickets(hand), await hand.names()) == (1, ["x/1"])


async def test_a_lane_that_was_cancelled_gets_no_step_with_a_commit(
    bench: Bench, hand: Hand, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await going_on(bench, slots)
    await bench.fleet.submit(two, id="x")
    monkeypatch.setattr(onward, "not_consumed", lambda lanes: [lane for lane in lanes if lane == "llm"])
    await bench.serve(worker)
    assert slots.tasks == []
    assert await hand.names() == ["x/1"]


@pytest.mark.usefixtures("requests")
async def test_steps_without_a_ticket_keep_the_chain_of_the_tickets_in_whose_places_they_are(
    bench: Bench, hand: Hand, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await going_on(bench, slots)
    told: list[dict[str, Any]] = []
    held: list[list[str]] = []

    def tells(id: str, args: list[Any], kwargs: dict[str, Any], request: dict[str, Any]) -> None:
        told.append(request)
        held.append([claim.job + claim.step for claim, _ in worker.leases.held.values()])

    worker.runner._task.__trace__ = tells
    monkeypatch.setattr(ours, "heard", lambda: True)
    plan = [two.job(id="x"), wide.job(id="y", count=2)]
    await bench.fleet.submit_plan(fixed(plan), id="p")
    await hand.redis("RPOP", f"{hand.config.name}.llm")
    await bench.serve(worker)
    await slots.over()
    x1, y0, y1 = [(one["id"], one["root_id"], one["parent_id"]) for one in told]
    assert (x1[1:], y0[1:]) == (("t", "t"), ("t", x1[0])), "in the places of tickets that were left out"
    assert y1[1:] == ("t", x1[0]), "in the place of one that lay there, of the write before the last"
    assert held == [["x1"], ["y0"], ["y1"]], "what is told of is renewed, and stopped where the worker ends"


@pytest.mark.usefixtures("requests")
async def test_a_tracer_that_breaks_keeps_no_step_from_being_served(
    bench: Bench, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await going_on(bench, slots)

    def breaks(*_: Any) -> None:
        raise RuntimeError("of somebody's who put it in the place of Celery's")

    worker.runner._task.__trace__ = breaks
    monkeypatch.setattr(ours, "heard", lambda: True)
    job = await bench.fleet.submit(two, id="x")
    await bench.serve(worker)
    await slots.over()
    assert await job.result(timeout=0) == "re a, re b after re a"
    assert worker.runner._without_ticket == {}


async def test_a_worker_says_that_it_has_room_unless_half_of_it_is_taken_or_it_ends(
    bench: Bench, hand: Hand
) -> None:
    worker = await bench.worker()
    said = hand.keys.room("llm", worker._spare.kin)

    async def says() -> bool:
        await hand.redis("DEL", said)
        await worker._announce()
        return bool(await hand.redis("EXISTS", said))

    worker.runner.hung.update(object() for _ in range(2))  # type: ignore[misc]
    assert await says(), "2 of 4"
    worker.runner.hung.add(object())  # type: ignore[arg-type]
    assert not await says(), "3 of 4"
    worker.runner.hung.clear()
    worker._writer.closing.set()
    assert not await says()


@pytest.mark.parametrize(("slots", "busy", "shy"), [(1, 1, False), (8, 5, False), (8, 6, True)])
async def test_a_slot_that_looks_for_its_next_step_counts_as_free(
    bench: Bench, slots: int, busy: int, shy: bool
) -> None:
    worker = await bench.worker(onward=True)
    worker._slots.resize(slots, 0)
    worker.runner.hung.update(object() for _ in range(busy))  # type: ignore[misc]
    await bench.fleet.submit(two, id="x")
    work = Work(await worker.journal.claim("llm", "w"), Origin("t"))  # type: ignore[arg-type]
    assert bool(worker.runner._onwards.after(work).shy) is shy
    worker.runner.hung.clear()


def test_workers_that_serve_the_same_are_of_one_kin() -> None:
    one = kin_of(["m", "n"], ["a"], {"a": "1"})
    assert one == kin_of(["n", "m"], ["a"], {"a": "1"})
    assert one != kin_of(["m"], ["a"], {"a": "1"})
    assert one != kin_of(["m", "n"], ["a", "b"], {"a": "1"})
    assert one != kin_of(["m", "n"], ["a"], {"a": "2"})


def test_the_lane_that_was_served_last_comes_last(bench: Bench) -> None:
    made = Onwards.__new__(Onwards)
    made._lanes = ["a", "b", "c"]
    for lane, after in (("a", "bca"), ("b", "cab"), ("c", "abc"), ("b", "cab"), ("other", "cab")):
        made.served(lane)
        assert "".join(made._lanes) == after


async def test_a_commit_whose_claim_breaks_is_sent_again_without_one(bench: Bench, slots: Slots) -> None:
    worker = await going_on(bench, slots)
    await bench.fleet.submit(two, id="x")
    commit, sent = worker.journal.commit, []

    async def breaks(*args: Any, **more: Any) -> Any:
        sent.append(more["onward"].asks)
        assert len(sent) < 4
        if more["onward"].asks is not None:
            raise JournalError("it broke")
        return await commit(*args, **more)

    worker.journal.commit = breaks  # type: ignore[method-assign]
    await bench.serve(worker)
    assert [asks is not None for asks in sent] == [True, False]
    assert slots.tasks == []


@pytest.mark.usefixtures("requests")
async def test_a_commit_whose_answer_is_lost_asks_for_the_same_claim(bench: Bench, slots: Slots) -> None:
    worker = await going_on(bench, slots)
    job = await bench.fleet.submit(two, id="x")
    commit, sent = worker.journal.commit, []

    async def lost(*args: Any, **more: Any) -> Any:
        sent.append(more["onward"].asks)
        done = await commit(*args, **more)
        if len(sent) == 1:
            raise FleetUnavailable("no answer")
        return done

    worker.journal.commit = lost  # type: ignore[method-assign]
    await bench.serve(worker)
    await slots.over()
    assert await job.result(timeout=0) == "re a, re b after re a"
    first, second, *_ = sent
    assert second == first._replace(again=True)
    assert [claim.attempt for claim in bench.told] == [1, 1]
    assert Anybodys.asked == ["small a", "small b after re a"]
