"""The turn as pure code: an agent run from any prefix of its journal asks for the same steps again."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_dist.errors import (
    InvalidInput,
    LLMError,
    ProgramChanged,
    RateLimited,
    StepError,
    ToolError,
    UnknownName,
)
from aios_dist.model.calls import LLMResponse, ToolCall, Usage
from aios_dist.model.jobs import Kind, Outcome, Step, StepState
from aios_dist.model.specs import Program
from aios_dist.program.agents import agent
from aios_dist.program.commands import LLM, Tool, gather, in_turn, llm, tool
from aios_dist.program.replay import Replay
from aios_dist.program.requests import Asked

Body = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def no_noise() -> Iterator[None]:
    """Whatever happens to a program, nobody is told that a coroutine "was never awaited"."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()


def answer(text: str = "yes") -> Outcome:
    return Outcome(response=LLMResponse(text=text, usage=Usage(prompt_tokens=1, output_tokens=1, calls=1)))


def as_journaled(asked: Sequence[Asked]) -> list[Step]:
    """What the journal holds of these steps."""
    return [
        Step(
            job="j",
            number=number,
            kind=a.kind,
            lane="llm",
            state=StepState.READY,
            digest=a.digest,
            request=a.command.request,
        )
        for number, a in enumerate(asked)
    ]


def replayed(program: Program, journal: Sequence[Step], outcomes: Sequence[tuple[int, Outcome]]) -> Replay:
    replay = Replay(program, journal)
    for number, outcome in outcomes:
        replay.deliver(number, outcome)
    replay.check_complete()
    return replay


def seen(replay: Replay) -> list[tuple[Kind, str]]:
    return [(a.kind, a.digest) for a in replay.asked]


def prompts(replay: Replay) -> list[str]:
    return [
        a.command.request.messages[-1]["content"] if isinstance(a.command, LLM) else a.command.request.name
        for a in replay.asked
    ]


def ends(replay: Replay) -> tuple[bool, Any, str]:
    return replay.finished, replay.result, f"{type(replay.error).__name__} {replay.error}"


def run(body: Body, *outcomes: Outcome) -> Replay:
    """The agent, its steps answered one after another as they are asked for."""
    replay = Replay(body)
    for number, outcome in enumerate(outcomes):
        replay.deliver(number, outcome)
    return replay


# Any agent, any order of outcomes -----------------------------------------------------------------------


async def look_up(text: str) -> str:
    return text


Shape = tuple[Any, ...]

steps = st.sampled_from([("llm",), ("tool",)])
shapes: st.SearchStrategy[Shape] = st.recursive(
    steps,
    lambda inner: st.one_of(
        st.tuples(st.just("seq"), st.lists(inner, min_size=1, max_size=4)),
        st.tuples(st.just("gather"), st.lists(inner, max_size=4), st.booleans()),
        st.tuples(st.just("bare"), st.integers(1, 3)),
        st.tuples(st.just("try"), inner, inner),
        st.tuples(st.just("finally"), inner, inner),
        st.tuples(st.just("raise"), inner),
    ),
    max_leaves=12,
)


def program_of(shape: Shape) -> Program:
    """An agent of that shape. Its prompts show all that it has seen, over all branches, in its own order."""

    async def part(shape: Shape, seen: list[str], name: str) -> str:
        match shape:
            case ("llm",):
                reply = await llm(f"{name}: {' '.join(seen)}")
                seen.append(f"{name}={reply.text}")
                return str(reply.text)
            case ("tool",):
                value = await tool(look_up, f"{name}: {' '.join(seen)}")
                seen.append(f"{name}={value}")
                return str(value)
            case ("seq", parts):
                return " ".join([await part(p, seen, f"{name}.{i}") for i, p in enumerate(parts)])
            case ("gather", parts, keep):
                both = await gather(
                    *(part(p, seen, f"{name}.{i}") for i, p in enumerate(parts)), return_exceptions=keep
                )
                return " ".join(map(str, both))
            case ("bare", count):
                replies = await gather(*(llm(f"{name}.{i} {len(seen)}") for i in range(count)))
                return " ".join(r.text for r in replies)
            case ("try", body, instead):
                try:
                    return await part(body, seen, f"{name}.try")
                except StepError as error:
                    seen.append(str(error))
                    return await part(instead, seen, f"{name}.except")
            case ("finally", body, after):
                try:
                    return await part(body, seen, f"{name}.body")
                finally:
                    await part(after, seen, f"{name}.after")
            case ("raise", body):
                raise KeyError(await part(body, seen, f"{name}.cause"))
        raise AssertionError(shape)

    return lambda: part(shape, [], "a")


