"""What is asyncio's, anyio's or an SDK's gets one clear sentence in an agent, whoever would raise what."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import aiohttp
import anyio
import greenback
import httpx2
import pytest

from aios_dist.errors import InvalidInput
from aios_dist.model.calls import LLMResponse
from aios_dist.model.given import as_json
from aios_dist.model.jobs import Outcome
from aios_dist.program import turns
from aios_dist.program.commands import gather, llm
from aios_dist.program.replay import Replay
from aios_dist.text.tracebacks import user_traceback
from tests.sdks import anthropic, openai

Body = Callable[[], Coroutine[Any, Any, Any]]
SENTENCE = r"^The agent awaited .*awaits only llm\(\), tool\(\), gather\(\), sleep\(\) and signal\(\)"
NOBODY = "http://127.0.0.1:9"
BODIES: list[Body] = []


def misuse(body: Body) -> Body:
    BODIES.append(body)
    return body


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


THEIR_OWN = {"anyio_run", "asyncio_wait", "greenback_await", "greenback_portal"}
"""What refuses its arguments, or to run, by itself, and asks neither a loop nor a task."""

CAUGHT = [body for body in BODIES if body.__name__ not in THEIR_OWN]


@pytest.mark.parametrize("clause", [Exception, BaseException], ids=lambda c: c.__name__)
def test_the_agents_own_except_does_not_hide_it(clause: type[BaseException]) -> None:
    async def sorry(body: Body) -> str:
        try:
            await body()
        except clause:
            await llm("something else")
        return "sorry, the model is not there"

    for body in CAUGHT:
        replay = Replay(lambda body=body: sorry(body))  # type: ignore[misc]
        error = replay.error
        assert type(error) is InvalidInput, body.__name__
        assert re.search(SENTENCE, str(error)), body.__name__
        assert replay.refused is error, "turn 0 says so at submit"
        assert not replay.asked, "nothing was paid for"
        assert f", in {body.__name__}" in user_traceback(error), "its author sees the line"
        replay.close()


@pytest.mark.parametrize("made", [asyncio.Semaphore, asyncio.Lock], ids=lambda m: m.__name__)
def test_a_lock_that_somebody_waits_for_fails_the_job_at_the_first_wait(made: Any) -> None:
    async def one(lock: Any, name: str) -> str:
        try:
            async with lock:
                return str((await llm(name)).text)
        except Exception:
            return "sorry"

    async def body() -> list[str]:
        lock = made()
        return list(await gather(one(lock, "a"), one(lock, "b")))

    with pytest.raises(InvalidInput, match=r"gather\(…, limit=n\)"):
        raise Replay(body).error or AssertionError


def test_it_is_the_job_that_fails_also_in_a_branch_whose_errors_are_kept() -> None:
    async def body() -> list[str]:
        both = await gather(llm("a"), anyio_event(), return_exceptions=True)
        return [type(one).__name__ for one in both]

    with pytest.raises(InvalidInput, match=SENTENCE):
        raise Replay(body).error or AssertionError


def test_a_loop_that_tries_again_for_ever_ends() -> None:
    async def body() -> None:
        while True:
            try:
                await asyncio.sleep(1)
            except Exception:
                continue

    assert isinstance(Replay(body).error, InvalidInput)


def test_who_only_asks_uses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> str:
        logging.getLogger("mine").warning("hello")
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[int]()
        queue.put_nowait(1)
        return f"{loop.is_running()} {loop.is_closed()} {await queue.get()} {(await llm('a')).text}"

    replay = Replay(body)
    replay.deliver(0, Outcome(response=LLMResponse(text="yes")))
    assert replay.result == "True False 1 yes"
    assert caplog.messages == ["hello"]


def test_what_garbage_tries_is_not_the_agents_doing() -> None:
    class Client:
        def __del__(self) -> None:
            asyncio.get_running_loop().create_task(soon())

    async def body() -> str:
        Client()
        return str((await llm("a")).text)

    replay = Replay(body)
    replay.deliver(0, Outcome(response=LLMResponse(text="yes")))
    assert replay.result == "yes"


async def test_outside_of_turns_asyncio_is_as_it_was() -> None:
    Replay(asyncio_sleep)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(soon())
    await asyncio.to_thread(asyncio.run, asyncio.wait_for(soon(), 5))
    with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
        asyncio.run(soon())
    assert isinstance(asyncio.current_task(), asyncio.Task)


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
