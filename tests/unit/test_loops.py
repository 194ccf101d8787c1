"""Loops of all makes in an agent: none of them begins in a turn, and no ``except`` hides that one was to."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import anyio
import pytest
import uvloop
from asgiref.sync import async_to_sync, sync_to_async

from aios_dist.errors import InvalidInput
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from aios_dist.program.commands import llm
from aios_dist.program.replay import Replay
from aios_dist.text.tracebacks import user_traceback
from tests.unit.test_foreign import SENTENCE

trio: Any = import_module("trio") if find_spec("trio") else None  # nothing of ours needs it

Body = Callable[[], Coroutine[Any, Any, Any]]
BODIES: list[Any] = []
YES = Outcome(response=LLMResponse(text="yes"))


def misuse(body: Body) -> Body:
    BODIES.append(body)
    return body


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A coroutine that an agent hands to a loop is never awaited: the agent's own mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


async def soon() -> str:
    await asyncio.sleep(0.001)
    return "ran"


async def at_once() -> str:
    return "ran"


@misuse
async def uvloop_run() -> None:
    uvloop.run(soon())


@misuse
async def a_loop_of_uvloops() -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(at_once())
    finally:
        loop.close()


@misuse
async def a_loop_of_uvloops_for_ever() -> None:
    loop = uvloop.new_event_loop()
    loop.call_soon(loop.stop)
    try:
        loop.run_forever()
    finally:
        loop.close()


@misuse
async def asgirefs_async_to_sync() -> None:
    async_to_sync(at_once)()


@misuse
async def asgirefs_async_to_sync_on_a_new_loop() -> None:
    async_to_sync(at_once, force_new_loop=True)()


@misuse
async def asgirefs_sync_to_async() -> None:
    await sync_to_async(len)("abc")


@misuse
async def anyio_run() -> None:
    anyio.run(at_once)


@misuse
async def anyio_thread() -> None:
    await anyio.to_thread.run_sync(len, "abc")


@misuse
async def no_loop_is_said_to_run() -> None:
    asyncio._set_running_loop(None)
    asyncio.run(soon())


@misuse
async def a_loop_that_asks_nobody() -> None:
    """As curio's and trio's: all that it has in common with others are the hooks for generators."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        at_once().send(None)
    except StopIteration:
        pass
    finally:
        sys.set_asyncgen_hooks(*hooks)


class Patched(asyncio.SelectorEventLoop):
    """As nest_asyncio's: it runs wherever it is asked to."""

    def run_until_complete(self, future: Any) -> Any:
        asyncio.events._set_running_loop(self)
        self.ran = True
        return None


@misuse
async def a_loop_that_runs_within_another() -> None:
    loop = Patched()
    try:
        loop.run_until_complete(at_once())
    finally:
        loop.close()
    assert not hasattr(loop, "ran")


if trio is not None:

    @misuse
    async def trio_run() -> None:
        trio.run(at_once)

    @misuse
    async def trio_sleep() -> None:
        await trio.sleep(1)

    @misuse
    async def trio_timeout() -> None:
        with trio.move_on_after(1):
            await llm("a")


async def _on_a_loop(made: Callable[[], Replay]) -> Replay:
    return made()


WHERE: dict[str, Callable[[Callable[[], Replay]], Replay]] = {
    "in a thread": lambda made: made(),
    "on asyncio's loop": lambda made: asyncio.run(_on_a_loop(made)),
    "on uvloop's": lambda made: uvloop.run(_on_a_loop(made)),
}
if trio is not None:
    WHERE["in trio"] = lambda made: trio.run(_on_a_loop, made)


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
@pytest.mark.parametrize("where", WHERE)
def test_whoever_begins_a_loop_in_a_turn_gets_the_sentence_and_his_except_does_not_hide_it(
    body: Body, where: str
) -> None:
    async def sorry() -> str:
        try:
            await body()
        except BaseException:
            await llm("something else")
        return "all is well"

    replay = WHERE[where](lambda: Replay(sorry))
    assert type(replay.error) is InvalidInput
    assert re.search(SENTENCE, str(replay.error))
    assert replay.refused is replay.error, "turn 0 says so at submit"
    assert not replay.asked, "nothing was paid for"
    assert f", in {body.__name__}" in user_traceback(replay.error), "its author sees the line"


def test_a_thread_of_the_agents_own_is_its_computing_and_runs_again_at_each_replay() -> None:
    async def body() -> str:
        with ThreadPoolExecutor(1) as pool:
            found = [pool.submit(run, at_once()).result() for run in (asyncio.run, uvloop.run)]
        return f"{found} {(await llm('a')).text}"

    for _ in range(2):
        replay = Replay(body)
        replay.deliver(0, YES)
        assert replay.result == "['ran', 'ran'] yes"


POOL = ThreadPoolExecutor(1)
POOL.submit(int).result()


