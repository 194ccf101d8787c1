"""Parts of a worker on their own: threads, live programs, background tasks, saved answers, keys of calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from celery.worker import state

from aios_dist import ToolError, agent, llm, tool
from aios_dist.config import Config
from aios_dist.journal import Claim
from aios_dist.journal.patience import Patience
from aios_dist.model.calls import LLMResponse, Usage
from aios_dist.model.jobs import JobRecord, Kind, Outcome, decode
from aios_dist.program.replay import Replay
from aios_dist.worker import programs, spool, telemetry, tools
from aios_dist.worker.background import Background
from aios_dist.worker.ending import OVERDUE
from aios_dist.worker.health import Health, most_lost, resident_bytes
from aios_dist.worker.limits import Stillness
from aios_dist.worker.programs import Live, Programs
from aios_dist.worker.shortages import Slots
from aios_dist.worker.spool import Answer, Answers
from aios_dist.worker.steps import Machine, Steps, billed, idempotency_key, kept
from aios_dist.worker.threads import Run, Threads, rested
from aios_dist.worker.work import Origin, Stopped, Work

MB = 1024 * 1024


def claim(step: str = "0", token: str = "t", basis: str = "cbirth.digest") -> Claim:
    record = JobRecord(agent="a", input={})
    return Claim(
        "job", step, 1, Kind.LLM, "small", record, b"", 0, 0, 0, token=token, basis=basis, digest="d"
    )


def work() -> Work:
    return Work(claim(), Origin())


async def ended(threads: Threads, run: Run, limit: float = 0.0) -> bool:
    return await threads.attend(run, work(), limit)


# Threads ------------------------------------------------------------------------------------------------


async def test_whatever_a_function_raises_stays_in_its_run() -> None:
    threads = Threads("test", 1)
    for error in (StopIteration(1), SystemExit(2), KeyboardInterrupt(), GeneratorExit(), ValueError()):

        def fail(error: BaseException = error) -> None:
            raise error

        run = threads.start("fails", fail)
        assert await ended(threads, run)
        assert run.error is error


async def test_no_more_threads_than_allowed_and_the_rest_waits() -> None:
    threads, free, at_work = Threads("test", 2), threading.Event(), []

    def hold() -> None:
        at_work.append(threading.current_thread().name)
        free.wait(10)

    runs = [threads.start("holds", hold) for _ in range(5)]
    while len(at_work) < 2:  # noqa: ASYNC110  # a thread says it
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    assert len(at_work) == 2
    free.set()
    assert all([await ended(threads, run) for run in runs])
    assert len(set(at_work)) == 2


async def test_a_lost_thread_is_replaced_and_named_until_it_comes_back() -> None:
    threads, free = Threads("test", 1), threading.Event()
    hung = threads.start("hangs", lambda: free.wait(10))
    assert not await ended(threads, hung, limit=0.05)
    assert list(threads.lost) == [hung]
    again = threads.start("goes on", lambda: "well")
    assert await ended(threads, again)
    assert again.result() == "well"
    free.set()
    while threads.lost:  # noqa: ASYNC110  # its thread comes back by itself
        await asyncio.sleep(0.005)
    assert await ended(threads, threads.start("and on", lambda: None))
    assert threads.alive == 1


async def test_the_limit_counts_from_the_beginning_and_not_in_the_queue() -> None:
    threads = Threads("test", 1)
    first = threads.start("first", lambda: time.sleep(0.15))
    second = threads.start("second", lambda: time.sleep(0.15))
    assert await asyncio.gather(ended(threads, first, 0.25), ended(threads, second, 0.25)) == [True, True]


async def test_the_limit_counts_from_the_last_await_of_a_replay() -> None:
    threads = Threads("test", 1)

    def replay(pause: float) -> None:
        for _ in range(4):
            time.sleep(pause)
            rested()

    assert await ended(threads, threads.start("replays", lambda: replay(0.2)), 0.5)
    assert not await ended(threads, threads.start("hangs in its second turn", lambda: replay(1.0)), 0.5)


async def test_what_is_stopped_before_it_begins_never_begins() -> None:
    threads, free, begun = Threads("test", 1), threading.Event(), []
    threads.start("holds", lambda: free.wait(10))
    waiting, mine = threads.start("waits", lambda: begun.append(1)), work()
    mine.cancel("job ended")
    assert not await threads.attend(waiting, mine, 0.0)
    free.set()
    await asyncio.wait({waiting.done}, timeout=5)
    assert (begun, list(threads.lost)) == ([], [])
    with pytest.raises(Stopped, match="job ended"):
        mine.check()


# Tools --------------------------------------------------------------------------------------------------


def tool_loops() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "aios-tool-loop"}


async def test_a_tool_is_not_begun_by_a_worker_that_stood_still_on_the_way_to_its_thread() -> None:
    asked, begun = list[str](), list[str]()

    def too_late() -> None:
        asked.append(threading.current_thread().name)
        raise Stopped("its lease may have ended before it was begun")

    def plain() -> None:
        begun.append("plain")

    async def awaited() -> None:
        begun.append("awaited")

    made = tools.Tools(2, 5.0, 1000)
    for function in (plain, awaited):
        with pytest.raises(Stopped, match="may have ended"):
            await made.run(work(), tool(function), too_late)
    assert (asked, begun) == (["aios-tool-0", "aios-tool-loop"], [])


async def test_the_loop_of_an_async_tool_that_hung_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "UNDO_S", 0.05)
    before, free, left = tool_loops(), threading.Event(), []

    async def stays() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            left.append("cleaned up")

    async def hangs() -> None:
        left.append(asyncio.create_task(stays()))
        await asyncio.sleep(0)
        free.wait(10)

    async def does_well() -> str:
        return "well"

    made = tools.Tools(2, 0.1, 1000)
    with pytest.raises(ToolError, match="within its timeout"):
        await made.run(work(), tool(hangs))
    assert await made.run(work(), tool(does_well)) == "well", "on another loop"
    assert (len(made.lost), len(tool_loops() - before)) == (1, 2)
    free.set()
    async with asyncio.timeout(5):
        while len(tool_loops() - before) > 1:  # noqa: ASYNC110  # a thread tells nobody
            await asyncio.sleep(0.005)
    assert (made.lost, left[1:]) == ([], ["cleaned up"])
    assert await made.run(work(), tool(does_well)) == "well"


async def test_a_tool_beside_one_that_hung_comes_to_its_end_on_the_loop_that_they_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "UNDO_S", 0.05)
    before, over = tool_loops(), threading.Event()

    async def minds_nothing() -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)

    async def beside() -> str:
        await asyncio.sleep(0.4)
        return "well"

    made = tools.Tools(2, 0.1, 1000)
    other = asyncio.create_task(made.run(work(), tool.options(timeout=5.0)(beside)))
    with pytest.raises(ToolError, match="within its timeout"):
        await made.run(work(), tool(minds_nothing))
    assert await other == "well"
    assert len(tool_loops() - before) == 1
    over.set()
    async with asyncio.timeout(5):
        while tool_loops() - before:  # noqa: ASYNC110  # a thread tells nobody
            await asyncio.sleep(0.005)
    assert made.lost == []


async def test_what_a_plain_function_gives_to_await_has_the_rest_of_its_time_and_not_all_of_it_again() -> (
    None
):
    async def rest() -> None:
        await asyncio.sleep(0.4)

    def begins() -> Any:
        time.sleep(0.4)
        return rest()

    made = tools.Tools(2, 0.6, 1000)
    with pytest.raises(ToolError, match=r"within its timeout of 0\.6 s"):
        await made.run(work(), tool(begins))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
async def test_whatever_an_async_tool_raises_is_its_error_and_the_next_has_the_loop(
    error: BaseException,
) -> None:
    async def raises() -> None:
        raise error

    async def does_well() -> str:
        return "well"

    made = tools.Tools(2, 5.0, 1000)
    with pytest.raises(ToolError) as raised:
        await made.run(work(), tool(raises))
    assert raised.value.detail["error"] == type(error).__name__
    assert await made.run(work(), tool(does_well)) == "well"


async def test_a_result_of_as_many_bytes_as_may_be_is_kept_and_one_of_more_is_refused() -> None:
    made = tools.Tools(2, 5.0, 10)
    assert await made.run(work(), tool(lambda: "x" * 8)) == "x" * 8
    with pytest.raises(ToolError, match="11 bytes, more than result_limit") as raised:
        await made.run(work(), tool(lambda: "x" * 9))
    assert raised.value.detail["error"] == "ValueError"


# Live programs ------------------------------------------------------------------------------------------


@agent
async def remembers(size: int) -> int:
    """Keeps the answers to two calls."""
    texts = [(await llm("x" * size)).text, (await llm("again")).text]
    return len(texts)


def living(size: int) -> Live:
    live = Live(Replay(remembers.program({"size": size})), {}, 0)
    answer = Outcome(response=LLMResponse(text="y" * size))
    live.replay.deliver(0, answer)
    live.replay.written(2)  # as the turn's decision was
    live.weigh([answer])
    return live


async def test_a_tool_that_the_program_asks_for_no_more_fails_in_a_sentence_and_nothing_is_run() -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    async def program(live: Live | None) -> Live | None:
        return live

    machine = Machine(Slots(8, lambda _: None), Stillness(), lambda: 8)
    steps = Steps(Config(), None, {}, nothing, machine, nothing)
    said = {}
    for name, live, step in (("gone", None, "0"), ("beyond", living(1), "2"), ("other", living(1), "1")):
        ready = asyncio.create_task(program(live))
        with pytest.raises(ToolError) as raised:
            await steps.tool(Work(claim(step), Origin()), ready)
        said[name] = str(raised.value)
    assert said["gone"] == said["beyond"] == "The agent's program no longer asks for this tool."
    assert said["other"] == "The agent's program asks for something else than this tool."


def test_live_programs_are_bounded_in_bytes() -> None:
    closed: list[Any] = []
    kept_alive = Programs(closed.append)
    before = resident_bytes()
    for number in range(1500):
        kept_alive.keep(f"job-{number}", living(200_000))  # the answer; what was asked for is in the journal
        while closed:
            closed.pop()()
    assert kept_alive.bytes <= programs.MOST_BYTES
    assert 200 < len(kept_alive) < 400  # 48 MiB of 208 kB each
    assert resident_bytes() - before < programs.MOST_BYTES + 30 * MB
    assert kept_alive.get("job-1499") is not None
    assert kept_alive.get("job-0") is None


@agent
async def chats(turns: int, size: int) -> int:
    """A conversation: each request is the one before and two messages."""
    messages: list[Any] = []
    for _ in range(turns):
        messages.append({"role": "user", "content": "x" * size})
        messages.append({"role": "assistant", "content": (await llm(messages=messages)).text})
    return len(messages)


def test_a_long_conversation_weighs_and_takes_what_it_holds_and_not_its_square() -> None:
    turns, size = 300, 2_000
    before = resident_bytes()
    live = Live(Replay(chats.program({"turns": turns, "size": size})), {}, 0)
    for number in range(turns - 1):
        answer = Outcome(response=LLMResponse(text=f"{number} " + "y" * size))
        live.replay.deliver(number, answer)
        live.replay.written(number + 2)
        live.weigh([answer])
    holds = 2 * turns * size
    assert holds <= live.bytes < 2 * holds
    assert resident_bytes() - before < 20 * MB  # all requests together are 180 MB


def test_live_programs_that_rest_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    kept_alive, live = Programs(closed.append), living(10)
    kept_alive.keep("job", live)
    kept_alive.sweep()
    assert len(kept_alive) == 1
    monkeypatch.setattr(programs, "IDLE_S", 0.0)
    kept_alive.sweep()
    assert (len(kept_alive), kept_alive.bytes, closed, live.gone) == (0, 0, [live.replay.close], True)


def test_another_program_of_the_same_job_takes_the_place_of_the_first() -> None:
    closed: list[Any] = []
    kept_alive, first, second = Programs(closed.append), living(10), living(1000)
    for live in (first, second, second):
        kept_alive.keep("job", live)
    assert kept_alive.take("job") is second
    assert (kept_alive.bytes, closed, second.gone) == (0, [first.replay.close], False)


# Background ---------------------------------------------------------------------------------------------


async def test_a_task_that_breaks_is_said_once_in_full_and_begun_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.worker.background.BEFORE_NEXT", Patience(0.001, 0.001))
    errors = [ValueError("one"), asyncio.CancelledError(), GeneratorExit(), None, KeyError("five")]
    begun = asyncio.Event()

    async def run() -> None:
        if not errors:
            begun.set()
            await asyncio.sleep(60)
        error = errors.pop(0)
        if error is not None:
            raise error

    background = Background()
    with caplog.at_level(logging.ERROR):
        background.start("renewing", run)
        await asyncio.wait_for(begun.wait(), 5)
    assert background.broken == {"renewing": 5}
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
    await asyncio.wait_for(background.end(), 5)


async def test_a_task_that_somebody_cancels_while_it_rests_is_begun_anew() -> None:
    begun: list[asyncio.Task[None] | None] = []

    async def run() -> None:
        begun.append(asyncio.current_task())
        raise ValueError

    background = Background()
    background.start("renewing", run)
    async with asyncio.timeout(5):
        while len(begun) < 3:
            await asyncio.sleep(0)
            if begun and begun[-1] is not None:
                begun[-1].cancel()
    await asyncio.wait_for(background.end(), 5)


# Answers in hand ----------------------------------------------------------------------------------------


def test_an_answer_is_saved_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    answers = Answers("fleet", folder)
    with pytest.raises(RuntimeError), answers.held(claim(), b"jx", True, Usage(3, 4, 1), 0.5):
        raise RuntimeError("the worker ends here")
    with answers.held(claim("1"), b"jy", True, Usage(), 0.0):
        pass  # written
    answers.save()
    answers.save()
    ((place, answer),) = spool.read(folder, "fleet")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, place)] == [0o700, 0o600]
    assert (answer.outcome, answer.usage, answer.money) == (b"jx", Usage(3, 4, 1), 0.5)
    back, sent = answer.claim(), claim()
    assert (back.lease, back.birth, back.digest) == (sent.lease, sent.birth, sent.digest)
    assert list(spool.read(folder, "another fleet")) == []


def test_an_answer_that_cannot_be_put_in_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    answer = Answer.of("fleet", claim(), b"jx", True, Usage(), 0.0)
    (tmp_path / answer.file).mkdir()
    with pytest.raises(OSError, match="directory"):
        spool.write(tmp_path, answer)
    assert [path.name for path in tmp_path.iterdir()] == [answer.file]


def test_each_claim_of_each_fleet_has_a_file_of_its_own() -> None:
    made = [
        Answer.of(fleet, claim(token=token), b"jx", True, Usage(), 0.0).file
        for fleet in ("one", "two")
        for token in ("t", "u")
    ]
    assert len(set(made)) == 4


def test_what_is_no_saved_answer_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x.answer").write_bytes(b"\xc1")
    spool.write(tmp_path, Answer.of("fleet", claim(), b"jx", True, Usage(), 0.0))
    assert len(list(spool.read(tmp_path, "fleet"))) == 1
    assert "no saved answer" in caplog.text
    assert (tmp_path / "x.answer.bad").exists()


def test_what_cannot_be_saved_is_said_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    answers = Answers("fleet", tmp_path / "file" / "spool")
    with pytest.raises(RuntimeError), answers.held(claim(), b"jx", True, Usage(), 0.0):
        raise RuntimeError
    answers.save()
    answers.save()
    assert caplog.text.count("LOST 1 answers") == 1
    assert "job/0" in caplog.text


# Calls --------------------------------------------------------------------------------------------------


def test_calls_have_the_same_key_over_attempts_and_another_one_for_all_else() -> None:
    same = ("fleet", "birth", "0", "small", "digest")
    assert idempotency_key(*same) == idempotency_key(*same)
    others = [[part + "x" * (n == place) for n, part in enumerate(same)] for place in range(5)]
    keys = {idempotency_key(*other) for other in others}
    assert len(keys | {idempotency_key(*same)}) == 6
    assert all(len(key) <= 64 and int(key, 16) for key in keys)


def test_an_odd_answer_is_kept_as_a_success() -> None:
    odd = LLMResponse(text="a\ud800b", usage=Usage(10**30, -5, 1), model="m\udc00")
    outcome, data = kept(Outcome(response=odd))
    assert outcome.ok
    assert outcome.response is not None
    assert (outcome.response.text, outcome.response.model) == ("a\ufffdb", "m\ufffd")
    assert outcome.usage == Usage(10**12, 0, 1)
    assert decode(data, Outcome) == outcome


def test_an_answer_that_cannot_be_kept_is_a_failure_with_its_first_characters() -> None:
    odd: Any = LLMResponse(text="paid for", tool_calls=[object()])  # type: ignore[list-item]
    outcome, data = kept(Outcome(response=odd))
    assert not outcome.ok
    assert outcome.error is not None
    assert outcome.error["type"] == "BadReply"
    assert "paid for" in outcome.error["detail"]["raw"]
    assert decode(data, Outcome) == outcome


def test_of_an_answer_that_cannot_be_kept_the_error_keeps_the_beginning_and_no_more() -> None:
    odd: Any = LLMResponse(text="x" * 100_000, tool_calls=[object()])  # type: ignore[list-item]
    error = kept(Outcome(response=odd))[0].error
    assert error is not None
    assert len(error["detail"]["raw"]) == 4000


@pytest.mark.parametrize("said", [None, Usage(0, 0, None), "much"])  # type: ignore[arg-type]
def test_an_answer_whose_usage_is_no_usage_was_one_call(said: Any) -> None:
    assert billed(Outcome(response=LLMResponse("well", usage=said))) == Usage(0, 0, 1)


# Health and the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 2), (4, 4), (16, 4), (64, 16)])
def test_so_many_threads_may_hang(slots: int, most: int) -> None:
    assert most_lost(slots) == most


async def test_a_limit_below_an_idle_worker_is_said_and_not_kept_to(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []
    health = Health(4, 1000, list, asked.append)
    await health.look()
    assert asked == []
    assert "memory_limit" in caplog.text


ENDS = """
import logging, sys, threading, time
from aios_dist.worker import ending
ending.BEYOND_S = ending.OWN_END_S = 0.2
logging.basicConfig(format="%(message)s")
end = ending.Ending(0.1, lambda: print("saved", flush=True))
if sys.argv[1:] == ["again"]:
    print("second life", flush=True); sys.exit(0)