@settings(max_examples=150, deadline=None)
@given(shape=shapes, data=st.data())
def test_an_agent_asks_for_the_same_steps_from_every_prefix_of_its_journal(
    shape: Shape, data: st.DataObject
) -> None:
    program = program_of(shape)
    live = Replay(program)
    outcomes: list[tuple[int, Outcome]] = []
    known_before = 0
    while not live.finished:
        open_steps = sorted(set(range(len(live.asked))) - {number for number, _ in outcomes})
        assert open_steps, "the program neither ended nor waits"
        assert live.waits()
        known_before = len(live.asked)
        number = data.draw(st.sampled_from(open_steps))
        fails = data.draw(st.booleans())
        if fails:
            outcome = Outcome.failed(RateLimited(f"step {number}", status=429))
        elif live.asked[number].kind is Kind.TOOL:
            outcome = Outcome(value=f"v{number}")
        else:
            outcome = answer(f"r{number}")
        outcomes.append((number, outcome))
        live.deliver(number, outcome)

        # On another machine: after the turn was written, and after a crash before it was.
        for known in (len(live.asked), known_before):
            other = replayed(program, as_journaled(live.asked[:known]), outcomes)
            assert seen(other) == seen(live)
            assert ends(other) == ends(live)
            assert other.version == live.version == len(outcomes)
            other.close()
    assert not live.waits()
    assert len(outcomes) == len(live.asked), "a program ends only after all that it asked for"


# The order of asking ------------------------------------------------------------------------------------


async def test_gather_asks_for_the_first_steps_of_all_branches_in_the_order_of_its_arguments() -> None:
    async def twice(name: str) -> str:
        one = await llm(f"{name}1")
        two = await llm(f"{name}2 after {one.text}")
        return str(two.text)

    async def body() -> Any:
        return await gather(twice("a"), llm("b"), twice("c"))

    replay = Replay(body)
    assert prompts(replay) == ["a1", "b", "c1"]
    replay.deliver(2, answer("C"))
    replay.deliver(0, answer("A"))
    assert prompts(replay)[3:] == ["c2 after C", "a2 after A"]
    for number in (1, 4):
        replay.deliver(number, answer(f"r{number}"))
    assert not replay.finished
    replay.deliver(3, answer("r3"))
    assert replay.result == ["r4", {**replay.result[1], "text": "r1"}, "r3"], "a response is JSON too"


def test_gather_gives_results_in_the_order_of_its_arguments_whatever_the_order_of_outcomes() -> None:
    async def body() -> list[str]:
        return [r.text for r in await gather(llm("a"), llm("b"), llm("c"))]

    replay = Replay(body)
    for number in (2, 0, 1):
        replay.deliver(number, answer("abc"[number]))
    assert replay.result == ["a", "b", "c"]


def test_gather_waits_for_all_and_then_raises_the_first_failure_by_place() -> None:
    async def body() -> str:
        try:
            await gather(llm("a"), llm("b"), llm("c"))
        except RateLimited as error:
            return str(error)
        return "no error"

    replay = Replay(body)
    replay.deliver(2, Outcome.failed(RateLimited("third", status=429)))
    assert not replay.finished
    replay.deliver(1, Outcome.failed(RateLimited("second")))
    assert not replay.finished, "what is asked for is waited for"
    replay.deliver(0, answer())
    assert replay.result == "second"


