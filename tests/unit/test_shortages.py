"""A worker's own trouble: what is taken for it; it costs no step a try and no model its calls."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import time
from typing import Any

import msgspec
import pytest

from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import (
    BadReply,
    CallTimeout,
    ConnectionBroken,
    FinalLLMError,
    LLMError,
    ProviderBusy,
    RateLimited,
)
from aios_dist.journal import Claim
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.model.jobs import JobRecord, Kind, Outcome, encode
from aios_dist.worker import shortages
from aios_dist.worker.limits import Limit, Stillness
from aios_dist.worker.shortages import NO_DNS, Slots, open_files, shortage
from aios_dist.worker.steps import Failed, Machine, Steps
from aios_dist.worker.threads import Threads
from aios_dist.worker.work import Origin, Stopped, Work

REQUEST = encode(LLMRequest([{"role": "user", "content": "x"}]))


def broken(number: int) -> ConnectionBroken:
    """As an adapter gives it: the cause is hidden, and is there."""
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as exc:
            raise RuntimeError("of an SDK") from exc
    except RuntimeError:
        try:
            raise ConnectionBroken("the connection broke") from None
        except ConnectionBroken as error:
            return error


class Clock:
    """The monotonic clock of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def slots(most: int = 40) -> tuple[Slots, list[int]]:
    told: list[int] = []
    return Slots(most, told.append), told


@pytest.mark.parametrize("number", sorted([*shortages.OF_MACHINE, *shortages.OF_NETWORK]))
def test_a_shortage_is_found_below_whatever_was_raised_over_it(number: int) -> None:
    assert shortage(broken(number)) == number


@pytest.mark.parametrize("error", [None, ValueError(), OSError("x"), broken(errno.ECONNREFUSED)])
def test_all_else_is_none(error: Exception | None) -> None:
    assert shortage(error) == 0


@pytest.mark.parametrize(
    ("number", "found"), [(socket.EAI_AGAIN, NO_DNS), (socket.EAI_FAIL, NO_DNS), (socket.EAI_NONAME, 0)]
)
def test_dns_that_does_not_answer_is_a_shortage_and_a_host_that_is_none_is_not(
    number: int, found: int
) -> None:
    error = ConnectionBroken("x")
    error.__cause__ = socket.gaierror(number, "said the resolver")
    assert shortage(error) == found


def test_errors_that_cause_each_other_in_a_ring_are_looked_at_once() -> None:
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert shortage(one) == 0


def test_a_shortage_halves_the_slots_once_an_instant_and_they_come_back_by_and_by(clock: Clock) -> None:
    found, told = slots()
    for _ in range(20):
        assert found.short(errno.EMFILE, busy=30)
    assert (found.now, told) == (15, [15])
    assert "open files" in found.why
    found.look()
    assert found.now == 15
    for _ in range(20):
        clock.now += shortages.REST_S
        found.look()
    assert told == [15, 19, 23, 27, 31, 35, 39, 40]
    assert found.why == ""


def test_few_slots_come_back_too_and_never_more_than_the_open_files_allow(clock: Clock) -> None:
    found, told = slots(200)
    found.of_files(11)
    clock.now += 2 * shortages.REST_S
    found.look()
    assert told == [5]
    found.short(errno.ENOMEM, busy=5)
    for _ in range(9):
        clock.now += shortages.REST_S
        found.look()
    assert told == [5, 2, 3, 4, 5]


