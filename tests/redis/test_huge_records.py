"""What is small in Redis and huge in a worker: records that unpack to gigabytes, signals nobody asked for."""

from __future__ import annotations

import os
import secrets
import tracemalloc
import zlib

import msgspec
import pytest

from aios_dist.config import FleetConfig
from aios_dist.errors import BadReply, JournalError
from aios_dist.journal.reading import Unreadable
from aios_dist.journal.records import DIGEST, Nothing
from aios_dist.model import jobs
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import JobRecord, JobState, Outcome, RecordTooLarge, decode, encode
from aios_dist.worker.steps import kept
from tests.redis.conftest import Hand, decides, starts

MB = 1024 * 1024


def bomb(size: int, kind: bytes = b"") -> bytes:
    """A record of so many bytes, which is a thousandth of it in Redis."""
    body = b'{"agent":"a","input":{"x":"' + b"a" * size + b'"}}'
    if kind == b"nested":
        body = b'{"agent":"a","input":{"x":[' + b"[]," * (size // 3) + b"0]}}"
    return b"z" + zlib.compress(body, 9)


@pytest.mark.parametrize("kind", [b"", b"nested"])
def test_a_record_is_not_unpacked_beyond_what_one_may_have(kind: bytes) -> None:
    packed = bomb(4 * jobs.MOST_RECORD if not kind else 60 * MB, kind)
    assert len(packed) < MB
    tracemalloc.start()
    try:
        with pytest.raises(RecordTooLarge, match="are no record"):
            decode(packed, JobRecord)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * jobs.MOST_RECORD


def test_what_is_written_is_what_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MOST_RECORD", 100_000)
    for size in (50, 5_000, 99_000):
        outcome = Outcome(value="x" * size)
        assert decode(encode(outcome), Outcome) == outcome
    with pytest.raises(RecordTooLarge):
        encode(Outcome(value="x" * 100_000))
    with pytest.raises(zlib.error):
        decode(encode(Outcome(value=os.urandom(5000).hex()))[:-1000], Outcome)
    failed, data = kept(Outcome(response=LLMResponse("x" * 100_000)))
    assert failed.error is not None
    assert failed.error["type"] == BadReply.__name__, "an answer that cannot be kept is not asked for again"
    assert decode(data, Outcome) == failed


def test_a_limit_of_the_fleet_is_within_what_a_record_may_have() -> None:
    within = 64 * MB
    for name in ("prompt_limit", "input_limit", "result_limit"):
        msgspec.convert({name: within}, FleetConfig)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({name: within + 1}, FleetConfig)
    assert within < jobs.MOST_RECORD


async def test_a_job_whose_record_is_a_bomb_is_set_aside_and_the_others_go_on(hand: Hand) -> None:
    await hand.submit(starts("j", "x"), starts("k", "y"))
    packed = await hand.redis("HGET", hand.keys.job("j"), "rec")
    await hand.redis("HSET", hand.keys.job("j"), "rec", packed[:DIGEST] + bomb(100 * MB))
    got = await hand.journal.take("llm", "w1", "t1")
    assert isinstance(got, Nothing)
    assert got.again, "there is one behind it"
    walked = await hand.journal.walk()
    assert [(job, "68,157,440" in why) for job, why in walked.found] == [("j", True)]
    assert (await hand.claim()).job == "k"
    assert await hand.journal.states(["j", "k"]) == [JobState.FAILED, JobState.RUNNING]
    assert await hand.redis("ZCARD", hand.keys.leases) == 1, "that of the other"
    await hand.redis("DEL", hand.keys.job("j"))  # (its head says what it said: nobody looks at it any more)
    await hand.journal.set_aside("gone", "there is no such job")
    assert not await hand.redis("EXISTS", hand.keys.job("gone"))


async def test_who_loads_a_job_with_a_bomb_among_its_outcomes_is_told_that_nobody_has_written_it(
    hand: Hand,
) -> None:
    await hand.submit(starts("j", "x"))
    await hand.commit(await hand.claim(), decision=decides(1, 1, "y"))
    await hand.redis("HSET", hand.keys.job("j"), "o0", bomb(100 * MB))
    with pytest.raises(Unreadable, match="cannot be read"):
        await hand.journal.load("j")
    await hand.redis("HSET", hand.keys.job("j"), "o0", b"j{")
    with pytest.raises(JournalError) as raised:
        await hand.journal.load("j")
    assert not isinstance(raised.value, Unreadable), "which a release after this one may have written"


# Signals ------------------------------------------------------------------------------------------


async def sent(hand: Hand, name: str, size: int = 1) -> str:
    value = secrets.token_urlsafe(size)
    return (await hand.journal.signal("j", name, Outcome(value=value), secrets.token_hex(4)))[0]


async def test_signals_that_nobody_asked_for_are_counted_whatever_they_are_called(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.journal.journal.MOST_SIGNALS", 3)
    await hand.submit(starts("j", "x"))
    assert [await sent(hand, f"s{n}") for n in range(4)] == ["kept", "kept", "kept", "full"]
    await hand.commit(await hand.claim(), decision=decides(1, 1, "signal:s1"))
    assert await sent(hand, "s4") == "kept", "one has been taken"
    assert await sent(hand, "s5") == "full"


async def test_signals_that_nobody_asked_for_are_weighed(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios_dist.journal.journal.MOST_LARGE_SIGNALS", 2)
    limit = hand.journal.config.input_limit
    await hand.submit(starts("j", "x"))
    assert [await sent(hand, f"s{n}", limit * 3 // 4) for n in range(4)] == ["kept", "kept", "full", "full"]
    assert await sent(hand, "small") == "kept"
    await hand.commit(await hand.claim(), decision=decides(1, 1, "signal:s1"))
    assert await sent(hand, "s4", limit * 3 // 4) == "kept"


async def test_signals_that_a_release_before_this_one_has_kept_are_taken(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    assert await sent(hand, "go") == "kept"
    await hand.redis("HDEL", hand.keys.job("j"), "gk")
    await hand.commit(await hand.claim(), decision=decides(1, 1, "signal:go"))
    assert await hand.redis("HGET", hand.keys.job("j"), "gk") == b"0|0"