def test_gather_puts_failures_in_their_places_where_asked_to() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    async def body() -> list[str]:
        done = await gather(llm("a"), fails(), llm("b"), return_exceptions=True)
        return [type(d).__name__ for d in done]

    assert run(body, answer(), Outcome.failed(ToolError("x"))).result == [
        "LLMResponse",
        "KeyError",
        "ToolError",
    ]


def test_an_empty_gather_gives_an_empty_list_at_once() -> None:
    async def body() -> Any:
        return await gather()

    assert Replay(body).result == []


def test_gathers_nest_and_branches_without_steps_count_too() -> None:
    async def nothing() -> int:
        return 7

    async def body() -> Any:
        inner = gather(llm("a"), gather(nothing(), nothing()))
        one, (two, three) = await gather(inner, gather(llm("b"), nothing()))
        return [one[0].text, one[1], two.text, three]

    assert run(body, answer("A"), answer("B")).result == ["A", [7, 7], "B", 7]


def test_the_same_coroutine_twice_in_a_gather_is_an_error_and_not_a_mixed_up_answer() -> None:
    async def part() -> str:
        return str((await llm("once")).text)

    async def body() -> Any:
        same = part()
        return await gather(same, same)

    replay = Replay(body)
    assert prompts(replay) == ["once"]
    replay.deliver(0, answer())
    assert isinstance(replay.error, RuntimeError)
    assert "already" in str(replay.error)


def test_the_same_request_awaited_twice_is_two_steps() -> None:
    async def body() -> list[str]:
        same = llm("again")
        first, (second, third) = await same, await gather(same, same)
        return [first.text, second.text, third.text]

    assert run(body, answer("1"), answer("2"), answer("3")).result == ["1", "2", "3"]


@agent(name="replay-test-inner")
async def inner_agent(city: str) -> str:
    sights = await llm(f"Sights in {city}?")
    return f"{city}: {sights.text}"


def test_an_agent_may_await_another_agent_as_a_part_of_itself() -> None:
    async def body() -> Any:
        first = await inner_agent("Lima")
        return [first, *await gather(inner_agent("Rome"), inner_agent(city="Oslo"))]

    replay = run(body, answer("a"), answer("b"), answer("c"))
    assert replay.result == ["Lima: a", "Rome: b", "Oslo: c"]


# What comes back ----------------------------------------------------------------------------------------


def test_an_agent_that_never_awaits_ends_in_its_first_turn() -> None:
    async def body() -> dict[str, int]:
        return {"a": 1}

    replay = Replay(body)
    assert (replay.finished, replay.result, replay.asked) == (True, {"a": 1}, [])


def test_a_failed_step_is_raised_in_the_agent_with_its_class_and_detail() -> None:
    async def body() -> Any:
        try:
            await llm("a")
        except LLMError as error:
            return [type(error).__name__, error.detail]

    failed = Outcome.failed(RateLimited("slow down", status=429, retry_after_s=2.5))
    assert run(body, failed).result == ["RateLimited", {"status": 429, "retry_after_s": 2.5}]


def test_an_error_that_the_agent_does_not_catch_ends_it() -> None:
    async def body() -> None:
        await llm("a")

    replay = run(body, Outcome.failed(RateLimited("slow down")))
    assert isinstance(replay.error, RateLimited)


@pytest.mark.parametrize(
    "value", [object(), {1, object()}, float("nan"), [float("inf")], "\ud800", {(1, 2): 3}]
)
def test_a_result_that_is_not_json_is_a_clear_error(value: Any) -> None:
    async def body() -> Any:
        return value

    replay = Replay(body)
    assert isinstance(replay.error, InvalidInput)
    assert "not JSON" in str(replay.error)