def test_trouble_without_an_end_halves_the_slots_again_and_is_said_as_often(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    found, told = slots()
    for _ in range(100):
        found.short(errno.EMFILE, busy=40)
        clock.now += 0.5  # never a second without
        found.look()
    assert told == [20, 10, 5, 2, 1]
    assert len(caplog.records) == len(told)


def test_at_least_one_slot_is_left(clock: Clock) -> None:
    found, _ = slots(2)
    for _ in range(5):
        clock.now += 2.0
        found.short(errno.ENFILE, busy=0)
    assert found.now == 1


def test_a_network_that_answers_other_calls_is_there(clock: Clock) -> None:
    found, told = slots()
    found.answered()
    assert not found.short(errno.ENETUNREACH, busy=5)
    assert found.short(errno.EMFILE, busy=5)
    clock.now += 2 * shortages.NETWORK_S
    assert found.short(errno.ENETUNREACH, busy=5)
    assert told == [2, 1]


@pytest.mark.parametrize(("limit", "now"), [(0, 40), (168, 40), (150, 75), (96, 48), (20, 10), (1, 1)])
def test_a_worker_begins_with_as_many_slots_as_it_may_open_connections(limit: int, now: int) -> None:
    found, _ = slots(40 if now == 40 else 200)
    found.of_files(limit)
    assert found.now == now
    assert (found.why == "") == (now == 40)


def test_the_limit_of_open_files_is_known() -> None:
    assert open_files() >= 0


# What becomes of a step ---------------------------------------------------------------------------------


class Adapter:
    """Anybody's provider: raises what it is given, and keeps the keys."""

    name = "anybody"

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.keys: list[str] = []

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        self.keys.append(str(idempotency_key))
        if request.timeout is not None:
            await asyncio.Event().wait()
        if self.errors:
            raise self.errors.pop(0)
        return LLMResponse("well")

    async def aclose(self) -> None:
        """Nothing is open."""


class Bench:
    """The steps of a worker without a fleet."""

    def __init__(
        self, *errors: Exception, deadline: float = 3600.0, attempts: int = 6, **options: float
    ) -> None:
        self.slots, _ = slots()
        self.stillness = Stillness()
        self.adapter = Adapter(*errors)
        self.left: Exception | None = None
        models = {"a": ModelConfig(attempts=attempts, options=options)}
        config = Config(fleet=FleetConfig(step_deadline=deadline), models=models)
        machine = Machine(self.slots, self.stillness, lambda: 8)
        self.steps = Steps(config, "a", {"a": self.adapter}, self._no_tool, machine, self._last)

    async def _no_tool(self, *_: Any) -> object:
        raise AssertionError

    async def _last(self, job: str, step: str) -> Outcome | None:
        return Outcome.failed(self.left) if self.left is not None else None

    async def call(self, claim: Claim) -> LLMError | None:
        """One try; what it raised."""
        try:
            await self.steps.call(Work(claim, Origin()))
        except LLMError as error:
            return error
        return None


def claim(tries: int = 0, tried: float = 0.0) -> Claim:
    return Claim(
        "j", "0", 1, Kind.LLM, "a", JobRecord("x", {}), REQUEST, 0, 0, int(tried * 1e6) + 1, tries, first_us=1
    )


async def test_the_timeout_of_a_call_ends_it_whoever_has_written_the_adapter() -> None:
    asked = encode(LLMRequest([{"role": "user", "content": "x"}], extra={"timeout": 0.05}))
    error = await Bench().call(msgspec.structs.replace(claim(), request=asked))
    assert isinstance(error, CallTimeout)
    assert str(error) == "anybody gave no whole answer within the call's own timeout of 0.05 s"
    assert {"own", "idempotency_key"} <= set(error.detail)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.ENETUNREACH])
async def test_a_call_that_this_machine_could_not_make_is_no_try_and_no_word_on_the_model(
    number: int,
) -> None:
    bench = Bench()
    again, refusal = bench.steps.failed(claim(tries=5), broken(number))
    assert again is not None
    assert again.endless
    assert again.ours.startswith("this worker: ")
    assert refusal is None
    assert bench.slots.now == 4


async def test_a_name_that_dns_does_not_answer_for_is_never_held_against_its_model() -> None:
    bench = Bench()
    error = ConnectionBroken("x")
    error.__cause__ = socket.gaierror(socket.EAI_AGAIN, "said the resolver")
    again, refusal = bench.steps.failed(claim(), error)
    assert again is not None
    assert (again.ours, again.endless, refusal) == ("this worker: DNS does not answer", True, None)
    bench.slots.answered()
    again, refusal = bench.steps.failed(claim(), error)
    assert again is not None
    assert (again.ours, refusal) == ("", None), "a try: other names are answered"


