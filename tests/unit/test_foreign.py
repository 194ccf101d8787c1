"""What is asyncio's, anyio's or an SDK's gets one clear sentence in an agent, whoever would raise what."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from aios_dist import turns
from aios_dist.agents import as_json
from aios_dist.calls import LLMResponse
from aios_dist.commands import gather, llm
from aios_dist.errors import InvalidInput, RateLimited
from aios_dist.jobs import Outcome
from aios_dist.replay import Replay

anthropic = pytest.importorskip("anthropic")
anyio = pytest.importorskip("anyio")
aiohttp = pytest.importorskip("aiohttp")
greenback = pytest.importorskip("greenback")
httpx2 = pytest.importorskip("httpx2")
openai = pytest.importorskip("openai")

Body = Callable[[], Coroutine[Any, Any, Any]]
SENTENCE = r"^The agent awaited .*awaits only llm\(\), tool\(\), gather\(\), sleep\(\) and signal\(\)"
NOBODY = "http://127.0.0.1:9"
BODIES: list[Body] = []


def misuse(body: Body) -> Body:
    BODIES.append(body)
    return body


@pytest.fixture(autouse=True, scope="module")
def young_garbage() -> Iterator[None]:
    """Only what these tests leave is looked through, each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A coroutine that an agent hands to asyncio is never awaited: the agent's own mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


async def soon() -> None:
    await asyncio.sleep(0.01)


@misuse
async def asyncio_sleep() -> None:
    await asyncio.sleep(1)


@misuse
async def asyncio_sleep_0() -> None:
    await asyncio.sleep(0)


@misuse
async def asyncio_timeout() -> None:
    async with asyncio.timeout(1):
        await llm("a")


@misuse
async def asyncio_timeout_of_nothing() -> None:
    async with asyncio.timeout(None):
        await llm("a")


@misuse
async def asyncio_wait_for() -> None:
    await asyncio.wait_for(llm("a"), 1)


@misuse
async def asyncio_wait() -> None:
    await asyncio.wait([soon()])  # type: ignore[type-var]


@misuse
async def asyncio_shield() -> None:
    await asyncio.shield(soon())


@misuse
async def asyncio_as_completed() -> None:
    for each in asyncio.as_completed([soon()]):
        await each


@misuse
async def asyncio_to_thread() -> None:
    await asyncio.to_thread(print)


@misuse
async def asyncio_create_task() -> None:
    await asyncio.create_task(soon())


@misuse
async def asyncio_ensure_future() -> None:
    await asyncio.ensure_future(soon())


@misuse
async def asyncio_gather() -> None:
    await asyncio.gather(llm("a"), llm("b"))


@misuse
async def asyncio_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(soon())


@misuse
async def asyncio_event() -> None:
    await asyncio.Event().wait()


@misuse
async def asyncio_queue() -> None:
    await asyncio.Queue[int]().get()


@misuse
async def asyncio_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


@misuse
async def asyncio_semaphore() -> None:
    async with asyncio.Semaphore(0):
        await llm("a")


@misuse
async def asyncio_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


@misuse
async def asyncio_barrier() -> None:
    await asyncio.Barrier(2).wait()


@misuse
async def asyncio_future() -> None:
    await asyncio.wrap_future(Future[int]())


@misuse
async def asyncio_connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


@misuse
async def asyncio_subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


@misuse
async def asyncio_run() -> None:
    asyncio.run(soon())


@misuse
async def asyncio_runner() -> None:
    with asyncio.Runner() as runner:
        runner.run(soon())


@misuse
async def a_loop_of_its_own() -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(soon())
    finally:
        loop.close()


@misuse
async def a_loop_for_ever() -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.call_soon(loop.stop)
        loop.run_forever()
    finally:
        loop.close()


@misuse
async def the_running_loop() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)


@misuse
async def the_policys_loop() -> None:
    asyncio.get_event_loop().run_until_complete(soon())


@misuse
async def anyio_sleep() -> None:
    await anyio.sleep(1)


@misuse
async def anyio_task_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)


@misuse
async def anyio_thread() -> None:
    await anyio.to_thread.run_sync(print)


@misuse
async def anyio_fail_after() -> None:
    with anyio.fail_after(1):
        await llm("a")


@misuse
async def anyio_event() -> None:
    await anyio.Event().wait()