def test_a_result_comes_back_as_json_gives_it_back() -> None:
    async def body() -> Any:
        return {"pair": (1, 2), 3: LLMResponse(text="hi")}

    assert Replay(body).result == {"pair": [1, 2], "3": {"text": "hi"}}


def test_runaway_recursion_ends_the_agent_and_nothing_else() -> None:
    async def deeper() -> Any:
        return await deeper()

    assert isinstance(Replay(deeper).error, RecursionError)


def test_an_agent_whose_code_takes_other_arguments_now_fails_with_a_sentence() -> None:
    replay = Replay(inner_agent.program({"town": "Lima"}))
    assert replay.finished
    assert isinstance(replay.error, InvalidInput)
    assert "cannot take this input" in str(replay.error)


def test_an_agent_may_use_up_its_input_and_still_repeats_itself() -> None:
    @agent(name="replay-test-popping")
    async def popping(cities: list[str]) -> list[str]:
        replies = []
        while cities:
            replies.append((await llm(cities.pop())).text)
        return replies

    given_input = {"cities": ["Lima", "Rome"]}
    program = popping.program(given_input)
    live = Replay(program)
    assert given_input == {"cities": ["Lima", "Rome"]}, "what is journaled is what was submitted"
    live.deliver(0, answer())
    assert prompts(live) == ["Rome", "Lima"]
    assert seen(replayed(program, as_journaled(live.asked), [(0, answer())])) == seen(live)


def test_an_agent_may_change_what_it_was_given_and_the_outcome_stays_as_it_is_journaled() -> None:
    async def body() -> list[Any]:
        found = await tool(look_up, "cities")
        reply = await llm("which?")
        return [found.pop(), reply.tool_calls.pop().name]

    outcomes = [
        Outcome(value=["Lima", "Rome"]),
        Outcome(
            response=LLMResponse(text="", tool_calls=[ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}")])
        ),
    ]
    for _ in range(2):
        assert run(body, *outcomes).result == ["Rome", "g"]


def test_a_tool_that_changes_its_arguments_does_not_change_the_program() -> None:
    places = ["Lima"]

    async def body() -> None:
        await tool(places_add, places, more={"a": [1]})

    command = Replay(body).asked[0].command
    assert isinstance(command, Tool)
    command.call()
    assert places == ["Lima"]
    assert command.request.args == [["Lima"]]
    assert command.request.kwargs == {"more": {"a": [1]}}


def places_add(places: list[str], more: dict[str, Any]) -> None:
    places.append("Rome")
    more["a"].append(2)


# Requests that cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: tool(look_up, object()),
        lambda: tool(look_up, x=float("nan")),
        lambda: tool(look_up, "\ud800"),
        lambda: llm("x", seed=object()),
        lambda: llm("\ud800"),
        lambda: llm("x", model=5),  # type: ignore[arg-type]
        lambda: llm("x", temperature="hot"),  # type: ignore[arg-type]
        lambda: llm("x", max_tokens=1.5),  # type: ignore[arg-type]
        lambda: llm(messages=[{"role": "user", 1j: "x"}]),  # type: ignore[dict-item]
    ],
)
def test_a_request_that_is_not_json_is_refused_at_its_await(make: Callable[[], LLM | Tool]) -> None:
    async def body() -> str:
        try:
            await make()
        except InvalidInput as error:
            return str(error)
        return "accepted"

    replay = Replay(body)
    assert replay.finished
    assert replay.result != "accepted"
    assert replay.asked == []
    assert isinstance(replay.refused, InvalidInput)
    assert "`" not in str(replay.refused).split(":", 1)[0]


def test_a_circular_request_is_refused_too() -> None:
    circle: list[Any] = []
    circle.append(circle)

    async def body() -> None:
        await llm(messages=[{"role": "user", "content": circle}])

    assert isinstance(Replay(body).error, InvalidInput)


