"""``gather(limit=…)``, ``within()`` and ``as_done()``: what they do, and that every replay does the same."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_dist.errors import InvalidInput, RateLimited, StepError, ToolError
from aios_dist.model.calls import LLMResponse, SleepRequest
from aios_dist.model.jobs import Kind, Outcome, Step, StepState
from aios_dist.program.bounds import as_done, within
from aios_dist.program.commands import LLM, gather, llm, signal, sleep, tool
from aios_dist.program.replay import Replay

Body = Callable[[], Coroutine[Any, Any, Any]]
SLOW = Outcome.failed(RateLimited("slow down"))


def yes(text: str = "yes") -> Outcome:
    return Outcome(response=LLMResponse(text=text))


def names(replay: Replay) -> list[str]:
    return [
        a.command.request.messages[-1]["content"] if isinstance(a.command, LLM) else a.kind.value
        for a in replay.asked
    ]


Told = list[tuple[int, Outcome]]


def replayed(body: Body, live: Replay, outcomes: Told, known: int | None = None) -> Replay:
    journal = [
        Step(job="j", number=n, kind=a.kind, lane="llm", state=StepState.READY, digest=a.digest)
        for n, a in enumerate(live.asked[:known])
    ]
    other = Replay(body, journal)
    for number, outcome in outcomes:
        other.deliver(number, outcome)
    other.check_complete()
    return other


def run(body: Body, *told: int | tuple[int, Outcome]) -> Replay:
    """The program told these steps' outcomes, live; at each of them its replay must be the same."""
    live, outcomes = Replay(body), Told()
    for one in told:
        number, outcome = one if isinstance(one, tuple) else (one, yes(f"r{one}"))
        before = len(live.asked)
        live.deliver(number, outcome)
        outcomes.append((number, outcome))
        for known in (before, None):
            other = replayed(body, live, outcomes, known)
            assert [a.digest for a in other.asked] == [a.digest for a in live.asked]
            assert (other.finished, other.result) == (live.finished, live.result)
            assert f"{other.error!r}" == f"{live.error!r}"
            other.close()
    return live


async def ask(name: str, log: list[str] | None = None) -> str:
    try:
        return str((await llm(name)).text)
    finally:
        if log is not None:
            log.append(name)


# gather(limit=…) ----------------------------------------------------------------------------------------


def test_so_many_are_in_flight_and_the_next_begins_when_one_has_ended() -> None:
    async def body() -> list[str]:
        return list(await gather(*(ask(name) for name in "abcde"), limit=2))

    live = Replay(body)
    assert names(live) == ["a", "b"]
    live.deliver(1, yes("B"))
    assert names(live) == ["a", "b", "c"]
    live.close()
    assert run(body, 1, 2, 0, 3, 4).result == ["r0", "r1", "r2", "r3", "r4"]


@pytest.mark.filterwarnings("error")
def test_after_a_failure_those_that_have_not_begun_do_not_begin() -> None:
    async def body(keep: bool) -> Any:
        kept = await gather(*(ask(name) for name in "abcd"), limit=2, return_exceptions=keep)
        return [str(one) for one in kept]

    live = run(lambda: body(False), (0, SLOW), 1)
    assert isinstance(live.error, RateLimited)
    assert names(live) == ["a", "b"]
    assert run(lambda: body(True), (0, SLOW), 1, 2, 3).result == ["slow down", "r1", "r2", "r3"]
    gc.collect()


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2"])
def test_a_limit_is_a_whole_number_from_1(limit: Any) -> None:
    for made in (gather, as_done):
        with pytest.raises(InvalidInput, match="limit=…"):
            made(llm("a"), limit=limit)


@pytest.mark.filterwarnings("error")
def test_a_program_that_is_dropped_leaves_no_branch_behind_that_has_not_begun() -> None:
    async def body() -> Any:
        inner = gather(ask("x"), ask("y"), limit=1)
        return await gather(inner, ask("a"), ask("b"), gather(ask("c")), limit=1)

    replay = Replay(body)
    assert names(replay) == ["x"]
    replay.close()
    gc.collect()


# within() -----------------------------------------------------------------------------------------------


def test_a_block_that_is_done_in_time_goes_on_and_its_time_is_forgotten() -> None:
    async def body() -> str:
        async with within(5):
            one = await ask("a")
        return one + await ask("b")

    live = Replay(body)
    assert names(live) == ["sleep", "a"]
    assert live.asked[0].command is not None
    assert live.asked[0].command.request == SleepRequest(5.0)
    assert run(body, 1, 0, 2).result == "r1r2"
    assert run(body, 1, 2).result == "r1r2", "nobody waits for the time"


