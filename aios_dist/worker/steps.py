"""What a claimed step does: call a provider, or run a tool; and what becomes of a call that failed."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from aios_dist.config import Config, ModelConfig
from aios_dist.errors import (
    BadReply,
    BadRequest,
    CallTimeout,
    ConnectionBroken,
    ContentRefused,
    FinalLLMError,
    FleetUnavailable,
    JournalError,
    LLMError,
    RateLimited,
    RetryableLLMError,
    ToolError,
    describe,
    to_record,
)
from aios_dist.journal import Claim, Refusal
from aios_dist.journal.records import bounded
from aios_dist.model.calls import LLMRequest, LLMResponse, Timings, ToolCall, Usage
from aios_dist.model.jobs import Outcome, decode, plain_record
from aios_dist.program.commands import Tool
from aios_dist.worker import retries
from aios_dist.worker.faults import point
from aios_dist.worker.limits import Limit, Stillness
from aios_dist.worker.programs import Live
from aios_dist.worker.providers import Provider
from aios_dist.worker.providers.calling import HttpProvider, call_timeout
from aios_dist.worker.shortages import NO_DNS, Slots, shortage
from aios_dist.worker.work import Changed, Stopped, Work

logger = logging.getLogger("aios_dist.steps")

UNDO_S = 1.0
"""How long a call that was stopped may take to close its connection."""

SHORT_S = 1.0
STILL_S = 0.1
"""Until a step is ready again whose call failed for a shortage of this worker, or because it stood still."""

RAW = 4000
"""Characters of an answer that cannot be kept, kept in its error."""

ONE_INSTANT_S = 1.0
"""Time-outs of a model on one worker within this are one: what broke, broke for all of them."""

UNSEEN = (ConnectionBroken, CallTimeout)
"""Errors of calls whose end nobody saw: the provider may have answered, and sent a bill."""


class Again(NamedTuple):
    """A failed call is not the step's outcome: it is tried again.

    Attributes:
        after: seconds.
        model: another model that the step goes to, or "" for the same.
        ours: why the try does not count: what failed was this worker.
        endless: nor is it held against the step, however often.
    """

    after: float
    model: str = ""
    ours: str = ""
    endless: bool = False


class Failed(NamedTuple):
    """What becomes of a call that failed.

    Attributes:
        again: None: the error is the step's outcome.
        refusal: what it says of the model, whatever becomes of the step; None: nothing.
    """

    again: Again | None = None
    refusal: Refusal | None = None


class Machine(NamedTuple):
    """What a worker knows of its own trouble.

    Attributes:
        slots: how much it takes at a time.
        stillness: when it stood still.
        busy: steps in flight.
        sure: whether a claim, asked for at a time, is nobody else's by now.
    """

    slots: Slots
    stillness: Stillness
    busy: Callable[[], int]
    sure: Callable[[Claim, float], bool] = lambda *_: True


class Steps:
    """Calls and tools of one worker.

    Args:
        last_error: of a job's step: what its last failed try has left.
    """

    def __init__(
        self,
        config: Config,
        default_model: str | None,
        providers: Mapping[str, Provider],
        run_tool: Callable[[Work, Tool, Callable[[], None]], Awaitable[object]],
        machine: Machine,
        last_error: Callable[[str, str], Awaitable[Outcome | None]],
    ) -> None:
        self._config = config
        self._default = default_model
        self._providers = providers
        self._run_tool = run_tool
        self._machine = machine
        self._last_error = last_error
        self._timed_out: dict[str, float] = {}

    async def call(self, work: Work) -> LLMResponse:
        """Call the step's model.

        Raises:
            LLMError: it brought no answer.
            Stopped: the work was stopped before there was one; or this worker does not have the model.
        """
        claim = work.claim
        if claim.over:
            raise BadRequest(_too_large(claim), code="over_limit")
        request = _request(claim)
        provider = self._providers.get(claim.label)
        if provider is None:
            raise Stopped(f"no model {claim.label!r} on this worker")
        point("call")
        key = await self._key(claim)
        self._still_ours(work)
        ask = functools.partial(provider.call, request, idempotency_key=key)
        if request.timeout is not None and not isinstance(provider, HttpProvider):
            ask = functools.partial(_bounded, ask, provider, request.timeout)
        call = asyncio.create_task(_guarded(ask))
        await work.wait(call)
        if not call.done():
            call.cancel()
            await asyncio.wait({call}, timeout=UNDO_S)
        answer = call.result() if call.done() and not call.cancelled() else asyncio.CancelledError()
        if isinstance(answer, LLMResponse):
            self._machine.slots.answered()
            return answer
        if isinstance(answer, LLMError):
            if isinstance(answer, UNSEEN):
                answer.detail["idempotency_key"] = key
            else:
                self._machine.slots.answered()
            raise answer
        work.check()
        if isinstance(answer, Exception) and shortage(answer):
            raise ConnectionBroken(f"The provider's adapter broke: {_what(answer)}.") from answer
        if isinstance(answer, BaseException):
            logger.error("The provider's adapter broke on %s/%s.", claim.job, claim.step, exc_info=answer)
        raise FinalLLMError(f"The provider's adapter broke: {_what(answer)}.") from None

    async def _key(self, claim: Claim) -> str:
        """Another one after each answered failure; the same where nobody saw how the last call ended."""
        fleet = self._config.fleet.name
        model = as_sent(claim.label, self._config.models.get(claim.label))
        names = (fleet, claim.incarnation, claim.step, model, claim.digest)
        if claim.tries:
            try:
                last = await self._last_error(claim.job, claim.step)
            except (FleetUnavailable, JournalError):
                last = None
            used = ((last.error or {}).get("detail") or {}).get("idempotency_key") if last else None
            if used in [idempotency_key(*names, n) for n in range(claim.tries)]:
                return str(used)
        return idempotency_key(*names, claim.tries)

    async def tool(self, work: Work, ready: asyncio.Task[Live | None] | None) -> object:
        """Run the step's tool, which the program holds.

        Raises:
            ToolError: the function raised, or what it returned cannot be kept.
            Stopped: the work was stopped; or this worker does not have the agent's code.
            Changed: the program no longer asks for it.
        """
        claim = work.claim
        if ready is None:
            raise Stopped("no code for this agent")
        await work.wait(ready)
        if not ready.done():
            work.check()
        try:
            live = ready.result()
        except (Stopped, asyncio.CancelledError):
            raise
        except Exception as exc:
            raise ToolError(f"The agent's program cannot be run up to this tool: {describe(exc)}") from exc
        number = int(claim.step)
        if live is not None and live.replay.changed is not None:
            raise Changed
        if live is None or number >= len(live.replay.asked):
            raise ToolError("The agent's program no longer asks for this tool.")
        command = live.replay.asked[number].command
        if not isinstance(command, Tool):
            raise ToolError("The agent's program asks for something else than this tool.")
        return await self._run_tool(work, command, functools.partial(self._still_ours, work))

    def _still_ours(self, work: Work) -> None:
        """Right before something begins that is paid for: the worker may have stood still since the claim."""
        if not self._machine.sure(work.claim, work.asked):
            raise Stopped("its lease may have ended before it was begun")

    def failed(self, claim: Claim, error: Exception, begun: float = math.inf) -> Failed:
        """Whether a failed call is tried again, later or with another model, and what it says of its own.

        Args:
            begun: when it was claimed, by the loop's clock.
        """
        model = self._config.models.get(claim.label)
        if model is None or not isinstance(error, LLMError):
            return Failed()
        ours = self._ours(claim, error, begun)
        if ours is not None:
            return Failed(ours)
        patience = retries.Patience(model.attempts, model.backoff, model.backoff_max)
        refusal, draw = None, random.random()
        # The model's other calls would have met it too; not so a time that this call alone was given.
        if isinstance(error, RetryableLLMError) and not error.detail.get("own"):
            # 429 is the provider's word to all of us, also where it names no time; so is a time with a 503.
            told = isinstance(error, RateLimited) or bool(error.detail.get("retry_after_s"))
            quiet = retries.backoff(error, claim.tries + 1, patience, draw)
            # A name that this worker's DNS does not answer for is no word on the model.
            if shortage(error) != NO_DNS and not self._same_instant(claim.label, error):
                refusal = Refusal(max(quiet, model.backoff / 2) if told else 0.0, model.breaker)
        pause = retries.pause(error, claim.tries + 1, patience, draw)
        if pause is not None and self._may_wait(claim, error, pause):
            return Failed(Again(max(pause, 0.001)), refusal)
        asked_wrong = isinstance(error, (BadRequest, ContentRefused))
        if asked_wrong and not claim.over and not error.detail.get("unsayable"):
            return Failed(None, refusal)
        other = self._next_model(claim)
        return Failed(Again(0.0, other) if other is not None else None, refusal)

    def _ours(self, claim: Claim, error: LLMError, begun: float) -> Again | None:
        """What failed was this worker: the step is tried again, uncounted, and the model is not blamed."""
        if not isinstance(error, UNSEEN):
            return None
        patient = (claim.started_us - claim.first_us) / 1e6 <= self._config.fleet.step_deadline
        number = shortage(error)
        if number and patient and self._machine.slots.short(number, self._machine.busy()):
            return Again(SHORT_S, ours=f"this worker: {self._machine.slots.why}", endless=True)
        # No oftener than it may be tried: where a machine stands still all the time, models may hang too.
        spared = claim.attempt - claim.tries <= self._config.models[claim.label].attempts
        if spared and self._machine.stillness.since(begun):
            return Again(STILL_S, ours="this worker stood still")
        return None

    def _same_instant(self, label: str, error: LLMError) -> bool:
        """Another call of the model was given up just now."""
        if not isinstance(error, CallTimeout):
            return False
        now = time.monotonic()
        if now - self._timed_out.get(label, -math.inf) < ONE_INSTANT_S:
            return True
        self._timed_out[label] = now  # of the one that counts: they may follow each other without an end
        return False

    def _may_wait(self, claim: Claim, error: Exception, pause: float) -> bool:
        """Whether the step has patience for a pause; one that the provider names is not held against it."""
        limit, tried = self._config.fleet.step_deadline, (claim.started_us - claim.first_us) / 1e6
        if isinstance(error, LLMError) and error.detail.get("retry_after_s"):
            return max(tried, pause) <= limit
        return tried + pause <= limit

    def _next_model(self, claim: Claim) -> str | None:
        """The model after the one that has just failed, in the order of the first one's ``fallback``."""
        first = _request(claim).model or self._default
        if first is None or first not in self._config.models:
            return None
        chain = list(dict.fromkeys([first, *self._config.models[first].fallback]))
        place = chain.index(claim.label) + 1 if claim.label in chain else len(chain)
        return chain[place] if place < len(chain) else None


