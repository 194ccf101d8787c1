"""A call of a model over HTTP: its codec says what goes out, and reads what comes back in the time it has."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping

from aios_dist import errors
from aios_dist.errors import BadRequest, ModelNotFound, NotAllowed
from aios_dist.model.calls import LLMRequest, LLMResponse, Timings
from aios_dist.worker.limits import Limit
from aios_dist.worker.providers.codec import Asked, Codec
from aios_dist.worker.providers.credentials import Credentials
from aios_dist.worker.providers.incoming import Incoming
from aios_dist.worker.providers.refusals import named
from aios_dist.worker.providers.replies import LineBroke, NotHttp, TooLarge

logger = logging.getLogger("aios_dist.providers")

DRAIN_S = 0.1
"""Seconds that the end of a stream may take after its last event, to keep the connection for another call."""


class HttpProvider:
    """One model behind a protocol; see :class:`~aios_dist.worker.providers.Provider`.

    Args:
        codec: its protocol.
        credentials: what gives further headers, where the model has any.
    """

    def __init__(self, codec: Codec, credentials: Credentials | None = None) -> None:
        from aios_dist.worker.providers.transport import Line

        self.name = codec.name
        self.codec = codec
        self._credentials = credentials
        self._line = Line(codec.url, codec.config.answer_limit)
        self._said: set[str] = set()

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        """See :meth:`Provider.call`. What its server refuses and can be said otherwise is asked once more."""
        try:
            return await self._call(request, idempotency_key)
        except (BadRequest, ModelNotFound) as error:
            another = self.codec.otherwise(request, error)
            if another is None:
                raise
        key = None if idempotency_key is None else idempotency_key + another.mark
        return await self._call(another.request, key)

    async def _call(self, request: LLMRequest, idempotency_key: str | None) -> LLMResponse:
        codec = self.codec
        asked = codec.encode(request, idempotency_key)
        self._say(asked.left_out)
        credentials = self._credentials
        if credentials is None:
            return await self._send(request, asked)
        since = time.monotonic()
        given = await credentials.headers(asked)
        try:
            return await self._send(request, _with(asked, given))
        except NotAllowed as error:
            # What is kept may have been revoked. A refusal like this costs nothing.
            if error.detail.get("status") != 401 or not credentials.forget(given, since):
                raise
        return await self._send(request, _with(asked, await credentials.headers(asked)))

    async def _send(self, request: LLMRequest, asked: Asked) -> LLMResponse:
        codec, config = self.codec, self.codec.config
        incoming = codec.incoming(asked)
        reply = incoming.reply
        started = time.monotonic()
        bound = request.timeout
        own = bound is not None and bound < config.timeout
        limit = Limit(bound if bound is not None and own else config.timeout, config.stream_pause)
        first: float | None = None
        try:
            try:
                async with limit:
                    first = await self._exchange(asked, incoming, limit)
            except TimeoutError:
                if not reply.complete:  # else it waited for the end of an answer that is there
                    raise
            timings = Timings(time.monotonic() - started, None if first is None else first - started)
            return codec.answer(reply, asked.left_out, timings)
        except Exception as exc:
            if limit.expired and not reply.complete:
                error: errors.LLMError | None = self._timed_out(limit.expired, bound if own else None)
            else:
                error = codec.error(exc, incoming, time.time())
            if error is None:
                raise
            # The error's frames live until Python looks for cycles. What came in, and may be large, must not.
            vars(reply).clear()
            raise error from None

    async def _exchange(self, asked: Asked, incoming: Incoming, limit: Limit) -> float | None:
        """Send it and read the answer; gives the time of a stream's first token."""
        answer = await self._line.post(asked)
        first: float | None = None
        broke: BaseException | None = None
        try:
            incoming.head(answer.status, answer.headers)
            pieces = answer.pieces()
            try:
                async for piece in pieces:
                    incoming.feed(piece)
                    if incoming.begun:
                        first = first or time.monotonic()
                        limit.heard()  # from now on the next may not stay away for long
                    if incoming.over:
                        break
            except BaseException as exc:  # also that its time is over: what has come may be all
                broke = exc
            if incoming.tidy:
                await _drain(pieces)
            incoming.end(broke)
        finally:
            # Also when cancelled: a body that was not read to its end takes its connection with it.
            answer.close()
        return first

    def _say(self, left_out: tuple[str, ...]) -> None:
        new = [name for name in left_out if name not in self._said]
        if new:
            self._said.update(new)
            logger.warning(
                "Model %s is asked without %s: %s has no word for that. (Said once; each answer has it in "
                "left_out, and so does `aios-dist job show`.)",
                *(self.codec.label, ", ".join(new), self.name),
            )

    def _timed_out(self, what: str, bound: float | None) -> errors.LLMError:
        """``bound``: the call's own, where that is what is over."""
        config, place = self.codec.config, self.codec.place
        if what == "timeout" and bound is not None:
            return call_timeout(self.name, bound, place)
        text = f"{self.name} gave no whole answer within the model's timeout of {config.timeout:g} s"
        if what == "pause":
            pause = config.stream_pause
            text = f"the answer of {self.name} stood still for the model's stream_pause of {pause:g} s"
        return errors.CallTimeout(named(text, place), provider=self.name)

    async def aclose(self) -> None:
        """See :meth:`Provider.aclose`."""
        if self._credentials is not None:
            self._credentials.close()
        await self._line.aclose()


def _with(asked: Asked, headers: Mapping[str, str]) -> Asked:
    return asked._replace(headers={**asked.headers, **headers})


def call_timeout(name: str, seconds: float, place: str = "") -> errors.CallTimeout:
    """A call that took all the time its agent gave it (``llm(…, timeout=…)``): no word on the model."""
    text = f"{name} gave no whole answer within the call's own timeout of {seconds:g} s"
    return errors.CallTimeout(named(text, place) if place else text, provider=name, own=True)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read a stream past its last event to its end: only then can its connection carry the next call."""
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass
    except (TimeoutError, LineBroke, NotHttp, TooLarge):
        pass
