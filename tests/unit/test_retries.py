"""When a failed call is tried again: pure, and the same on every worker."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import (
    BadReply,
    BadRequest,
    CallTimeout,
    ConnectionBroken,
    ContentRefused,
    LLMError,
    ModelNotFound,
    NotAllowed,
    ProviderBusy,
    RateLimited,
    ToolError,
    WorkerLost,
)
from aios_dist.journal import Claim, Refusal
from aios_dist.model.calls import LLMRequest
from aios_dist.model.jobs import JobRecord, Kind, encode
from aios_dist.worker.limits import Stillness
from aios_dist.worker.retries import Patience, pause
from aios_dist.worker.shortages import Slots
from aios_dist.worker.steps import Again, Failed, Machine, Steps
from aios_dist.worker.work import Origin, Work

PASSING = [ProviderBusy, ConnectionBroken, CallTimeout, RateLimited]
FINAL = [BadRequest, NotAllowed, ModelNotFound, ContentRefused, BadReply, ToolError, WorkerLost]
EVEN = Patience(attempts=6, backoff=1.0, backoff_max=8.0)


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again(kind: type[LLMError]) -> None:
    assert pause(kind("x"), 1, EVEN, 0.5) == 0.5


@pytest.mark.parametrize("kind", FINAL)
def test_what_will_fail_again_is_not(kind: type[LLMError]) -> None:
    assert pause(kind("x", retry_after_s=1), 1, EVEN, 0.5) is None


def test_an_error_of_the_worker_itself_is_not_tried_again() -> None:
    assert pause(RuntimeError("x"), 1, EVEN, 0.5) is None


def test_the_ceiling_doubles_from_try_to_try_up_to_the_highest() -> None:
    ceilings = [pause(ProviderBusy("x"), tries, EVEN._replace(attempts=9), 1.0) for tries in range(1, 7)]
    assert ceilings == [1, 2, 4, 8, 8, 8]


def test_the_pause_is_drawn_evenly_below_the_ceiling() -> None:
    assert [pause(ProviderBusy("x"), 3, EVEN, draw) for draw in (0.0, 0.25, 0.75)] == [0.0, 1.0, 3.0]


def test_there_are_as_many_calls_as_attempts_and_no_more() -> None:
    given_up = [pause(ProviderBusy("x"), tries, EVEN, 0.5) is None for tries in range(1, 8)]
    assert given_up == [False] * 5 + [True] * 2
    assert pause(ProviderBusy("x"), 1, EVEN._replace(attempts=1), 0.5) is None


@pytest.mark.parametrize("kind", [RateLimited, ProviderBusy])
def test_the_providers_own_time_is_kept_and_a_little_more(kind: type[LLMError]) -> None:
    waits = [pause(kind("x", retry_after_s=100), 1, EVEN, draw) for draw in (0.0, 0.5, 1.0)]
    assert waits == [100, 100.05, 100.1], "also above backoff_max"


def test_a_429_without_a_time_backs_off_as_any_other() -> None:
    assert pause(RateLimited("x"), 2, EVEN, 0.5) == 1.0
    assert pause(RateLimited("x", retry_after_s=0.0), 2, EVEN, 0.5) == 1.0


@given(
    tries=st.integers(1, 10**6),
    attempts=st.integers(1, 10**7),
    backoff=st.floats(0.001, 100),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_pause_is_never_negative_nor_above_the_highest_ceiling(
    tries: int, attempts: int, backoff: float, draw: float
) -> None:
    waits = pause(ProviderBusy("x"), tries, Patience(attempts, backoff, 100.0), draw)
    if waits is None:
        assert tries >= attempts
    else:
        assert 0 <= waits <= 100
        assert math.isfinite(waits)


# What a worker makes of it -----------------------------------------------------------------------------


async def run_tool(*_: object) -> object:
    """No step here is a tool."""
    raise AssertionError


async def no_error(*_: object) -> None:
    """No step here has failed before, as far as Redis knows."""


def steps(deadline: float = 3600.0, **models: ModelConfig) -> Steps:
    config = Config(fleet=FleetConfig(step_deadline=deadline), models=models)
    machine = Machine(Slots(8, lambda _: None), Stillness(), lambda: 8)
    return Steps(config, "a", {}, run_tool, machine, no_error)


def claim(
    label: str = "a", *, asked: str | None = None, tries: int = 0, tried: float = 0.0, ready: float = 0.0
) -> Claim:
    """A try of a step: ``ready`` seconds from there to its first try, ``tried`` from that to this one."""
    request = encode(LLMRequest([{"role": "user", "content": "x"}], model=asked))
    first, now = int(ready * 1e6), int((ready + tried) * 1e6)
    return Claim("j", "0", 1, Kind.LLM, label, JobRecord("a", {}), request, 0, 0, now, tries, first_us=first)


def model(*fallback: str, attempts: int = 3, breaker: int = 7) -> ModelConfig:
    return ModelConfig(provider="openai", attempts=attempts, fallback=list(fallback), breaker=breaker)


def test_a_call_that_may_pass_waits_and_tells_the_breaker() -> None:
    again, refusal = steps(a=model()).failed(claim(), ProviderBusy("x"))
    assert again is not None
    assert 0 < again.after <= 1
    assert (again.model, refusal) == ("", Refusal(0.0, 7))


def test_a_429_holds_the_model_for_half_a_backoff_at_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    again, refusal = steps(a=model()).failed(claim(), RateLimited("x"))
    assert (again, refusal) == (Again(0.001), Refusal(0.5, 7))


def test_a_429_holds_the_model_also_where_it_names_no_time() -> None:
    again, refusal = steps(a=model()).failed(claim(), RateLimited("x"))
    assert again is not None
    assert refusal is not None
    assert refusal.hold >= 0.5


@pytest.mark.parametrize("kind", [RateLimited, ProviderBusy])
def test_a_time_that_the_provider_names_holds_the_model(kind: type[LLMError]) -> None:
    again, refusal = steps(a=model()).failed(claim(), kind("x", retry_after_s=20))
    assert again is not None
    assert refusal is not None
    assert 20 <= refusal.hold <= 21
    assert again.after == refusal.hold


@pytest.mark.parametrize("fallback", [(), ("b",)])
@pytest.mark.parametrize("last", [claim(tries=2), claim(tried=11)], ids=["no attempts left", "no time left"])
def test_the_last_try_holds_the_model_as_any_other(last: Claim, fallback: tuple[str, ...]) -> None:
    fleet = steps(10, a=model(*fallback), b=model())
    again, refusal = fleet.failed(last, RateLimited("x", retry_after_s=5))
    assert again == (Again(0.0, "b") if fallback else None)
    assert refusal is not None
    assert 5 <= refusal.hold < 6
    assert fleet.failed(last, CallTimeout("x")).refusal == Refusal(0.0, 7)


@pytest.mark.parametrize("fallback", [(), ("b",)])
async def test_a_call_over_its_models_tokens_a_minute_is_not_made_and_goes_to_a_fallback_if_it_has_one(
    fallback: tuple[str, ...],
) -> None:
    large = msgspec.structs.replace(claim(), estimate=2500, over=1000)
    fleet = steps(a=model(*fallback), b=model())
    with pytest.raises(BadRequest, match=r"2,500 tokens, and all calls of model 'a' may take 1,000") as said:
        await fleet.call(Work(large, Origin()))
    assert fleet.failed(large, said.value) == (Again(0.0, "b") if fallback else None, None)


@pytest.mark.parametrize(("tried", "again"), [(0.0, True), (8.9, True), (10.1, False)])
def test_a_step_is_not_tried_again_once_its_first_try_is_too_long_ago(tried: float, again: bool) -> None:
    found = steps(10, a=model()).failed(claim(tried=tried), ProviderBusy("x")).again  # within a second
    assert (found is not None) == again


@pytest.mark.parametrize(
    ("tried", "wish", "again"),
    [(9, 5, True), (9, 10, True), (9, 11, False), (10.5, 5, False), (0, 11, False)],
)
def test_a_time_that_the_provider_names_is_waited_for_but_none_longer_than_the_patience(
    tried: float, wish: float, again: bool
) -> None:
    patient = steps(10.3, a=model(attempts=9))
    found = patient.failed(claim(tried=tried), RateLimited("x", retry_after_s=wish)).again
    assert (found is not None) == again


def test_waiting_in_line_is_no_trying() -> None:
    late = claim(ready=5000.0, tried=3.0)
    assert steps(10, a=model()).failed(late, RateLimited("x", retry_after_s=5)).again is not None


def test_after_its_last_attempt_a_step_goes_down_the_fallbacks_of_the_model_that_was_asked_for() -> None:
    fleet = steps(a=model("b", "c"), b=model("a"), c=model())
    busy = ProviderBusy("x")
    assert fleet.failed(claim("a", tries=2), busy).again == Again(0.0, "b")
    assert fleet.failed(claim("b", tries=2), busy).again == Again(0.0, "c")
    assert fleet.failed(claim("c", tries=2), busy).again is None
    assert fleet.failed(claim("b", asked="b", tries=2), busy).again == Again(0.0, "a")


def test_a_fallback_named_twice_is_no_circle() -> None:
    fleet = steps(a=model("b", "b"), b=model())
    seen, label = [], "a"
    while (again := fleet.failed(claim(label, tries=2), ProviderBusy("x")).again) is not None:
        seen.append(label := again.model)
        assert len(seen) < 5
    assert seen == ["b"]


@pytest.mark.parametrize("kind", [NotAllowed, ModelNotFound, BadReply])
def test_a_model_that_fails_for_good_is_left_at_once(kind: type[LLMError]) -> None:
    assert steps(a=model("b"), b=model()).failed(claim(), kind("x")) == Failed(Again(0.0, "b"), None)


@pytest.mark.parametrize("kind", [BadRequest, ContentRefused])
def test_a_request_that_is_wrong_itself_goes_to_no_other_model_and_says_nothing_of_this_one(
    kind: type[LLMError],
) -> None:
    assert steps(a=model("b"), b=model()).failed(claim(), kind("x")) == Failed(None, None)


def test_a_request_that_one_protocol_has_no_words_for_goes_to_the_next_model() -> None:
    fleet = steps(a=model("b"), b=model())
    assert fleet.failed(claim(), BadRequest("x", unsayable=True)) == Failed(Again(0.0, "b"), None)
    assert fleet.failed(claim("b"), BadRequest("x", unsayable=True)) == Failed(None, None)


@pytest.mark.parametrize("kind", [CallTimeout, ConnectionBroken])
def test_a_call_that_failed_for_its_own_timeout_or_credentials_is_tried_again_and_says_nothing_of_the_model(
    kind: type[LLMError],
) -> None:
    again, refusal = steps(a=model()).failed(claim(), kind("x", own=True))
    assert again is not None
    assert refusal is None
    assert steps(a=model()).failed(claim(), kind("x")).refusal == Refusal(0.0, 7)


def test_a_tool_that_raised_and_a_model_that_nobody_knows_are_not_tried_again() -> None:
    assert steps(a=model()).failed(claim(), ToolError("x")) == Failed()
    assert steps(a=model()).failed(claim("gone"), ProviderBusy("x")) == Failed()
