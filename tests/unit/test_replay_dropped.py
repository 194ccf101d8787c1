"""Where a program is closed: users' ``finally`` blocks run on a thread that is there for them."""

from __future__ import annotations

import gc
import inspect
import threading
from collections.abc import Callable, Iterator

import pytest

from aios_dist.errors import ProgramChanged, RateLimited
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from aios_dist.program import replay as replays
from aios_dist.program.branches import drop
from aios_dist.program.commands import gather, llm
from aios_dist.program.foreign import handed_over
from aios_dist.program.replay import Replay

CLOSED_ON: list[str] = []


async def part(name: str) -> str:
    try:
        return str((await llm(name)).text)
    finally:
        CLOSED_ON.append(threading.current_thread().name)


async def body() -> None:
    await gather(part("a"), part("b"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What was given to be closed elsewhere."""
    CLOSED_ON.clear()
    todo: list[Callable[[], None]] = []
    monkeypatch.setattr(replays, "dispose", todo.append)
    yield todo
    for close in todo:
        close()


def on_a_thread(todo: list[Callable[[], None]]) -> None:
    thread = threading.Thread(target=lambda: [close() for close in todo], name="turns")
    thread.start()
    thread.join()
    todo.clear()


def test_a_forgotten_program_is_closed_on_the_thread_that_is_there_for_it(
    given: list[Callable[[], None]],
) -> None:
    Replay(body)
    assert (CLOSED_ON, len(given)) == ([], 1)
    on_a_thread(given)
    assert CLOSED_ON == ["turns", "turns"]
    gc.collect()
    assert not given, "once"


def test_a_program_in_a_circle_of_garbage_is_closed_there_too(given: list[Callable[[], None]]) -> None:
    circle: list[object] = [Replay(body)]
    circle.append(circle)
    del circle
    gc.collect()
    assert (CLOSED_ON, len(given)) == ([], 1)
    on_a_thread(given)
    assert CLOSED_ON == ["turns", "turns"]


def test_a_program_that_has_changed_leaves_its_branches_to_that_thread_too(
    given: list[Callable[[], None]],
) -> None:
    replay = Replay(body)
    replay.deliver(7, Outcome())
    assert isinstance(replay.error, ProgramChanged)
    del replay
    gc.collect()
    assert CLOSED_ON == []
    on_a_thread(given)
    assert CLOSED_ON == ["turns", "turns"]


def test_a_program_that_has_ended_needs_no_thread(given: list[Callable[[], None]]) -> None:
    held = len(replays._held)
    replay = Replay(body)
    replay.deliver(0, Outcome(response=LLMResponse(text="x")))
    replay.deliver(1, Outcome.failed(RateLimited("x")))
    assert isinstance(replay.error, RateLimited)
    gc.disable()
    try:
        del replay
        assert len(replays._held) == held, "an error's traceback does not keep the program"
    finally:
        gc.enable()
    assert not given


def test_errors_that_an_agent_keeps_do_not_keep_the_program(given: list[Callable[[], None]]) -> None:
    async def keeps() -> None:
        kept = await gather(part("a"), return_exceptions=True)
        await llm(str(kept))

    replay = Replay(keeps)
    replay.deliver(0, Outcome.failed(RateLimited("x")))
    gc.disable()
    try:
        del replay
        assert len(given) == 1, "forgotten at once: it is in no circle"
    finally:
        gc.enable()


def test_a_finally_can_tell_a_hand_over_from_the_programs_end() -> None:
    seen: list[str] = []

    async def tells() -> str:
        try:
            return str((await llm("a")).text)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        finally:
            seen.append("handed over" if handed_over() else "over")
            await llm("and what it awaits")

    async def both() -> None:
        await gather(tells(), llm("b"), return_exceptions=True)

    replay = Replay(both)
    replay.close()
    assert seen == ["HandOver", "handed over"]
    assert len(replay.asked) == 2, "what it awaits then is not done"
    seen.clear()
    replay = Replay(both)
    replay.deliver(0, Outcome.failed(RateLimited("x")))
    assert seen == ["RateLimited", "over"]
    assert len(replay.asked) == 3
    replay.close()
    assert not handed_over()


def test_a_programs_turn_in_the_midst_of_a_hand_over_is_no_hand_over() -> None:
    seen: list[bool] = []

    async def inner() -> None:
        seen.append(handed_over())

    async def outer() -> None:
        try:
            await llm("a")
        finally:
            Replay(inner)
            seen.append(handed_over())

    Replay(outer).close()
    assert seen == [False, True]


def test_without_a_thread_it_is_closed_at_once() -> None:
    CLOSED_ON.clear()
    Replay(body)
    here = threading.current_thread().name
    assert [here, here] == CLOSED_ON


def test_where_the_threads_are_gone_it_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(close: Callable[[], None]) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(replays, "dispose", gone)
    CLOSED_ON.clear()
    Replay(body)
    assert len(CLOSED_ON) == 2


def test_close_from_many_threads_runs_each_finally_once() -> None:
    CLOSED_ON.clear()
    replay = Replay(lambda: _many())
    start = threading.Barrier(4)

    def close() -> None:
        start.wait()
        replay.close()

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(CLOSED_ON) == 200
    assert replay.closed


async def _many() -> None:
    await gather(*(part(str(n)) for n in range(200)))


def test_close_while_a_turn_runs_leaves_it_to_the_turn() -> None:
    CLOSED_ON.clear()
    began, go_on = threading.Event(), threading.Event()

    async def computes() -> None:
        await llm("first")
        began.set()
        go_on.wait(10)
        await part("second")

    replay = Replay(lambda: _beside(computes()))
    outcome = Outcome(response=LLMResponse(text="x"))
    turn = threading.Thread(target=replay.deliver, args=(0, outcome), name="turns")
    turn.start()
    began.wait(10)
    replay.close()
    assert CLOSED_ON == []
    go_on.set()
    turn.join()
    assert CLOSED_ON == ["turns", "turns"]
    assert not replay.waits()
    assert id(replay) not in replays._held


async def _beside(other: object) -> None:
    await gather(other, part("beside"))  # type: ignore[arg-type]


def test_gathers_nested_as_deep_as_one_likes_are_dropped_without_a_word() -> None:
    async def nested() -> None:
        inner = gather(llm("x"))
        for _ in range(20_000):
            inner = gather(inner)
        await gather(llm("y"), gather(inner))

    for begun in (True, False):
        if begun:
            program = Replay(nested)
            assert [asked.command.request for asked in program.asked] == [llm("y").request, llm("x").request]
            program.close()
        else:
            branch = part("never begun")
            once = twice = gather(branch)
            for _ in range(20_000):
                once = twice = gather(once, twice)
            drop(once)
            assert inspect.getcoroutinestate(branch) == inspect.CORO_CLOSED