async def test_an_adapter_that_lets_the_shortage_through_is_not_broken() -> None:
    bench = Bench(OSError(errno.EMFILE, "too many"))
    error = await bench.call(claim())
    assert isinstance(error, ConnectionBroken)
    assert bench.steps.failed(claim(), error).refusal is None


async def test_an_adapter_that_breaks_fails_the_step_for_good_and_the_log_says_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for raised in (KeyError("secret"), SystemExit(3)):
        bench = Bench(raised)  # type: ignore[arg-type]
        error = await bench.call(claim())
        assert type(error) is FinalLLMError
        assert str(error) == f"The provider's adapter broke: {type(raised).__name__}."
        assert bench.steps.failed(claim(), error) == Failed(None, None)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_a_refusal_is_an_answer_so_the_network_is_there_and_a_cut_is_none(clock: Clock) -> None:
    for error, there in ((ProviderBusy("503"), True), (ConnectionBroken("cut"), False)):
        bench = Bench(error)
        await bench.call(claim())
        assert bench.slots.short(errno.ENETUNREACH, busy=4) is not there


async def test_a_step_that_was_short_of_something_for_longer_than_its_deadline_fails() -> None:
    bench = Bench(deadline=10.0)
    again, refusal = bench.steps.failed(claim(tried=20.0), broken(errno.EMFILE))
    assert again is None
    assert refusal is not None


async def test_what_fails_in_a_call_that_saw_this_worker_stand_still_is_no_try_and_no_word() -> None:
    bench = Bench()
    bench.stillness.ended = 100.0
    for error in (CallTimeout("x"), ConnectionBroken("x")):
        again, refusal = bench.steps.failed(claim(tries=5), error, begun=99.0)
        assert again is not None
        assert (again.ours, again.endless, refusal) == ("this worker stood still", False, None)
    assert bench.steps.failed(claim(tries=5), CallTimeout("x"), begun=101.0).refusal is not None
    assert bench.steps.failed(claim(), RateLimited("x"), begun=99.0).refusal is not None, "it answered"


async def test_a_worker_that_stands_still_in_each_call_excuses_as_many_as_the_model_has_attempts() -> None:
    bench = Bench(attempts=2)
    bench.stillness.ended = math.inf
    said = []
    for attempt, tries in ((1, 0), (2, 0), (3, 0), (4, 1)):
        tried = msgspec.structs.replace(claim(tries), attempt=attempt)
        said.append(bench.steps.failed(tried, CallTimeout("x"), begun=0.0))
    assert [again.ours != "" if again else None for again, _ in said] == [True, True, False, None]
    assert [refusal is not None for _, refusal in said] == [False, False, True, False]


async def test_calls_that_time_out_together_are_one_failure_of_their_model(clock: Clock) -> None:
    bench = Bench()
    said = [bench.steps.failed(claim(), CallTimeout("x")).refusal for _ in range(16)]
    clock.now += 2.0
    said += [bench.steps.failed(claim(), CallTimeout("x")).refusal for _ in range(16)]
    assert sum(refusal is not None for refusal in said) == 2
    assert all(bench.steps.failed(claim(), ProviderBusy("x")).refusal for _ in range(3))


async def test_time_outs_that_follow_each_other_without_an_end_are_many(clock: Clock) -> None:
    bench = Bench()
    said = []
    for _ in range(40):
        said.append(bench.steps.failed(claim(), CallTimeout("x")).refusal)
        clock.now += 0.25
    assert sum(refusal is not None for refusal in said) == 10


async def test_nothing_is_begun_where_the_lease_may_have_ended() -> None:
    bench = Bench()
    asked: list[float] = []

    def sure(_: Claim, at: float) -> bool:
        asked.append(at)
        return False

    bench.steps._machine = bench.steps._machine._replace(sure=sure)
    with pytest.raises(Stopped, match="lease"):
        await bench.steps.call(Work(claim(), Origin(), 7.0))
    assert (bench.adapter.keys, asked) == ([], [7.0])


# Keys ---------------------------------------------------------------------------------------------------