def test_a_block_that_is_not_raises_and_what_comes_later_is_not_heard() -> None:
    async def body() -> str:
        try:
            async with within(5):
                try:
                    return await ask("a")
                except Exception:
                    return "swallowed"
        except TimeoutError as error:
            return f"{error} {await ask('b')}"

    assert run(body, 0, 1, 2).result == "It was not done within 5 s. r2"
    assert run(body, 0, 2).result == "It was not done within 5 s. r2"
    assert run(body, 1).result == "r1"


def test_branches_in_a_block_are_stopped_and_what_they_await_then_is_done() -> None:
    async def branch(name: str) -> str:
        try:
            return await ask(name)
        except asyncio.CancelledError:
            await ask(f"undo {name}")
            raise

    async def body() -> str:
        try:
            async with within(5):
                await gather(branch("a"), gather(branch("b"), ask("c")), ask("never"), limit=2)
        except TimeoutError:
            return await ask("instead")
        return "in time"

    live = run(body, 0)
    assert names(live) == ["sleep", "a", "b", "c", "undo a", "undo b", "instead"]
    live = run(body, 0, 6, 1, 4)
    assert not live.finished, "the program ends after what it leaves open"
    assert run(body, 0, 6, 1, 4, 5).result == "r6"


def test_of_two_blocks_the_one_whose_time_is_over_raises() -> None:
    async def body() -> str:
        try:
            async with within(5):
                try:
                    async with within(50):
                        await ask("a")
                except TimeoutError:
                    return "inner"
        except TimeoutError:
            return "outer"
        return "none"

    assert run(body, 0).result == "outer"
    assert run(body, 1).result == "inner"
    assert run(body, 2).result == "none"


def test_one_bound_may_be_used_again_also_within_itself() -> None:
    async def body() -> list[str]:
        heard = []
        bound = within(5)
        for name in "ab":
            try:
                async with bound, bound:
                    heard.append(await ask(name))
            except TimeoutError:
                heard.append("late")
        return heard

    assert run(body, 0, 5).result == ["late", "r5"]
    assert run(body, 1, 5).result == ["late", "r5"]


def test_one_bound_in_several_branches_is_a_time_for_each() -> None:
    async def body() -> list[str]:
        bound = within(5)

        async def bounded(name: str) -> str:
            try:
                async with bound:
                    return await ask(name)
            except TimeoutError:
                return f"{name} late"

        return list(await gather(bounded("a"), bounded("b")))

    live = run(body, 1, 2)
    assert names(live) == ["sleep", "a", "sleep", "b"]
    assert live.result == ["r1", "b late"]
    assert run(body, 3, 0).result == ["a late", "r3"]
    assert run(body, 0, 2).result == ["a late", "b late"]
    assert run(body, 1, 0, 3).result == ["r1", "r3"]


def test_only_the_branch_whose_time_is_over_is_stopped() -> None:
    async def body() -> list[str]:
        async def bounded() -> str:
            try:
                async with within(5):
                    return "+".join(await gather(ask("a"), ask("b")))
            except TimeoutError:
                return "late"

        return list(await gather(bounded(), ask("c")))

    live = run(body, 2, 0, 1)
    assert names(live) == ["sleep", "c", "a", "b"]
    assert live.result == ["late", "r1"]
    assert run(body, 2, 3, 0, 1).result == ["r2+r3", "r1"]


def test_a_signal_that_comes_after_its_wait_was_given_up_is_for_the_next_wait() -> None:
    async def body() -> str:
        try:
            async with within(5):
                return str(await signal("review"))
        except TimeoutError:
            await ask("remind")
        return str(await signal("review"))

    late = Outcome(value="ok")
    for order in ([0, (1, late), 2], [0, 2, (1, late)]):
        live = run(body, *order)  # type: ignore[arg-type]
        assert live.result == "ok"
        assert names(live) == ["sleep", "signal", "remind"], "the wait that is open is taken over"


async def hurried() -> str:
    """Waits five seconds for a signal."""
    try:
        async with within(5):
            return str(await signal("go"))
    except TimeoutError:
        return "gave up"