def only_short(command: LLM | Tool, data: bytes) -> None:
    if len(data) > 100:
        raise InvalidInput("too long")


def test_an_agent_may_catch_a_refusal_and_its_replays_still_repeat_it() -> None:
    async def body() -> str:
        first = await llm("a")
        try:
            second = await llm("x" * 200)
        except InvalidInput:
            second = await llm("short")
        third = await llm("c")
        return str(first.text + second.text + third.text)

    live = Replay(body, admit=only_short)
    outcomes = [(n, answer(str(n))) for n in range(3)]
    for number, outcome in outcomes:
        live.deliver(number, outcome)
        other = Replay(body, as_journaled(live.asked), admit=only_short)
        for n, o in outcomes[: number + 1]:
            other.deliver(n, o)
        other.check_complete()
        assert seen(other) == seen(live)
        assert not isinstance(other.error, ProgramChanged)
    assert live.result == "012"


def test_a_step_that_was_admitted_once_is_not_refused_on_replay() -> None:
    def nobody(command: LLM | Tool, data: bytes) -> None:
        raise UnknownName("no such model any more")

    async def body() -> str:
        return str((await llm("a", model="old")).text)

    live = Replay(body)
    other = Replay(body, as_journaled(live.asked), admit=nobody)
    other.deliver(0, answer("kept"))
    assert other.result == "kept"


def test_the_order_of_a_set_does_not_change_a_step() -> None:
    def asked_with(value: Any) -> str:
        async def body() -> None:
            await tool(look_up, value)

        return Replay(body).asked[0].digest

    # Two sets that are equal and are iterated in different orders (8 and 0 share a slot).
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)
    assert asked_with(one) == asked_with(other)


def test_a_huge_answer_and_a_huge_result_pass_through() -> None:
    async def body() -> str:
        return str((await llm("a")).text * 2)

    assert len(run(body, answer("x" * 5_000_000)).result) == 10_000_000


# Awaiting what is not ours ------------------------------------------------------------------------------


class _Never:
    def __await__(self) -> Generator[Any, Any, Any]:
        yield "something odd"


async def _never() -> None:
    await _Never()


async def _in_a_gather() -> None:
    await gather(llm("a"), _never())


def test_a_foreign_await_in_a_branch_ends_the_program_at_once() -> None:
    replay = Replay(_in_a_gather)
    assert isinstance(replay.error, InvalidInput)


async def test_awaiting_a_step_outside_of_a_fleet_says_to_submit_the_agent() -> None:
    for command in (llm("a"), tool(look_up, "x"), gather(llm("a"))):
        with pytest.raises(RuntimeError, match="only be awaited inside an agent"):
            await command


async def test_a_turn_ends_where_it_began() -> None:
    async def body() -> None:
        assert in_turn.get()
        await llm("a")

    Replay(body)
    assert not in_turn.get()
    with pytest.raises(RuntimeError, match="submit the agent"):
        await llm("b")


# Programs that do not repeat themselves -----------------------------------------------------------------


def _changing(first: str, second: str) -> tuple[Body, Body]:
    async def before() -> None:
        await llm("same")
        await llm(first)

    async def after() -> None:
        await llm("same")
        await llm(second)

    return before, after


def test_a_changed_program_gets_the_step_what_was_journaled_and_what_was_asked_now() -> None:
    before, after = _changing("about Lima", "about Rome")
    live = run(before, answer())
    other = replayed(after, as_journaled(live.asked), [(0, answer())])
    assert isinstance(other.error, ProgramChanged)
    text = str(other.error)
    for part in ("Step 1", "journaled as llm 'about Lima'", "asked for llm 'about Rome'", "tool()"):
        assert part in text
    assert other.error.detail == {"step": 1}