"""


def life(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENDS + code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_a_process_that_hangs_ends_all_the_same_and_saves_first() -> None:
    done = life("end.begin()\nlock = threading.Lock(); lock.acquire(); lock.acquire()")
    assert (done.returncode, done.stdout) == (OVERDUE, "saved\n")
    assert "has not ended within" in done.stderr


def test_a_process_that_is_told_once_more_saves_and_ends_at_once() -> None:
    done = life("threading.Thread(target=time.sleep, args=(60,)).start(); end.begin(); end.cut()")
    assert (done.returncode, done.stdout) == (1, "saved\n")


def test_threads_that_hang_do_not_keep_the_interpreter() -> None:
    done = life("threading.Thread(target=time.sleep, args=(60,)).start(); end.begin(); end.end(3, 1)")
    assert done.returncode == 3


@pytest.mark.parametrize(
    "left_behind",
    [
        "from concurrent.futures import ThreadPoolExecutor as E; e = E(1); e.submit(time.sleep, 60)",
        "threading.Thread(target=time.sleep, args=(60,)).start()",
        "import atexit; atexit.register(time.sleep, 60)",
    ],
)
def test_what_tools_have_left_behind_does_not_keep_the_interpreter(left_behind: str) -> None:
    """Python joins the threads of executors, and runs exit handlers, when all of ours has ended."""
    done = life(f"{left_behind}\nend.begin(); end.end(3, 0); sys.exit(3)")
    assert (done.returncode, done.stderr) == (3, "")


def test_a_worker_begins_anew_in_the_same_process() -> None:
    done = life("end.again = 'too old'; sys.orig_argv.append('again'); end.begin(); end.end(0, 0)")
    assert (done.returncode, done.stdout) == (0, "second life\n")
    assert "begins anew: too old" in done.stderr


def test_celery_may_go_through_its_requests_while_a_step_begins_or_ends() -> None:
    class Request:
        id = name = "one"

    before, meanwhile = Request(), Request()
    telemetry.steady()
    try:
        for requests in (state.reserved_requests, state.active_requests):
            requests.add(before)
            going = iter(requests)
            state.task_reserved(meanwhile)
            state.task_accepted(meanwhile)
            assert list(going) == [before]
            state.task_ready(meanwhile)
            assert list(requests) == [before]
    finally:
        state.reset_state()