def test_a_signal_goes_to_the_oldest_that_still_waits() -> None:
    async def patient() -> str:
        return f"{await signal('go')} {await signal('go')}"

    async def body() -> list[str]:
        return list(await gather(hurried(), patient()))

    live = run(body, 0, (1, Outcome(value=1)), (2, Outcome(value=2)))
    assert live.result == ["gave up", "1 2"]
    assert names(live) == ["sleep", "signal", "signal"]


def test_a_block_that_comes_to_its_end_after_its_time_has_done_what_it_was_for() -> None:
    async def body() -> str:
        async with within(5):
            try:
                return await ask("a")
            except asyncio.CancelledError:
                kept = "what there is"
        return kept

    assert run(body, 0).result == "what there is"

    async def fails() -> str:
        async with within(5):
            try:
                return await ask("a")
            except asyncio.CancelledError:
                raise KeyError("mine") from None

    assert isinstance(run(fails, 0).error, KeyError)


def test_signals_whose_waits_were_given_up_go_to_the_oldest_wait_and_are_kept_in_their_order() -> None:
    async def patient() -> str:
        return str(await signal("go"))

    async def beside() -> list[str]:
        return list(await gather(hurried(), patient(), patient()))

    one, two = Outcome(value=1), Outcome(value=2)
    assert run(beside, 0, (1, one), (2, two)).result == ["gave up", "1", "2"]

    async def later() -> list[str]:
        both = await gather(hurried(), hurried())
        await ask("a")
        return [*both, await patient(), await patient()]

    live = Replay(later)
    steps = {name: [n for n, kind in enumerate(names(live)) if kind == name] for name in ("sleep", "signal")}
    told = [*steps["sleep"], (steps["signal"][0], one), (steps["signal"][1], two), len(live.asked)]
    live.close()
    assert run(later, *told).result == ["gave up", "gave up", "1", "2"]


def test_tools_can_be_bounded_too() -> None:
    async def body() -> str:
        try:
            async with within(1):
                return str(await tool(len, "abc"))
        except TimeoutError:
            return "late"

    assert run(body, 0).result == "late"
    assert run(body, (1, Outcome(value=3)), 0).result == "3"


@pytest.mark.parametrize("seconds", [-1, True, "5", 1e12])
def test_a_time_is_seconds(seconds: Any) -> None:
    with pytest.raises(InvalidInput, match="takes seconds"):
        within(seconds)


async def test_outside_of_agents_they_say_so() -> None:
    with pytest.raises(RuntimeError, match=r"^within\(\) can only be awaited inside an agent"):
        async with within(5):
            pass
    with pytest.raises(RuntimeError, match=r"^as_done\(\) can only be awaited inside an agent"):
        async for _ in as_done(llm("a")):
            pass


# as_done() ----------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_their_ends() -> None:
    async def body() -> list[str]:
        return [
            f"{answer} {(await llm('then')).text}" async for answer in as_done(ask("a"), ask("b"), ask("c"))
        ]

    live = run(body, 2, 0, 1, 3, 4, 5)
    assert live.result == ["r2 r3", "r0 r4", "r1 r5"]


@pytest.mark.filterwarnings("error")
def test_so_many_at_a_time_here_too() -> None:
    async def body() -> list[str]:
        return [answer async for answer in as_done(*(ask(name) for name in "abc"), limit=1)]

    live = Replay(body)
    assert names(live) == ["a"]
    live.close()
    gc.collect()
    assert run(body, 0, 1, 2).result == ["r0", "r1", "r2"]


def test_the_first_answer_wins_and_the_others_are_stopped() -> None:
    log: list[str] = []

    async def body() -> str:
        log.clear()
        async for answer in as_done(ask("a", log), ask("b", log), ask("c", log), limit=2):
            log.append(f"first {answer}")
            break
        return answer + await ask("after")

    live = run(body, 1)
    assert names(live) == ["a", "b", "c", "after"]
    assert log == ["b", "first r1", "a", "c"]
    assert run(body, 1, 0, 3).result == "r1r3"


def test_a_failure_is_raised_and_stops_the_others_or_is_kept() -> None:
    async def body(keep: bool) -> list[str]:
        heard = []
        try:
            async for answer in as_done(ask("a"), ask("b"), ask("c"), return_exceptions=keep):
                heard += [str(answer)]
        except RateLimited:
            heard.append("raised")
        return heard

    assert run(lambda: body(False), 0, (1, SLOW)).result == ["r0", "raised"]
    assert run(lambda: body(True), 0, (1, SLOW), 2).result == ["r0", "slow down", "r2"]


