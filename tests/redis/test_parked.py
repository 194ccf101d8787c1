"""Jobs whose agent's code has changed: they stop where they are, say so, and go on; nothing is paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist import AsyncFleet, agent, fifo, fixed, gather, llm, tool
from aios_dist.cli import waiting
from aios_dist.errors import BadRequest, InvalidInput, JobCancelled, JobParked, ResultTimeout
from aios_dist.journal import WorkerInfo
from aios_dist.model.jobs import JobState
from aios_dist.program import agents
from aios_dist.worker.worker import Runtime
from tests.redis.breaking import parks
from tests.redis.conftest import USED, decides, starts
from tests.redis.test_runner import Anybodys, Bench
from tests.redis.test_runner import bench as bench  # a fixture

if TYPE_CHECKING:
    from aios_dist.journal import Claim
    from tests.redis.conftest import Hand

SOON_S = 5.0


@pytest.fixture
def deploys() -> Iterator[Callable[[Any], agents.Agent]]:
    """Puts other code in the place of an agent's, as a new process has it."""
    before = dict(agents._registry)

    def put(function: Any, name: str = "trip", version: str | None = None) -> agents.Agent:
        agents._registry.pop(name, None)
        return agent(function, name=name, version=version)

    yield put
    agents._registry.clear()
    agents._registry.update(before)


async def old() -> str:
    plan = (await llm("Plan a trip.", model="small")).text
    return (await llm(f"Shorten: {plan}", model="small")).text


async def new() -> str:
    plan = (await llm("Plan a short trip.", model="small")).text
    return (await llm(f"Shorten: {plan}", model="small")).text


async def later() -> str:
    plan = (await llm("Plan a trip.", model="small")).text
    return (await llm(f"In one line: {plan}", model="small")).text


Deploys = Callable[..., agents.Agent]


async def reconcile(worker: Runtime) -> None:
    """A pass in office."""
    await worker.journal.connection.command("DEL", worker.journal.keys.reconciler)
    assert await worker._reconciler._office.ask("take")
    await worker._reconciler._pass()


async def ends(worker: Runtime) -> None:
    """It says farewell: nobody has its code any more."""
    worker._writer.closing.set()
    await worker._take_off_codes()
    worker._writer.closing.clear()