@misuse
async def anyio_run() -> None:
    anyio.run(anyio.sleep, 0)


@misuse
async def greenback_portal() -> None:
    await greenback.ensure_portal()


@misuse
async def greenback_await() -> None:
    greenback.await_(llm("a"))


@misuse
async def openais_client() -> None:
    client = openai.AsyncOpenAI(api_key="x", base_url=NOBODY)
    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


@misuse
async def anthropics_client() -> None:
    client = anthropic.AsyncAnthropic(api_key="x", base_url=NOBODY)
    await client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}])


@misuse
async def httpxs_client() -> None:
    async with httpx2.AsyncClient() as client:
        await client.get(NOBODY)


@misuse
async def aiohttps_client() -> None:
    async with aiohttp.ClientSession() as session, session.get(NOBODY):
        pass


@misuse
async def wrapped_in_an_error_of_the_agents() -> None:
    try:
        await anyio.sleep(1)
    except Exception as error:
        raise KeyError("mine") from error


@misuse
async def in_a_group() -> None:
    try:
        await asyncio.sleep(1)
    except Exception as error:
        raise ExceptionGroup("several", [KeyError("a"), error]) from None


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
@pytest.mark.parametrize("where", ["in a worker's thread", "on a producer's loop"])
def test_what_is_not_ours_gets_the_one_clear_sentence(body: Body, where: str) -> None:
    async def on_a_loop() -> Replay:
        loop = asyncio.get_running_loop()
        replay = Replay(body)
        assert asyncio.get_running_loop() is loop, "given back"
        return replay

    replay = Replay(body) if where == "in a worker's thread" else asyncio.run(on_a_loop())
    assert type(replay.error) is InvalidInput
    assert replay.error.args
    with pytest.raises(InvalidInput, match=SENTENCE):
        raise replay.error
    assert replay.refused is replay.error, "turn 0 says so at submit"
    replay.close()


async def test_at_submit_it_is_raised_to_the_producer() -> None:
    with pytest.raises(InvalidInput, match=SENTENCE):
        turns.start(openais_client, turns.Catalog({}, None, 1000, 1000))


def test_a_branch_that_awaits_asyncio_is_told_so_too() -> None:
    async def body() -> list[str]:
        both = await gather(llm("a"), anyio_event(), return_exceptions=True)
        return [type(one).__name__ for one in both]

    replay = Replay(body)
    replay.deliver(0, Outcome(response=LLMResponse(text="yes")))
    assert replay.result == ["LLMResponse", "InvalidInput"]


def test_what_an_agent_caught_and_went_on_from_is_not_its_end() -> None:
    async def body() -> None:
        try:
            await asyncio.sleep(1)
        except InvalidInput:
            pass
        raise KeyError("mine")

    assert isinstance(Replay(body).error, KeyError)


@pytest.mark.parametrize("instead", [llm("b"), llm("b", max_tokens=-1)], ids=["fails", "is refused"])
def test_a_step_asked_for_instead_fails_with_its_own_error(instead: Any) -> None:
    async def body() -> None:
        try:
            await anyio.sleep(1)
        except Exception:
            await instead

    replay = Replay(body)
    if not replay.finished:
        replay.deliver(0, Outcome.failed(RateLimited("slow down")))
    assert str(replay.error).startswith(("slow down", "llm(): max_tokens"))


def test_errors_of_an_agents_own_stay_its_own() -> None:
    async def runtime() -> None:
        raise RuntimeError("mine")

    async def of_a_plain_queue() -> None:
        asyncio.Queue[int]().get_nowait()

    async def of_json() -> None:
        as_json({1j: 1}, "value")

    assert str(Replay(runtime).error) == "mine"
    assert isinstance(Replay(of_a_plain_queue).error, asyncio.QueueEmpty)
    assert "not JSON" in str(Replay(of_json).error)


async def test_a_generator_that_an_agent_leaves_is_not_finished_by_the_producers_loop() -> None:
    ran: list[bool] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ran.append(asyncio._get_running_loop() is loop)

    async def body() -> int:
        async for number in numbers():
            return number
        return 0

    loop = asyncio.get_running_loop()
    hooks = sys.get_asyncgen_hooks()
    assert Replay(body).result == 1
    assert sys.get_asyncgen_hooks() == hooks
    gc.collect()
    assert ran == [False]