def test_a_time_ends_a_loop_too_and_the_branches_in_it() -> None:
    async def body() -> list[str]:
        log: list[str] = []
        heard = []
        try:
            async with within(5):
                async for answer in as_done(ask("a", log), ask("b", log)):
                    heard += [answer]
        except TimeoutError:
            heard += ["late", await ask("c"), *log]
        return heard

    assert run(body, 1, 0, 3).result == ["r1", "late", "r3", "a", "b"]


def test_nothing_to_wait_for_is_no_loop() -> None:
    async def body() -> list[str]:
        return [answer async for answer in as_done()]

    assert run(body).result == []


def test_a_race_with_a_time() -> None:
    async def body() -> Any:
        async for first in as_done(ask("a"), sleep(5)):
            return first
        return "never"

    assert run(body, 1).result is not None
    assert run(body, 0).result == "r0"


# All of it, in any shape and order ----------------------------------------------------------------------

Shape = tuple[Any, ...]
shapes: st.SearchStrategy[Shape] = st.recursive(
    st.sampled_from([("llm",), ("signal",)]),
    lambda inner: st.one_of(
        st.tuples(st.just("seq"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(
            st.just("gather"), st.lists(inner, min_size=1, max_size=4), st.integers(1, 3), st.booleans()
        ),
        st.tuples(st.just("within"), inner, inner),
        st.tuples(st.just("each"), st.lists(inner, min_size=1, max_size=3), st.booleans()),
        st.tuples(st.just("undo"), inner, inner),
    ),
    max_leaves=10,
)


def program_of(shape: Shape) -> Body:
    async def part(shape: Shape, seen: list[str], name: str) -> None:
        match shape:
            case ("llm",):
                seen.append((await llm(f"{name}: {seen}")).text)
            case ("signal",):
                seen.append(str(await signal("go")))
            case ("seq", parts):
                for i, p in enumerate(parts):
                    await part(p, seen, f"{name}.{i}")
            case ("gather", parts, limit, keep):
                both = (part(p, seen, f"{name}.{i}") for i, p in enumerate(parts))
                await gather(*both, limit=limit, return_exceptions=keep)
            case ("within", body, instead):
                try:
                    async with within(5):
                        await part(body, seen, f"{name}.body")
                except (TimeoutError, StepError) as error:
                    seen.append(type(error).__name__)
                    await part(instead, seen, f"{name}.instead")
            case ("each", parts, first):
                async for _ in as_done(*(part(p, seen, f"{name}.{i}") for i, p in enumerate(parts))):
                    seen.append("one")
                    if first:
                        break
            case ("undo", body, after):
                try:
                    await part(body, seen, f"{name}.body")
                finally:
                    await part(after, seen, f"{name}.undo")

    async def whole() -> list[str]:
        seen: list[str] = []
        await part(shape, seen, "a")
        return seen

    return whole


@settings(max_examples=60, deadline=None)
@given(shape=shapes, data=st.data())
def test_every_replay_does_the_same_whatever_ends_first(shape: Shape, data: st.DataObject) -> None:
    body = program_of(shape)
    live, outcomes = Replay(body), Told()
    while not live.finished:
        open_steps = sorted(set(range(len(live.asked))) - {number for number, _ in outcomes})
        assert live.waits()
        number = data.draw(st.sampled_from(open_steps))
        if live.asked[number].kind is Kind.LLM and data.draw(st.booleans()):
            outcome = Outcome.failed(ToolError("x"))
        else:
            outcome = yes(f"r{number}") if live.asked[number].kind is Kind.LLM else Outcome(value=number)
        before = len(live.asked)
        outcomes.append((number, outcome))
        live.deliver(number, outcome)
        for known in (before, None):
            other = replayed(body, live, outcomes, known)
            assert [a.digest for a in other.asked] == [a.digest for a in live.asked]
            assert (other.finished, other.result) == (live.finished, live.result)
            assert other.waits() == live.waits()
            other.close()
    assert not live._open
    assert not live._waiting.branches


def test_gathers_in_a_time_may_be_nested_as_deep_as_one_likes() -> None:
    async def body() -> str:
        inner = gather(llm("x"), ask("y"))
        for _ in range(20_000):
            inner = gather(inner)
        try:
            async with within(5):
                await inner
        except TimeoutError:
            return "late"
        return "in time"

    replay = Replay(body)
    replay.deliver(0, Outcome())
    assert replay.result == "late"