async def test_a_prompt_that_changed_parks_the_job_and_says_what_it_was(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    began = deploys(old).code
    job = await bench.fleet.submit("trip", id="x")
    now = deploys(new).code
    await bench.serve(await bench.worker())
    view = await job.view()
    assert (view.state, view.parked, view.code) == (JobState.PAUSED, True, began)
    said = f"the agent's code changed since this job began ({began} → {now}): step 0 was llm 'Plan a trip.'"
    assert view.why.startswith(f"{said}, is now llm 'Plan a short trip.'")
    assert view.usage.calls == 1, "its answer is kept"
    with pytest.raises(JobParked, match=r"step 0 was llm 'Plan a trip\.'"):
        await job.result(timeout=0)
    await hand.look()


async def test_a_parked_job_goes_on_by_itself_when_its_code_is_there_again(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    deploys(new)
    first = await bench.worker()
    assert await bench.run(first)
    await reconcile(first)
    assert (await job.view()).parked, "nobody has the code"
    deploys(old)
    again = await bench.worker()
    await reconcile(again)
    assert await bench.run(again)
    assert await job.result(timeout=0) == "re Shorten: re Plan a trip."
    assert Anybodys.asked == ["small Plan a trip.", "small Shorten: re Plan a trip."], (
        "nothing was paid twice"
    )
    assert await hand.redis("EXISTS", hand.journal.keys.prefix + "parked") == 0


async def test_whoever_waits_hears_of_it_within_a_second(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    other = await bench.fleet.submit("trip", id="y")
    deploys(new)
    worker = await bench.worker()
    waits = asyncio.create_task(job.result(timeout=60))
    several = asyncio.create_task(anext(bench.fleet.as_completed([other], 60)))
    async with asyncio.timeout(SOON_S):
        while not {"x", "y"} <= bench.fleet._endings._waiting.keys():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await bench.serve(worker)
    await bench.serve(worker)
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(JobParked):
            await waits
        assert (await several).id == "y"
    assert asyncio.get_running_loop().time() - begun < 1.0


@pytest.mark.parametrize("many", [False, True], ids=["one", "several"])
async def test_job_wait_waits_on_where_a_parked_job_has_gone_on_meanwhile(
    bench: Bench, hand: Hand, deploys: Deploys, monkeypatch: pytest.MonkeyPatch, many: bool, capsys: Any
) -> None:
    """It hears that the job is parked, and before it says so to anybody, the job goes on by itself."""
    ids = ["x", "y"] if many else ["x"]
    jobs = [await bench.fleet.submit(deploys(old), id=id) for id in ids]
    deploys(new)
    await bench.run(await bench.worker())
    assert all([(await job.view()).parked for job in jobs])
    deploys(old)
    worker = await bench.worker()
    waits, went_on = waiting._wait, asyncio.Event()

    async def heard(*args: Any, **more: Any) -> None:
        await waits(*args, **more)
        if not went_on.is_set():
            await reconcile(worker)
            went_on.set()

    monkeypatch.setattr(waiting, "_wait", heard)
    printed = asyncio.create_task(waiting.wait_and_print(bench.fleet, ids, 60, as_json=False))
    async with asyncio.timeout(SOON_S):
        await went_on.wait()
    await bench.run(worker)
    await printed
    assert capsys.readouterr().out.count("re Shorten: re Plan a trip.") == len(ids)


async def test_who_waits_for_one_behind_it_in_a_plan_hears_of_it_too(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    one = deploys(old)
    members = [one.job(id=id) for id in ("a", "b", "c", "d")]
    plan = await bench.fleet.submit_plan(fifo([fixed([fixed(members[:1]), members[1]]), fixed(members[2:])]))
    deploys(new)
    worker = await bench.worker()
    waits = asyncio.create_task(plan[1].result(timeout=60))
    other = AsyncFleet(bench.fleet.config)  # which hears of the plan by itself
    several = asyncio.create_task(anext(other.as_completed([other.job("b")], 60)))
    heard = [hand.keys.behind(plan.id).encode(), 2]
    async with asyncio.timeout(SOON_S):
        while await hand.redis("PUBSUB", "NUMSUB", hand.keys.behind(plan.id)) != heard:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await bench.serve(worker)
    assert (await plan[0].view()).parked
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(
            JobParked, match=r"job 'b' waits in its plan for one that is parked: job 'a' is"
        ) as no:
            await waits
        assert (await several).id == "b"
    await other.close()
    assert asyncio.get_running_loop().time() - begun < 1.0
    assert no.value.job_id == "a"
    for job in plan[2:]:  # 'd' waits as well, and not for that one
        with pytest.raises(ResultTimeout):
            await job.result(timeout=0)
    assert await plan[0].cancel()
    assert await hand.redis("EXISTS", hand.keys.parked, hand.keys.parked_in) == 0
    with pytest.raises((JobCancelled, ResultTimeout)):
        await plan[1].result(timeout=0)


async def test_what_no_code_would_help_does_not_say_that_it_goes_on_by_itself(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    began = deploys(old).code
    job = await bench.fleet.submit("trip", id="x")
    deploys(new)
    await bench.serve(await bench.worker())
    with pytest.raises(
        JobParked, match=f"It goes on by itself when a worker has code {began}; or try the code"
    ):
        await job.result(timeout=0)
    assert await job.pause()
    with pytest.raises(JobParked, match=r"Try the code of now: `aios-dist job resume x`") as no:
        await job.result(timeout=0)
    assert "by itself" not in str(no.value)


async def test_a_worker_that_finishes_its_calls_has_let_its_code_go(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    fleet = msgspec.structs.replace(bench.config.fleet, shutdown_grace=60.0)
    bench.config = msgspec.structs.replace(bench.config, fleet=fleet)
    called, answered = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        called.set()
        await answered.wait()
        return "plan"

    Anybodys.said = {"Plan a trip.": [slow]}
    await bench.fleet.submit(deploys(old), id="x")
    worker = await bench.worker()
    worker._busy = lambda: len(worker.leases.held)  # as the pool says it
    (need,) = [
        need.decode() for need in await hand.redis("ZRANGE", hand.keys.serving, 0, -1) if b"has/trip" in need
    ]
    serving = asyncio.create_task(bench.serve(worker))
    await called.wait()
    worker._start_finishing()
    async with asyncio.timeout(SOON_S):
        while await hand.redis("ZSCORE", hand.keys.serving, need) is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert not serving.done()
    await worker._announce()  # as it goes on doing
    assert await hand.redis("ZSCORE", hand.keys.serving, need) is None
    answered.set()
    await serving


async def test_events_and_logs_of_a_parked_job_hold_no_words_of_its_prompts(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await bench.fleet.submit(deploys(old), id="x")
    deploys(new)
    await bench.serve(await bench.worker())
    told = [event.detail for event in await hand.journal.events("x") if event.what == "paused"]
    assert [text.endswith("at step 0") for text in told] == [True]
    assert "trip." not in told[0] + caplog.text.replace("of agent trip", "")


async def test_what_is_the_same_code_is_not_deterministic_and_nobody_resumes_it(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    drawn = iter(range(9))

    async def random_one() -> str:
        return (await llm(f"draw {next(drawn)}", model="small")).text

    one = deploys(random_one)
    job = await bench.fleet.submit(one, id="x")
    worker = await bench.worker()
    await bench.run(worker)
    view = await job.view()
    assert view.parked
    said = f"same code ({one.code}): not deterministic: step 0 was llm 'draw 0', is now llm 'draw 1'"
    assert view.why.startswith(said)
    assert "now(), uuid() and random()" in view.why
    await reconcile(worker)
    assert (await job.view()).parked, "the same code would do it again"
    assert await job.resume()
    await bench.run(worker)
    assert (await job.view()).parked
    assert Anybodys.asked == ["small draw 0"]
    await hand.look()


async def test_what_code_without_a_name_has_asked_for_is_not_said_of_the_code_of_now(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    began = deploys(old).code
    job = await bench.fleet.submit("trip", id="x")
    await bench.serve(await bench.worker(), "turns")
    await hand.commit(await hand.claim(), turn_here=False)
    history = await hand.journal.load("x")  # a release before codes had names goes on with it
    assert (history.code, history.of_code) == (began, 1)
    await hand.journal.advance("x", msgspec.structs.replace(decides(1, 1, "Other."), basis=history.basis))
    assert (await job.view()).code == began
    await bench.run(await bench.worker())
    view = await job.view()
    assert view.parked
    said = (
        f"step 1 was asked for by other code than {began}, whose name is not known (by a worker of a release"
    )
    assert view.why.startswith(said)
    assert "it was llm 'Other.', is now llm 'Shorten: " in view.why
    assert view.parked_for == "", "no code that has a name would go on with it"


async def test_nor_is_it_said_of_the_code_from_before_the_job_was_resumed_from_a_step(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    await bench.serve(await bench.worker())
    assert await job.pause()
    assert (await hand.journal.rewind("x", 1))[0] == "running"
    basis = (await hand.journal.load("x")).basis
    await hand.journal.advance("x", msgspec.structs.replace(decides(1, 1, "Other."), basis=basis))
    now = deploys(later).code
    await bench.run(await bench.worker())
    assert (await job.view()).why.startswith(f"step 1 was asked for by other code than {now}, whose name")


async def test_resumed_from_a_step_a_job_still_knows_whose_the_steps_before_are(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    began = deploys(old).code
    job = await bench.fleet.submit("trip", id="x")
    worker = await bench.worker()
    await bench.serve(worker, "turns")
    await bench.serve(worker)
    assert await job.pause()
    now = deploys(new).code
    for _ in range(2):
        assert await job.resume(from_step=1)
        await bench.run(await bench.worker())
        said = (
            f"the agent's code changed since this job began ({began} → {now}): step 0 was llm 'Plan a trip.'"
        )
        assert (await job.view()).why.startswith(said)
    history = await hand.journal.load("x")
    assert (history.code, history.of_code, history.view.code) == (began, 1, "")


async def test_code_that_changed_and_asks_for_the_same_goes_on_at_once(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    now = deploys(later).code
    worker = await bench.worker()
    await bench.run(worker)
    assert await job.result(timeout=0) == "re In one line: re Plan a trip."
    assert (await job.view()).code == now, "its last turn ran with it"


async def test_resumed_by_hand_it_goes_on_with_code_that_fits(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    deploys(new)
    await bench.run(await bench.worker())
    assert (await job.view()).parked
    deploys(later)  # a third one, which asks for what the journal holds
    worker = await bench.worker()
    await reconcile(worker)
    assert (await job.view()).parked, "it is not the code that the job began with"
    assert await job.resume()
    await bench.run(worker)
    assert await job.result(timeout=0) == "re In one line: re Plan a trip."
    assert Anybodys.asked == ["small Plan a trip.", "small In one line: re Plan a trip."]


async def test_a_retry_that_parks_runs_again_what_failed_when_the_code_fits(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    Anybodys.said = {"Shorten: re Plan a trip.": [BadRequest("no", status=400)]}
    job = await bench.fleet.submit(deploys(old), id="x")
    worker = await bench.worker()
    await bench.serve(worker)
    with pytest.raises(BadRequest):
        await bench.serve(worker)
    assert (await job.view()).state == "failed"
    await ends(worker)
    deploys(new)
    worker = await bench.worker()
    assert await job.retry()
    await bench.run(worker)
    assert (await job.view()).parked
    await ends(worker)
    deploys(old)
    worker = await bench.worker()
    await reconcile(worker)
    await bench.run(worker)
    assert await job.result(timeout=0) == "re Shorten: re Plan a trip."
    assert Anybodys.asked.count("small Plan a trip.") == 1
    await hand.look()


async def test_a_signature_that_changed_parks_as_well(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    async def by_city(city: str) -> str:
        return (await llm(f"Plan {city}.", model="small")).text

    async def by_town(town: str) -> str:
        return (await llm(f"Plan {town}.", model="small")).text

    job = await bench.fleet.submit(deploys(by_city), id="x", city="Lima")
    deploys(by_town)
    await bench.run(await bench.worker())
    assert (await job.view()).parked
    assert "unexpected keyword argument 'city'" in (await job.view()).why or "city" in (await job.view()).why


async def test_a_tool_that_is_no_longer_asked_for_is_not_called(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    called: list[str] = []

    def book(city: str) -> str:
        called.append(city)
        return city

    async def books() -> Any:
        return await tool(book, "Lima")

    async def books_other() -> Any:
        return await tool(book, "Rome")

    job = await bench.fleet.submit(deploys(books), id="x")
    deploys(books_other)
    worker = await bench.worker()
    assert await bench.serve(worker, "turns") == "not called: the agent's code has changed"
    assert (await job.view()).parked
    assert (await job.steps())[0].state == "parked"
    deploys(books)
    worker = await bench.worker()
    await reconcile(worker)
    await bench.run(worker)
    assert await job.result(timeout=0) == "Lima"
    assert called == ["Lima"]
    await hand.look()


async def test_a_parked_job_can_be_cancelled_and_is_not_resumed_after_it(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    deploys(new)
    await bench.run(await bench.worker())
    assert await job.cancel()
    assert await hand.redis("EXISTS", hand.journal.keys.prefix + "parked") == 0
    deploys(old)
    await reconcile(await bench.worker())
    assert (await job.view()).state == "cancelled"
    assert not (await job.view()).parked


async def test_branches_in_flight_are_kept_when_their_job_parks(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    async def three() -> str:
        found = await gather(*(llm(f"w{n}", model="small") for n in range(3)))
        return " ".join(one.text for one in found)

    async def other_three() -> str:
        found = await gather(*(llm(f"v{n}", model="small") for n in range(3)))
        return " ".join(one.text for one in found)

    job = await bench.fleet.submit(deploys(three), id="x")
    deploys(other_three)
    worker = await bench.worker()
    flight = await hand.claim()  # on another machine
    await bench.serve(worker)
    assert [step.state for step in await job.steps()] == ["leased", "done", "parked"]
    assert (await hand.commit(flight)).status == "paused"
    deploys(three)
    worker = await bench.worker()
    await reconcile(worker)
    await bench.run(worker)
    assert (await job.result(timeout=0)).endswith("re w1 re w2")
    assert sorted(Anybodys.asked) == ["small w1", "small w2"]
    await hand.look()


async def test_who_has_other_code_makes_the_call_and_leaves_the_program_alone(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    ran: list[str] = []

    async def counted() -> str:
        ran.append("now")
        return (await llm("Plan a short trip.", model="small")).text

    job = await bench.fleet.submit(deploys(old), id="x")
    await bench.worker()  # it has the code that the job began with
    deploys(counted)
    worker = await bench.worker()
    assert await bench.serve(worker) == "30 + 20 tokens"
    assert await bench.serve(worker, "turns") == "spare ticket: nothing may run"
    assert ran == []
    assert [step.state for step in await job.steps()] == ["done"]
    assert not (await job.view()).parked
    await hand.look()


# From a step on ----------------------------------------------------------------------------------------


async def test_resumed_from_a_step_the_new_code_runs_from_there_and_what_came_before_is_reused(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    async def in_three() -> str:
        plan = (await llm("Plan a trip.", model="small")).text
        short = (await llm(f"Shorten: {plan}", model="small")).text
        return (await llm(f"Translate: {short}", model="small")).text

    async def in_three_now() -> str:
        plan = (await llm("Plan a trip.", model="small")).text
        short = (await llm("Be brief.", model="small")).text
        return (await llm(f"Translate: {short}", model="small")).text + plan

    job = await bench.fleet.submit(deploys(in_three), id="x")
    worker = await bench.worker()
    await bench.serve(worker)
    await ends(worker)
    deploys(in_three_now)
    worker = await bench.worker()
    await bench.serve(worker)
    assert (await job.view()).parked
    assert await job.resume(from_step=1)
    await hand.look()
    assert [step.state for step in await job.steps()] == ["done"]
    await bench.run(worker)
    assert await job.result(timeout=0) == "re Translate: re Be brief.re Plan a trip."
    assert Anybodys.asked.count("small Plan a trip.") == 1
    assert (await job.usage()).calls == 4, "what was paid for counts, also what is not used"
    (left,) = (await hand.journal.load("x")).forgotten
    assert left.outcome is not None
    assert (left.number, left.outcome.result().text) == (1, "re Shorten: re Plan a trip."), "and it stays"
    await hand.look()


async def a_wide_one(hand: Hand) -> list[Claim]:
    """60 calls of one job, all being made."""
    await hand.submit(starts("j", *(f"x{n}" for n in range(60))))
    return [await hand.claim() for _ in range(60)]


async def test_nothing_of_a_wide_job_is_forgotten_where_one_of_its_steps_is_being_called(hand: Hand) -> None:
    claims = await a_wide_one(hand)
    for claim in claims[1:]:
        await hand.commit(claim)
    await hand.journal.pause("j")
    before = await hand.whole()
    assert (await hand.journal.rewind("j", 0))[0] == "busy"
    assert await hand.whole() == before
    assert (await hand.journal.rewind("j", 1))[0] == "running"


async def test_who_comes_between_two_slices_leaves_what_was_forgotten(hand: Hand) -> None:
    for claim in await a_wide_one(hand):
        await hand.commit(claim)
    await hand.redis("HSET", hand.keys.job("j"), "ch", "old")
    await hand.journal.advance("j", parks(60, 60))
    await hand.journal.sweep("j")
    said = await hand.journal._run("rewind", job="j", step=0, salt="s", facts=[])
    assert said[0] == b"more"
    now = await hand.journal.now()
    info = WorkerInfo(
        id="w", host="h", pid=1, pool="p", lanes=["turns"], slots=1, codes={"a": "old"},
        started_at=now, seen_at=now,
    )  # fmt: skip
    await hand.journal.announce(info, {})
    assert (await hand.journal.unpark())[0] == 0, "somebody is at it"
    await hand.journal.resume("j")  # a person may
    await hand.journal.pause("j")
    await hand.journal.sweep("j")
    assert (await hand.journal.rewind("j", 25))[0] == "running"
    assert len((await hand.journal.load("j")).forgotten) == 35, "those of both times"


async def test_asked_for_again_it_forgets_nothing_that_came_since(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.commit(await hand.claim())
    await hand.journal.pause("j")
    await hand.journal.rewind("j", 0, salt="s")  # its answer is lost
    await hand.journal.advance("j", decides(0, 0, "y"))
    await hand.commit(await hand.claim())
    await hand.journal.pause("j")
    before = await hand.whole()
    assert (await hand.journal.rewind("j", 0, salt="s"))[0] == "running"
    assert await hand.whole() == before
    assert (await hand.journal.rewind("j", 0, salt="t"))[0] == "running"
    assert (await hand.journal.load("j")).view.steps == 0


async def test_of_a_job_that_was_rewound_what_its_cancelling_dropped_runs_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y"))
    one, two = await hand.drain()
    await hand.commit(two)
    await hand.journal.pause("j")
    await hand.lose(one)
    await hand.journal.rewind("j", 1)  # an outcome is left out from here on
    await hand.journal.cancel("j")
    assert (await hand.journal.retry("j"))[0] == "running"
    await hand.look()
    assert (await hand.claim()).step == "0"


@pytest.mark.parametrize("again", [False, True], ids=["nobody asked since", "its number is another step's"])
async def test_a_late_answer_of_a_step_that_was_forgotten_counts_once(hand: Hand, again: bool) -> None:
    await hand.journal.set_tenant("default", tokens_per_day=10**6)
    await hand.submit(starts("j", "x"))
    late = await hand.claim()
    await hand.journal.pause("j")
    await hand.lose(late)
    await hand.journal.rewind("j", 0)
    if again:
        await hand.journal.advance("j", decides(0, 0, "y"))
    for _ in range(2):
        assert (await hand.commit(late)).status == ("fenced" if again else "gone")
    (view,) = await hand.journal.views(["j"])
    assert view is not None
    assert view.usage == USED
    (tenant,) = await hand.journal.tenant_views(["default"], [])
    assert tenant.tokens_today == USED.total_tokens


@pytest.mark.parametrize("step", [-1, 3, 2**40, True, "1"])
async def test_a_step_that_is_none_cannot_be_resumed_from(
    bench: Bench,
    deploys: Deploys,
    step: Any,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    await job.pause()
    with pytest.raises(InvalidInput, match="step"):
        await job.resume(from_step=step)
    assert (await job.view()).state == "paused"


async def test_a_step_that_is_being_called_is_not_thrown_away(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    claim = await hand.claim()
    await job.pause()
    before = await hand.whole()
    with pytest.raises(InvalidInput, match="is being called, and its answer is paid for"):
        await job.resume(from_step=0)
    assert await hand.whole() == before
    assert (await hand.commit(claim)).status == "paused"
    assert await job.resume(from_step=0)
    await hand.look()


async def test_what_a_program_had_decided_before_is_of_no_account(
    bench: Bench, hand: Hand, deploys: Deploys
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    await hand.commit(await hand.claim())
    basis = (await hand.journal.load("x")).basis
    await job.pause()
    assert await job.resume(from_step=1), "from where it stands"
    late = msgspec.structs.replace(decides(1, 1, "of the code before"), basis=basis)
    assert (await hand.journal.advance("x", late)).status == "stale"


async def test_only_a_paused_job_is_resumed_from_a_step(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    job = await bench.fleet.submit(deploys(old), id="x")
    before = await hand.whole()
    await job.resume(from_step=0)
    assert await hand.whole() == before
    await job.cancel()
    assert not await job.resume(from_step=0)


async def test_a_wide_job_is_rewound_in_slices_and_an_answer_that_comes_twice_counts_once(
    bench: Bench,
    hand: Hand,
    deploys: Deploys,
) -> None:
    async def many() -> int:
        await llm("first", model="small")
        return len(await gather(*(llm(f"w{n}", model="small") for n in range(100))))

    async def many_others() -> int:
        await llm("first", model="small")
        return len(await gather(*(llm(f"v{n}", model="small") for n in range(70))))

    job = await bench.fleet.submit(deploys(many), id="x")
    worker = await bench.worker()
    for _ in range(12):
        await bench.serve(worker)
    late = bench.told[-1]
    calls = (await job.usage()).calls
    await ends(worker)
    deploys(many_others)
    worker = await bench.worker()
    await bench.serve(worker)
    assert (await job.view()).parked
    assert await job.resume(from_step=1)
    assert [step.number for step in await job.steps()] == [0]
    assert (await hand.commit(late)).status in ("gone", "fenced")
    assert (await job.usage()).calls == calls + 1
    await hand.look()
    await bench.run(worker, most=200)
    assert await job.result(timeout=0) == 70
    assert Anybodys.asked.count("small first") == 1
    await hand.look()