def _too_large(claim: Claim) -> str:
    return (
        f"This call is taken to need {claim.estimate:,} tokens, and all calls of model {claim.label!r} may "
        f"take {claim.over:,} in a minute: it is not made. A shorter prompt, a smaller max_tokens (else 500 "
        "are taken), or a higher tokens_per_minute let it go."
    )


def as_sent(label: str, model: ModelConfig | None) -> str:
    """What of a model's settings makes a request another one: the next worker may have others."""
    said = [model.provider, model.model, model.stream, model.options] if model is not None else []
    return msgspec.json.encode([label, *said], order="sorted").decode()


def idempotency_key(fleet: str, incarnation: str, step: str, model: str, digest: str, tries: int = 0) -> str:
    """What providers and gateways tell calls apart by: the same for a call repeated whose end nobody saw.

    Another one in another life of the job (a retry, an id that is used again), for another model or other
    settings of it (``as_sent``), where the step asks for something else, or after so many tries that failed.
    """
    parts = msgspec.json.encode([fleet, incarnation, step, model, digest, *([tries] if tries else [])])
    return hashlib.blake2b(parts, digest_size=24).hexdigest()


def kept(outcome: Outcome) -> tuple[Outcome, bytes]:
    """The outcome as the journal keeps it, and as JSON that it packs.

    An odd answer is put right where that can be done. One that cannot be kept at all becomes a failure, with
    its first characters: it is paid for, and not asked for again.
    """
    try:
        if outcome.response is None or _sound(outcome.response):
            return outcome, plain_record(outcome)
        why = "fields of other types"
    except Exception as exc:
        why = describe(exc)
    if outcome.response is not None:
        try:
            plain = Outcome(response=_lenient(outcome.response), at=outcome.at)
            return plain, plain_record(plain)
        except Exception as exc:
            why = describe(exc)
    raw = repr(outcome.response if outcome.response is not None else outcome.value)[:RAW]
    error = to_record(BadReply(f"The answer cannot be kept: {why}.", raw=raw))
    failed = Outcome(error=error, at=outcome.at)
    return failed, plain_record(failed)