async def test_a_call_whose_end_nobody_saw_is_repeated_under_its_key_and_an_answered_one_under_another() -> (
    None
):
    raised = [ProviderBusy("503"), CallTimeout("?"), ConnectionBroken("?"), BadReply("?"), RateLimited("429")]
    bench = Bench(*raised)
    for tries in range(6):
        bench.left = await bench.call(claim(tries))
    one, two, three, four, five, six = bench.adapter.keys
    assert two == three == four, "the time-out and the cut may have been answered"
    assert len({one, two, five, six}) == 4


async def test_the_first_try_of_a_step_asks_redis_for_no_error_before_it() -> None:
    bench = Bench()

    async def asked(*_: str) -> None:
        raise AssertionError

    bench.steps._last_error = asked
    assert await bench.call(claim()) is None


async def test_what_an_earlier_life_has_left_is_no_key() -> None:
    bench = Bench()
    bench.left = ConnectionBroken("?", idempotency_key="of another life")
    await bench.call(claim(tries=1))
    assert bench.adapter.keys != ["of another life"]


async def test_a_repeat_by_a_worker_with_other_options_of_the_model_has_another_key() -> None:
    before, after, again = Bench(temperature=0.1), Bench(temperature=0.2), Bench(temperature=0.1)
    for bench in (before, after, again):
        await bench.call(claim())
    assert before.adapter.keys == again.adapter.keys != after.adapter.keys
    bench.left = ConnectionBroken("?", idempotency_key=after.adapter.keys[0])
    await again.call(claim(tries=1))
    assert again.adapter.keys[1] not in (*before.adapter.keys, *after.adapter.keys)


# Standstills --------------------------------------------------------------------------------------------


async def test_a_tool_that_was_over_when_the_process_stood_still_has_its_time_anew() -> None:
    threads = Threads("test", 1)
    run = threads.start("a tool", lambda: time.sleep(0.05))
    waiting = asyncio.ensure_future(threads.attend(run, Work(claim(), Origin()), 0.3))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    run.begun = time.monotonic() - 5.0  # as if it had stood still from then on
    assert await waiting


async def test_the_machine_has_no_thread_left_and_the_others_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    def none_left(_: object) -> None:
        raise RuntimeError("can't start new thread")

    threads, hold = Threads("test", 4), threading.Event()
    first = threads.start("first", lambda: hold.wait(20))
    monkeypatch.setattr(threading.Thread, "start", none_left)
    second = threads.start("second", lambda: 7)
    hold.set()
    assert await threads.attend(first, Work(claim(), Origin()), 0.0)
    assert await threads.attend(second, Work(claim(), Origin()), 0.0)
    assert (second.value, threads.alive) == (7, 1)


async def test_a_process_that_stood_still_reads_what_came_meanwhile_before_its_time_is_over() -> None:
    came = asyncio.Event()
    async with Limit(0.1) as limit:
        time.sleep(0.8)  # noqa: ASYNC251  # it stands still
        asyncio.get_running_loop().call_later(0.05, came.set)
        await came.wait()
    assert limit.expired == ""


async def test_a_pause_is_counted_once_from_what_was_heard_last() -> None:
    limit = Limit(1.2, pause=0.65)

    async def hears_once() -> None:
        async with limit:
            limit.heard()
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await hears_once()
    assert limit.expired == "pause"


def test_lateness_of_a_busy_loop_is_no_standstill() -> None:
    found = Stillness()
    assert not found.since(-math.inf)
    assert found.count == 0


def test_another_number_of_slots_is_kept_to_as_far_as_files_and_a_shortage_let_it() -> None:
    said: list[int] = []
    slots = Slots(4, said.append)
    slots.resize(9, 0)
    assert (slots.now, slots.most, slots.why) == (9, 9, "")
    slots.resize(1000, 150)  # open files: the rest of what a worker has open takes 100
    assert slots.now == slots.most < 1000
    assert slots.why == "150 open files"
    slots.resize(5, 150)
    assert (slots.now, slots.most, slots.why, said[-1]) == (5, 5, "", 5)
    assert slots.short(errno.EMFILE, busy=4)
    slots.resize(8, 0)
    assert (slots.now, slots.most) == (2, 8)  # what is short stays so for now
    assert slots.why == "too many open files"
    slots.resize(1, 0)
    assert (slots.now, said[-1]) == (1, 1)
