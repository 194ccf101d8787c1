"""A fleet that was used before a fork: parent and children each keep to their own lines."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aios_dist import Fleet, agent
from tests.producers.agents import echo
from tests.producers.conftest import Scripts

CHILDREN = 6
THREADS = 8
END_S = 20.0

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def child(work: Callable[[], Any]) -> Callable[[], Any]:
    """Fork; what ``work`` gives there, as JSON, for who calls the returned function."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                said = work()
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(write, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(write)

    def answer() -> Any:
        end = time.monotonic() + END_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                os.close(read)
                return "hangs"
            time.sleep(0.005)
        with os.fdopen(read, "rb") as pipe:
            return json.loads(pipe.read() or b'"ended without a word"')

    return answer


def test_threads_of_children_that_use_an_inherited_fleet_at_once_all_get_their_answers(fleet: Fleet) -> None:
    fleet.submit(echo, value=0)
    asked, stop = Counter[str](), threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            try:
                fleet.jobs(5)
                asked["ok"] += 1
            except BaseException as error:
                asked[repr(error)] += 1

    def use(number: int) -> dict[str, int]:
        said, go = Counter[str](), threading.Barrier(THREADS)

        def one(thread: int) -> None:
            go.wait()
            try:
                job = fleet.submit(echo, value=thread, id=f"c{number}.{thread}")
                said["ok" if job.result(10) == thread else "another's answer"] += 1
            except BaseException as error:
                said[repr(error)] += 1

        threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(END_S / 2)
        return said

    parent = threading.Thread(target=ask_on)
    parent.start()
    try:
        for number in range(CHILDREN):
            assert child(lambda number=number: use(number))() == {"ok": THREADS}
    finally:
        stop.set()
        parent.join()
    assert set(asked) == {"ok"}, asked


def test_what_was_begun_before_the_fork_is_refused_in_the_child_and_goes_on_in_the_parent(
    fleet: Fleet,
) -> None:
    jobs = fleet.submit_many([echo.job(value=n) for n in range(3)])
    going = fleet.as_completed(jobs)
    first = next(going)
    assert child(lambda: list(going))().startswith("FleetUnavailable: This was begun in the process that")
    assert {first.id, *(job.id for job in going)} == {job.id for job in jobs}


def test_a_fork_in_a_first_turn_ends_the_call_in_the_child_alone(fleet: Fleet) -> None:
    read, write = os.pipe()
    pids: list[int] = []

    @agent
    async def splits() -> str:
        pids.append(os.fork())
        return "whole"

    try:
        said = fleet.submit(splits).result(10)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    if pids == [0]:
        os.write(write, f"{said} {fleet.submit(echo, value='child').result(10)}".encode())
        os._exit(0)
    assert said == "whole"
    os.waitpid(pids[0], 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        heard = pipe.read()
    assert heard.startswith("FleetUnavailable: This was begun in the process that")
    assert heard.endswith(" child")


def test_closing_in_a_child_closes_nothing_of_the_parents(fleet: Fleet) -> None:
    fleet.submit(echo, value=0)
    assert child(fleet.close)() is None
    assert child(lambda: fleet.close() or fleet.jobs())().startswith(
        "FleetUnavailable: This fleet has been closed"
    )
    assert fleet.submit(echo, value=1).result(10) == 1


def test_a_child_that_collects_ends_or_fails_leaves_the_parent_its_line(scripts: Scripts) -> None:
    [(code, text)] = scripts("""
import gc
fleet = Fleet(config)
jobs = fleet.submit_many([echo.job(value=n) for n in range(3)])

async def collect():
    gc.collect()

def whole():
    for number, job in enumerate(fleet.as_completed(jobs)):
        if os.fork() == 0:
            if number == 0:
                fleet.submit(echo, value=number)
                fleet._run(lambda _: collect())
            if number == 1:
                raise ValueError("the child's own")
            sys.exit(3)
        _, status = os.wait()
        begun = time.monotonic()
        assert fleet.submit(echo, value=job.id).result(10) == job.id
        print("child", os.waitstatus_to_exitcode(status), "parent", time.monotonic() - begun < 3, flush=True)

whole()
""")
    said = [line for line in text.splitlines() if line.startswith("child")]
    assert (code, said) == (0, [f"child {how} parent True" for how in (3, 1, 3)]), text


def test_an_async_fleet_and_its_handles_work_on_a_loop_of_the_child_and_go_on_in_the_parent(
    scripts: Scripts,
) -> None:
    [(code, text)] = scripts("""
fleet = AsyncFleet(config)
loop = asyncio.new_event_loop()
job = loop.run_until_complete(fleet.submit(echo, value="before"))
for number in range(2):
    if os.fork() == 0:
        async def use():
            return await (await fleet.submit(echo, value=number)).result(10), await job.result(10)
        print("child", asyncio.run(use()), flush=True)
        sys.exit(0)
    os.wait()
    print("parent", loop.run_until_complete(job.result(10)), flush=True)
""")
    said = [line for line in text.splitlines() if line.startswith(("child", "parent"))]
    assert said == [line for n in range(2) for line in (f"child ({n}, 'before')", "parent before")], text
    assert code == 0


@pytest.mark.parametrize("made_by", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_an_async_iterator_is_refused_in_a_child_which_takes_no_line_of_the_parents_off_its_loop(
    scripts: Scripts, made_by: str
) -> None:
    [(code, text)] = scripts(
        """
loop = MAKE()
fleet = AsyncFleet(config)

async def begin(kind):
    job, done = await fleet.submit(ask, text=kind), await fleet.submit(echo)
    going = job.events() if kind == "events" else fleet.as_completed([done, job])
    for _ in range(1 + (kind == "events")):
        await anext(going)
    waiting = asyncio.create_task(job.result())
    await asyncio.sleep(0.2)  # they all listen
    return job, going, waiting

async def go_on(going):
    return await anext(going)

async def close(going):
    return await going.aclose()

async def fork_and_leave():
    if os.fork() == 0:
        raise SystemExit("left")

def leave(going):
    try:
        loop.run_until_complete(fork_and_leave())
    except SystemExit as left:  # as asyncio.run does it
        asyncio.runners._cancel_all_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(asyncio.sleep(0.3))  # what comes in meanwhile is the parent's
        print("child", left, flush=True)
        os._exit(0)

ways = [lambda going: asyncio.run(go_on(going)), lambda going: asyncio.run(close(going)), leave]
for kind in ("events", "as_completed"):
    for number, way in enumerate(ways[: 3 if "asyncio" in "MAKE" else 2]):
        job, going, waiting = loop.run_until_complete(begin(kind))
        if way is leave:
            way(going)
        elif os.fork() == 0:
            try:
                print("child", way(going), flush=True)
            except BaseException as error:
                print("child", type(error).__name__, flush=True)
            os._exit(0)
        with Fleet(config) as other:
            other.job(job.id).cancel()
        os.wait()
        begun = time.monotonic()
        loop.run_until_complete(go_on(going))
        loop.run_until_complete(asyncio.wait([waiting]))
        print("parent", time.monotonic() - begun < 5, flush=True)
""".replace("MAKE", made_by),
        first="import uvloop\n",
    )
    said = [line for line in text.splitlines() if line.startswith(("child", "parent"))]
    children = ["FleetUnavailable", "None", "left"][: 3 if made_by.startswith("asyncio") else 2]
    assert said == 2 * [line for how in children for line in (f"child {how}", "parent True")], text
    assert code == 0