def billed(outcome: Outcome) -> Usage:
    """What an outcome is billed for, whatever its adapter, which may be anybody's, says of it."""
    if outcome.response is None:
        return Usage()
    said: object = outcome.response.usage
    counts = [getattr(said, name, None) for name in Usage.__struct_fields__]
    if isinstance(said, Usage) and all(type(count) is int for count in counts):
        return said
    prompt, output, calls, cached = [_count(count) for count in counts]
    return Usage(prompt, output, calls or 1, cached)


def _count(value: object) -> int:
    number = value if isinstance(value, (int, float)) else 0
    return bounded(number) if number == number else 0  # NaN is no number


def _sound(response: LLMResponse) -> bool:
    """Every field is of its type, so that the journal gives it back."""
    return msgspec.convert(msgspec.to_builtins(response), LLMResponse) == response


def _lenient(response: LLMResponse) -> LLMResponse:
    """The answer with U+FFFD for what is no character, and numbers that can be."""
    usage = billed(Outcome(response=response))
    return LLMResponse(
        text=_text(response.text),
        tool_calls=[
            ToolCall(_text(c.id), _text(c.name), _text(c.arguments)) for c in response.tool_calls or []
        ],
        finish_reason=_text(response.finish_reason) if response.finish_reason is not None else None,
        usage=Usage(*(bounded(count) for count in msgspec.structs.astuple(usage))),
        model=_text(response.model),
        provider=_text(response.provider),
        timings=response.timings if isinstance(response.timings, Timings) else Timings(),
        left_out=tuple(map(_text, said)) if isinstance(said := response.left_out, (list, tuple)) else (),
        own=_own(response.own),
    )