def test_the_authors_line_is_named_and_the_place_where_long_requests_differ() -> None:
    def body(tag: str, temperature: float) -> Body:
        async def inner() -> None:
            await llm("word " * 50 + tag + " word" * 50, temperature=temperature)

        async def outer() -> None:
            await gather(llm("same"), inner())

        return outer

    live = Replay(body("Lima", 0.5))
    other = replayed(body("Rome", 0.5), as_journaled(live.asked), [])
    text = str(other.error)
    assert "journaled as llm …word word" in text
    assert "word Lima word" in text
    assert "word Rome word" in text
    assert text.endswith('await llm("word " * 50 + tag + " word" * 50, temperature=temperature)')
    assert f'{__file__}", line ' in text
    other = replayed(body("Lima", 0.25), as_journaled(live.asked), [])
    assert '"temperature":0.5' in str(other.error)
    assert '"temperature":0.25' in str(other.error)


def test_a_program_that_asks_for_another_kind_of_step_has_changed() -> None:
    async def before() -> None:
        await llm("a")

    async def after() -> None:
        await tool(look_up, "a")

    other = replayed(after, as_journaled(Replay(before).asked), [])
    assert isinstance(other.error, ProgramChanged)
    assert "look_up('a')" in str(other.error)


def test_a_program_that_asks_for_less_has_changed_whether_it_waits_or_has_ended() -> None:
    async def both() -> None:
        await gather(llm("a"), llm("b"))

    async def one() -> None:
        await llm("a")

    async def none() -> str:
        return "done"

    journal = as_journaled(Replay(both).asked)
    for body, number in ((one, 1), (none, 0)):
        replay = replayed(body, journal, [])
        assert replay.finished
        assert isinstance(replay.error, ProgramChanged)
        assert replay.error.detail == {"step": number}
    ended = replayed(one, journal, [(0, answer())])
    assert isinstance(ended.error, ProgramChanged)
    assert "has ended" in str(ended.error)


def test_a_changed_program_cannot_catch_that_and_go_on() -> None:
    async def before() -> None:
        await llm("a")

    async def after() -> str:
        try:
            await llm("b")
        except BaseException:
            return "swallowed"
        return "never"

    other = replayed(after, as_journaled(Replay(before).asked), [])
    assert isinstance(other.error, ProgramChanged)
    assert other.result is None


def test_an_outcome_that_nobody_waits_for_is_a_changed_program() -> None:
    async def body() -> None:
        await llm("a")

    replay = Replay(body)
    replay.deliver(7, answer())
    assert isinstance(replay.error, ProgramChanged)
    assert "Step 7" in str(replay.error)
    assert replay.version == 1
    replay.close()


def test_a_change_in_the_middle_of_a_gather_leaves_no_coroutine_behind() -> None:
    async def part(name: str) -> None:
        await llm(name)

    def body(first: str) -> Body:
        async def whole() -> None:
            await gather(part(first), part("b"), gather(part("c"), gather(part("d"))))

        return whole

    live = Replay(body("a"))
    other = replayed(body("changed"), as_journaled(live.asked), [])
    assert isinstance(other.error, ProgramChanged)
    other.close()
    live.close()


def test_prompts_are_shortened_in_errors() -> None:
    before, after = _changing("x" * 1000, "y" * 1000)
    live = run(before, answer())
    error = replayed(after, as_journaled(live.asked), [(0, answer())]).error
    assert len(str(error)) < 600


# Dropping a program -------------------------------------------------------------------------------------


def test_finally_blocks_run_once_when_a_program_is_dropped() -> None:
    ran: list[str] = []

    async def part(name: str) -> None:
        try:
            await llm(name)
        finally:
            ran.append(name)

    async def middle() -> None:
        try:
            await gather(part("a"), part("b"))
        finally:
            ran.append("middle")

    async def body() -> None:
        try:
            await gather(middle(), part("c"))
        finally:
            ran.append("body")

    replay = Replay(body)
    replay.close()
    replay.close()
    assert sorted(ran) == ["a", "b", "body", "c", "middle"]
    assert ran.index("middle") > max(ran.index("a"), ran.index("b")), "inner parts first"
    assert ran[-1] == "body"


