"""What a claimed step does: call a provider, or run a tool; and what becomes of a call that failed."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from aios_dist import retries
from aios_dist.agents import as_json
from aios_dist.calls import LLMRequest, LLMResponse
from aios_dist.commands import Tool
from aios_dist.config import Config
from aios_dist.errors import (
    BadRequest,
    ContentRefused,
    FinalLLMError,
    LLMError,
    RateLimited,
    ToolError,
    describe,
)
from aios_dist.jobs import decode
from aios_dist.journal import Claim
from aios_dist.replay import Replay
from aios_dist.runtime.faults import point
from aios_dist.runtime.providers import Provider

logger = logging.getLogger("aios_dist.steps")


class Again(NamedTuple):
    """A failed call is not the step's outcome: it is tried again.

    Attributes:
        after: seconds.
        hold: seconds for which nobody calls the model (the provider said so).
        breaker: the model's setting.
        model: another model that the step goes to, or "" for the same.
    """

    after: float
    hold: float
    breaker: int
    model: str = ""


class Steps:
    """Calls and tools of one worker."""

    def __init__(
        self, config: Config, default_model: str | None, providers: Mapping[str, Provider], slots: int
    ) -> None:
        self._config = config
        self._default = default_model
        self._providers = providers
        # Tools have threads of their own: one that takes a minute must not keep a turn waiting.
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="aios-tool")

    async def call(self, claim: Claim) -> LLMResponse:
        """Call the step's model.

        Raises:
            LLMError: it brought no answer.
        """
        request = _request(claim)
        provider = self._providers.get(claim.label)
        if provider is None:
            raise FinalLLMError(
                f"This worker has no model {claim.label!r}; give all workers of a lane the same [models.*]."
            )
        point("call")
        try:
            return await provider.call(request, idempotency_key=f"{claim.job}/{claim.step}")
        except LLMError:
            raise
        except Exception as exc:
            logger.exception("The provider's adapter broke on %s/%s.", claim.job, claim.step)
            raise FinalLLMError(f"The provider's adapter broke: {type(exc).__name__}.") from exc

    async def tool(self, claim: Claim, replay: Replay | None) -> object:
        """Run the step's tool, which the program holds.

        Raises:
            ToolError: the function raised, or what it returned cannot be kept.
        """
        number = int(claim.step)
        if replay is None or number >= len(replay.asked):
            raise ToolError("The agent's program no longer asks for this tool.")
        command = replay.asked[number].command
        assert isinstance(command, Tool)
        try:
            if inspect.iscoroutinefunction(inspect.unwrap(getattr(command.call, "func", command.call))):
                value = await command.call()
            else:
                value = await asyncio.get_running_loop().run_in_executor(self._threads, command.call)
                if inspect.isawaitable(value):
                    value = await value
            value = as_json(value, f"result of tool {claim.label!r}")
            size, limit = len(msgspec.json.encode(value)), self._config.fleet.result_limit
            if size > limit:
                raise ValueError(
                    f"the result has {size:,} bytes, more than result_limit ({limit:,}); return a reference"
                )
            return value
        except (Exception, SystemExit) as exc:
            raise ToolError(f"{claim.label}: {describe(exc)}", error=type(exc).__name__) from exc

    def again(self, claim: Claim, error: Exception) -> Again | None:
        """Whether a failed call is tried again: later, or with another model; None when it is the outcome."""
        model = self._config.models.get(claim.label)
        if model is None or not isinstance(error, LLMError):
            return None
        patience = retries.Patience(model.attempts, model.backoff, model.backoff_max)
        pause = retries.pause(error, claim.tries + 1, patience, random.random())
        waited = (claim.started_us - claim.ready_us) / 1e6
        if pause is not None and waited + pause <= self._config.fleet.step_deadline:
            # 429 is the provider's word to all of us, also where it names no time; so is a time with a 503.
            told = isinstance(error, RateLimited) or bool(error.detail.get("retry_after_s"))
            hold = max(pause, model.backoff / 2) if told else 0.0
            return Again(max(pause, 0.001), hold, model.breaker)
        other = self._next_model(claim)
        if other is not None and not isinstance(error, (BadRequest, ContentRefused)):
            return Again(0.0, 0.0, model.breaker, other)
        return None

    def _next_model(self, claim: Claim) -> str | None:
        """The model after the one that has just failed, in the order of the first one's ``fallback``."""
        first = _request(claim).model or self._default
        if first is None or first not in self._config.models:
            return None
        chain = list(dict.fromkeys([first, *self._config.models[first].fallback]))
        place = chain.index(claim.label) + 1 if claim.label in chain else len(chain)
        return chain[place] if place < len(chain) else None


def _request(claim: Claim) -> LLMRequest:
    try:
        return decode(claim.request, LLMRequest)
    except msgspec.DecodeError as exc:
        raise BadRequest(f"The journaled request cannot be read: {exc}.") from None