def _own(value: object) -> dict[str, Any]:
    """What a message says of its own, where it is JSON."""
    try:
        found = msgspec.json.decode(msgspec.json.encode(value))
    except Exception:  # of an adapter that may be anybody's
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str("" if value is None else value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


async def _bounded(
    call: Callable[[], Awaitable[LLMResponse]], provider: Provider, seconds: float
) -> LLMResponse:
    """A call of an adapter that is not ours, ended when the call's own time is over.

    Raises:
        CallTimeout: it was.
    """
    limit = Limit(seconds)
    try:
        async with limit:
            return await call()
    except TimeoutError:
        if limit.expired:
            raise call_timeout(str(getattr(provider, "name", "the provider")), seconds) from None
        raise
    raise AssertionError


async def _guarded(call: Callable[[], Awaitable[object]]) -> object:
    """What came of an adapter, which may be anybody's: an answer, or whatever it raised."""
    try:
        return await call()
    except BaseException as exc:
        return exc


def _what(answer: object) -> str:
    return type(answer).__name__ if isinstance(answer, BaseException) else f"it gave {type(answer).__name__}"


def _request(claim: Claim) -> LLMRequest:
    try:
        return decode(claim.request, LLMRequest)
    except Exception as exc:  # of msgspec, of zlib, or a recursion
        raise BadRequest(f"The journaled request cannot be read: {type(exc).__name__}: {exc}.") from None