async def _steps_in_finally() -> None:
    try:
        await llm("a")
    finally:
        await tool(look_up, "clean up")


async def _raises_in_finally() -> None:
    try:
        await llm("a")
    finally:
        raise ValueError("mine")


async def _insists_in_finally() -> None:
    try:
        await llm("a")
    finally:
        while True:
            try:
                await tool(look_up, "again and again")
                break
            except Exception:
                continue


async def _swallows_the_end() -> None:
    try:
        await llm("a")
    except BaseException:
        await llm("b")


async def _swallows_everything_and_returns() -> str:
    try:
        await llm("a")
    except BaseException:
        return "swallowed"
    return "done"


async def _leaves_the_process_in_finally() -> None:
    try:
        await llm("a")
    finally:
        raise SystemExit(1)


async def _gathers_in_finally() -> None:
    async def part() -> None:
        await llm("b")

    try:
        await llm("a")
    finally:
        await gather(part(), gather(part(), llm("c")))


async def _changes_before_the_rest_begins() -> None:
    async def part() -> None:
        await llm("b")

    await gather(_never(), part(), gather(part(), part()))


@pytest.mark.parametrize(
    "body",
    [
        _steps_in_finally,
        _gathers_in_finally,
        _changes_before_the_rest_begins,
        _raises_in_finally,
        _insists_in_finally,
        _swallows_the_end,
        _swallows_everything_and_returns,
        _leaves_the_process_in_finally,
    ],
)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_a_program_that_does_not_want_to_end_is_dropped_without_a_word(body: Body, how: str) -> None:
    replay = Replay(body)
    if how == "closed":
        replay.close()
    del replay
    gc.collect()
    assert not in_turn.get()


def test_a_step_in_a_finally_block_is_a_step_like_any_other_while_the_program_runs() -> None:
    async def body() -> str:
        try:
            return str((await llm("a")).text)
        finally:
            await tool(look_up, "clean up")

    replay = run(body, answer("kept"), Outcome(value=None))
    assert replay.result == "kept"
    assert prompts(replay)[1] == "look_up"


def test_a_dropped_program_takes_no_more_outcomes() -> None:
    async def body() -> None:
        await llm("a")

    replay = Replay(body)
    replay.close()
    assert replay.closed
    with pytest.raises(RuntimeError, match="replay the journal"):
        replay.deliver(0, answer())


def test_an_ended_program_counts_outcomes_and_changes_no_more() -> None:
    async def body() -> str:
        return "done"

    replay = Replay(body)
    replay.deliver(0, answer())
    assert (replay.version, replay.result, replay.error) == (1, "done", None)


async def in_a_row(turns: int) -> str:
    said = ""
    for turn in range(turns):
        said = (await llm(f"question {turn} {said}")).text
    return said


async def at_once(branches: int) -> int:
    return len(await gather(*(llm(f"branch {n}") for n in range(branches))))


@pytest.mark.parametrize(("agent", "calls"), [(in_a_row, 70), (at_once, 110)])
def test_a_replay_costs_few_calls_of_functions_a_step(
    agent: Callable[[int], Coroutine[Any, Any, Any]], calls: int
) -> None:
    """Of Python's and C's: what the machine has to do with it is left out. 65 and 102 at 3.11."""
    steps = 300
    outcomes = [(n, answer(f"answer {n}")) for n in range(steps)]
    live = Replay(lambda: agent(steps))
    live.follow(outcomes)
    journal = as_journaled(live.asked)
    count = 0

    def seen(frame: Any, what: str, arg: Any) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        again = Replay(lambda: agent(steps), journal)
        again.follow(outcomes)
    finally:
        sys.setprofile(before)
    assert again.finished
    assert again.error is None
    assert count / steps < calls