def in_a_pool(run: Callable[..., Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def in_a_thread(run: Callable[..., Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run()))
    thread.start()
    thread.join()
    return found[0]


def in_a_portal(run: Callable[..., Any]) -> Any:
    with anyio.from_thread.start_blocking_portal() as portal:
        return portal.call(ask)


async def ask() -> str:
    try:
        return str((await llm("a")).text)
    except RuntimeError:
        return "no answer"


@pytest.mark.parametrize(
    "begins",
    [in_a_pool, in_a_thread, in_a_portal, lambda run: POOL.submit(run).result()],
    ids=["in a pool", "in a thread", "in a portal", "in a pool that was there"],
)
def test_what_is_ours_and_awaited_in_a_thread_of_the_agents_fails_its_job(begins: Any) -> None:
    async def body() -> str:
        begins(lambda: asyncio.run(ask()))
        await llm("b")
        return "all is well"

    replay = Replay(body)
    assert re.match(r"The agent awaited llm\(\) in a thread of its own", str(replay.error))
    assert type(replay.error) is InvalidInput
    assert not replay.asked
    assert "<locals>.body" in user_traceback(replay.error), "where the agent stood then"


def test_a_thread_that_outlives_its_turn_is_nobodys() -> None:
    go_on, threads = threading.Event(), []

    def waits() -> None:
        go_on.wait(10)
        with pytest.raises(RuntimeError, match="can only be awaited inside an agent"):
            asyncio.run(llm_alone())

    async def llm_alone() -> None:
        await llm("a")

    async def body() -> str:
        threads.append(threading.Thread(target=waits))
        threads[0].start()
        return str((await llm("b")).text)

    replay = Replay(body)
    go_on.set()
    threads[0].join(10)
    replay.deliver(0, YES)
    assert replay.result == "yes"


class Remote:
    """As a client that makes a call of whatever name it is asked for."""

    def __getattr__(self, name: str) -> Remote:
        return Remote()

    def __call__(self, x: int) -> int:
        return x


def test_threads_run_what_answers_to_every_name() -> None:
    async def body() -> int:
        return POOL.submit(Remote().anything, 7).result()

    assert Replay(body).result == 7


def test_a_loops_class_begins_as_its_other_bases_say() -> None:
    class Flagged:
        flag = ""

        def __init_subclass__(cls, flag: str, **kwargs: Any) -> None:
            cls.flag = flag
            super().__init_subclass__(**kwargs)

    class Loop(asyncio.AbstractEventLoop, Flagged, flag="set"):
        pass

    assert Loop.flag == "set"


def test_loops_of_other_threads_run_while_a_turn_runs() -> None:
    in_the_turn, go_on = threading.Event(), threading.Event()

    async def body() -> str:
        in_the_turn.set()
        go_on.wait(10)
        return "done"

    with ThreadPoolExecutor(1) as pool:
        replay = pool.submit(Replay, body)
        assert in_the_turn.wait(10)
        try:
            loop = uvloop.new_event_loop()
            assert [asyncio.run(soon()), uvloop.run(soon()), anyio.run(soon)] == ["ran"] * 3
            assert [async_to_sync(soon)(), loop.run_until_complete(soon())] == ["ran"] * 2
            loop.close()
        finally:
            go_on.set()
        assert replay.result().result == "done"


def test_who_only_asks_which_loop_runs_uses_nothing() -> None:
    async def body() -> bool:
        loops = [asyncio._get_running_loop(), asyncio.get_running_loop(), asyncio.get_event_loop()]
        return all(loop is loops[0] for loop in loops) and asyncio.current_task() is not None

    assert Replay(body).result is True


def test_what_trio_knows_of_a_thread_is_away_for_the_turn_and_back_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a producer that runs under trio; the stand-in is laid out as trio itself is."""

    class RunContext(threading.local):
        runner: Any

    context = RunContext()
    context.runner = "trio's"
    module: Any = ModuleType("trio._core._run")
    module.GLOBAL_RUN_CONTEXT = context

    def in_trio_run() -> bool:
        return hasattr(context, "runner")

    async def asks() -> bool:
        return in_trio_run()

    async def sleeps() -> None:
        try:
            context.runner  # noqa: B018
        except BaseException:
            pass

    monkeypatch.setitem(sys.modules, "trio._core._run", module)
    assert Replay(asks).result is False
    assert isinstance(Replay(sleeps).error, InvalidInput)
    assert context.runner == "trio's"
    del context.runner
    assert not hasattr(context, "runner"), "outside of turns it is as ever"


FIRST_TURNS = """
import threading, time
from aios_dist.program import foreign
from aios_dist.program.replay import Replay

watch = foreign._loops.watch
begun = threading.Barrier(4)

def slowly():
    time.sleep(0.2)  # the others come to it meanwhile
    watch()

async def body():
    return "ran"

def first():
    begun.wait()
    said.append(Replay(body).error or Replay(body).result)

foreign._loops.watch = slowly
said = []
threads = [threading.Thread(target=first) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(said)
"""


def test_the_first_turns_of_a_process_may_begin_on_several_threads_at_once() -> None:
    """A worker's first two turns did: one of them failed, and its job with it."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_TURNS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{['ran'] * 4}\n"
