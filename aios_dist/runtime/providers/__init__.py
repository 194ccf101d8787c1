"""The way to a model: ``open_provider`` gives what ``await provider.call(request)`` is called on.

An adapter is named in ``aios.toml`` (``provider = "openai"``); a class of one's own by its place
(``provider = "my_pkg.my_module:MyProvider"``), made with ``MyProvider(name, model, env)``. No SDK is imported
until a model that needs it is opened. No retries happen here: they are the fleet's, not the process's.

``SdkProvider`` is what the adapters share. The official SDK makes the request (address, headers, key, TLS,
proxies) and aiohttp carries it, but bodies are encoded and replies decoded here: measured with 20 pieces a
reply, the SDK's own models cost 1.0 ms of CPU a call and 2.8 ms streamed, this way it is 0.5 ms and 0.8 ms.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from aios_dist import errors
from aios_dist.calls import LLMRequest, LLMResponse, Timings, ToolCall, Usage
from aios_dist.config import ModelConfig
from aios_dist.errors import ConfigError, LLMError


class Provider(Protocol):
    """One model, open for calls on one event loop; any number of calls may be in flight at once.

    ``name`` is the adapter's name and becomes ``LLMResponse.provider``.
    """

    name: str

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        """Ask the model once; cancelling the task closes the connection at once.

        Args:
            request: what is asked. ``request.model`` is not looked at: the provider was opened for one model.
            idempotency_key: sent as the header ``Idempotency-Key``, for gateways that heed it.

        Raises:
            LLMError: one of its classes; nothing else that a provider or a network can cause.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; the provider takes no call after that."""
        ...


class _Adapter(NamedTuple):
    place: str
    packages: tuple[str, ...]
    install: str
    key_env: str


ADAPTERS: Mapping[str, _Adapter] = {
    "openai": _Adapter(
        "aios_dist.runtime.providers.openai:OpenAIProvider",
        ("openai", "aiohttp"),
        "pip install 'aios-dist[worker]'",
        "OPENAI_API_KEY",
    ),
    "anthropic": _Adapter(
        "aios_dist.runtime.providers.anthropic:AnthropicProvider",
        ("anthropic", "aiohttp"),
        "pip install 'aios-dist[anthropic]'",
        "ANTHROPIC_API_KEY",
    ),
}
"""The adapters by the name they have in ``aios.toml``."""


def open_provider(name: str, model: ModelConfig, env: Mapping[str, str]) -> Provider:
    """Open one model. No connection is made before the first call.

    Args:
        name: the model's name in ``aios.toml``; also its name at the provider where ``model.model`` is None.
        model: its table.
        env: where the key is read from (``os.environ`` of the worker).

    Raises:
        ConfigError: see :func:`check_model`.
    """
    check_model(name, model, env)
    return cast(Provider, _load(name, model)(name, model, env))


def check_model(name: str, model: ModelConfig, env: Mapping[str, str]) -> None:
    """Do all the checks of :func:`open_provider`, without importing an SDK or opening anything.

    Raises:
        ConfigError: an unknown provider, a package that is not installed, a key that is not in ``env``, or a
            ``base_url`` that is none; one sentence that says what to do.
    """
    adapter = ADAPTERS.get(model.provider)
    if adapter is None:
        _load(name, model)
    else:
        missing = [package for package in adapter.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError(f"Model {name!r} needs the package {missing[0]!r}: {adapter.install}.")
    if model.base_url is not None and not model.base_url.startswith(("http://", "https://")):
        raise ConfigError(f"Model {name!r}: base_url {model.base_url!r} must start with http:// or https://.")
    key_of(name, model, env)


def key_of(name: str, model: ModelConfig, env: Mapping[str, str]) -> str | None:
    """The model's key, or None where it needs none: a server of one's own, given by ``base_url`` alone.

    With neither ``api_key_env`` nor ``base_url`` it is the variable that the SDK itself would read. What that
    variable holds is never sent to a ``base_url`` that did not ask for it.

    Raises:
        ConfigError: the variable is missing, empty, or holds what cannot be sent as a header.
    """
    adapter = ADAPTERS.get(model.provider)
    variable = model.api_key_env
    if variable is None:
        if model.base_url is not None or adapter is None:
            return None
        variable = adapter.key_env
    # A trailing line break is what `export KEY="$(cat file)"` and secret mounts often leave.
    key = env.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"Model {name!r} needs its key in the environment variable {variable}: set it for the worker."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"Model {name!r}: the key in {variable} has characters that no key has: set it again."
        )
    return key


def _load(name: str, model: ModelConfig) -> Any:
    """The adapter's class.

    Raises:
        ConfigError: there is none of that name or at that place.
    """
    adapter = ADAPTERS.get(model.provider)
    place = adapter.place if adapter is not None else model.provider
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        known = ", ".join(sorted(ADAPTERS))
        raise ConfigError(
            f"Model {name!r}: there is no provider {model.provider!r}; known are {known}, "
            f'or name a class of yours as "my_pkg.my_module:MyProvider".'
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(
            f"Model {name!r}: the provider {model.provider!r} cannot be imported: {exc}."
        ) from exc


class Reply(ABC):
    """An answer as it comes in; each protocol reads its own bytes.

    ``complete``: the provider said that this was all. ``refused``: why its filter stopped the answer, which
    then becomes ``ContentRefused``.
    """

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: dict[int, ToolCall] = {}
        self.finish_reason: str | None = None
        self.refused: str | None = None
        self.usage = Usage(calls=1)
        self.model: str | None = None
        self.complete = False

    @abstractmethod
    def whole(self, data: bytes) -> None:
        """Read an answer that did not stream.

        Raises:
            ProviderSaid: it is an error. msgspec.DecodeError: it is not of the protocol.
        """

    @abstractmethod
    def event(self, data: bytes) -> bool:
        """Read the data of one event of a stream; True if it was the last. Raises as :meth:`whole` does."""


class ProviderSaid(Exception):
    """An error that came in the place of an answer, or in the midst of one, after the status 200."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status, self.body = status, body


_Post = Callable[..., Awaitable[Any]]
_Close = Callable[[], Awaitable[None]]


class SdkProvider(ABC):
    """One model over the client of an official SDK: the call, its time limit and its errors.

    Args:
        name, model: as for :func:`open_provider`.
        post, close: of the SDK's asyncio client, which has ``max_retries=0`` and :func:`http_options`.
        key: hidden wherever a provider repeats it in an error.
    """

    name: str
    path: str
    reply: type[Reply]
    options: Mapping[str, Any] = {}
    connection_error: type[Exception]

    def __init__(self, name: str, model: ModelConfig, post: _Post, close: _Close, key: str | None) -> None:
        self.model = model.model or name
        self.config = model
        self._post = post
        self._close = close
        self._key = key

    @abstractmethod
    def body(self, request: LLMRequest) -> dict[str, Any]:
        """The request as the provider's JSON, with ``stream`` set."""

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        """See :meth:`Provider.call`."""
        body = self.body(request)
        # The three arguments that every method of the SDKs takes beside the provider's own options.
        headers, query = body.pop("extra_headers", {}), body.pop("extra_query", {})
        body.update(body.pop("extra_body", {}))
        if idempotency_key is not None:
            headers = {"Idempotency-Key": idempotency_key, **headers}
        reply = self.reply()
        started = time.monotonic()
        limit = asyncio.timeout(self.config.timeout)
        try:
            async with limit:
                first = await self._exchange(body, {"headers": headers, "params": query}, reply)
        except Exception as exc:
            # Never chained: the SDKs' exceptions carry the request with its key, and the provider's raw text.
            error = self._timed_out() if limit.expired() else self._error(exc)
            if error is None:
                raise
            raise error from None
        if reply.refused is not None:
            raise errors.ContentRefused(
                self._bounded(f"{self.name} refused to answer: {reply.refused}"), provider=self.name
            )
        return LLMResponse(
            text="".join(reply.text),
            tool_calls=list(reply.calls.values()),
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            model=reply.model or self.model,
            provider=self.name,
            timings=Timings(time.monotonic() - started, None if first is None else first - started),
        )

    async def aclose(self) -> None:
        """See :meth:`Provider.aclose`."""
        await self._close()

    async def _exchange(self, body: dict[str, Any], options: dict[str, Any], reply: Reply) -> float | None:
        """Send the body and read the reply; gives the time of a stream's first token."""
        import httpx2

        # stream=True: the SDK gives the response before its body, which is then read here, streamed or not.
        response: httpx2.Response = await self._post(
            self.path,
            cast_to=httpx2.Response,
            content=msgspec.json.encode(body),
            options={**self.options, **options},
            stream=True,
        )
        try:
            # A server may answer a request for a stream with the whole, as some gateways do.
            if body["stream"] and "json" not in response.headers.get("content-type", ""):
                return await self._read_stream(response, reply)
            reply.whole(await response.aread())
            return None
        finally:
            # Also when cancelled: a body that was not read to its end takes its connection with it.
            await response.aclose()

    async def _read_stream(self, response: Any, reply: Reply) -> float | None:
        """Read server-sent events, each with its data on one line, as all providers write them.

        https://html.spec.whatwg.org/multipage/server-sent-events.html
        """
        first: float | None = None
        rest, ended = b"", False
        pieces = response.aiter_bytes()
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    ended = reply.event(line[5:].strip()) or ended
                elif line.strip() and not line.startswith((b"event:", b":", b"id:", b"retry:")):
                    raise msgspec.DecodeError("the stream is not one of server-sent events")
            if first is None and (reply.text or reply.calls):
                first = time.monotonic()
            if ended:
                await _drain(pieces)
                break
        if not (ended or reply.complete):
            raise EOFError("the stream ended before the answer did")
        return first

    def _error(self, exc: Exception) -> LLMError | None:
        """The error of ours that stands for this one; None for a fault in the program, to be seen as such."""
        import aiohttp
        import httpx2

        if isinstance(exc, LLMError):
            return exc
        if isinstance(exc, ProviderSaid):
            return self._refusal(exc.status, exc.body, {})
        response = getattr(exc, "response", None)
        if isinstance(response, httpx2.Response):
            return self._refusal(response.status_code, getattr(exc, "body", None), response.headers)
        root: BaseException = exc
        # aiohttp raises ClientResponseError for what is not HTTP at all; only one of the SDKs wraps it.
        bad = isinstance(exc, msgspec.DecodeError | httpx2.DecodingError | aiohttp.ClientResponseError)
        while root.__cause__ is not None:
            root = root.__cause__
            bad = bad or isinstance(root, aiohttp.ClientResponseError)
        if bad:
            text = f"{self.name} answered what is not of its protocol: {errors.describe(root)}"
            return errors.BadReply(self._bounded(text), provider=self.name)
        broken = (self.connection_error, httpx2.TransportError, aiohttp.ClientError, OSError, EOFError)
        if isinstance(exc, broken):
            text = f"the connection to {self.name} broke: {errors.describe(root)}"
            return errors.ConnectionBroken(self._bounded(text), provider=self.name)
        return None

    def _timed_out(self) -> LLMError:
        text = f"{self.name} gave no whole answer within the model's timeout of {self.config.timeout:g} s"
        return errors.CallTimeout(text, provider=self.name)

    def _refusal(self, status: int, body: object, headers: Mapping[str, str]) -> LLMError:
        inner = body.get("error", body) if isinstance(body, Mapping) else body
        code = inner.get("code") or inner.get("type") if isinstance(inner, Mapping) else None
        told = inner.get("message") or inner.get("detail") if isinstance(inner, Mapping) else inner
        text = " ".join(str(told or "no reason given").split())
        kind = errors.ContentRefused if code in _FILTERED else _error_class(status)
        return kind(
            self._bounded(f"{self.name} answered {status}: {text}"),
            status=status,
            retry_after_s=retry_after_s(headers),
            code=code if isinstance(code, str) else None,
            provider=self.name,
        )

    def _bounded(self, text: str) -> str:
        """A text that may be journaled and logged: without the key, and not the whole page of a proxy."""
        text = text.replace(self._key, "***") if self._key else text
        return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


TEXT_LIMIT = 500
"""Characters of a provider's own words that an error keeps."""

CONNECT_S = 10.0
"""Seconds for a connection to be made; all that follows counts against the model's ``timeout`` alone."""

KEEP_ALIVE_S = 4.0
"""Seconds an idle connection is kept: less than the 5 of uvicorn (vLLM and most gateways), so that no call is
sent on a connection that the server is just closing."""

DRAIN_S = 0.1
"""Seconds that the end of a stream may take after its last event, to keep the connection for another call."""

_FILTERED = ("content_filter", "content_policy_violation")


def http_options() -> dict[str, Any]:
    """What the SDKs' aiohttp clients are made with: no limit but the worker's slots holds a call back."""
    import httpx2

    # None would become aiohttp's own limit of 100 connections.
    limits = httpx2.Limits(
        max_connections=10**6, max_keepalive_connections=10**6, keepalive_expiry=KEEP_ALIVE_S
    )
    return {"limits": limits, "timeout": httpx2.Timeout(None, connect=CONNECT_S)}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds of ``retry-after-ms`` or ``Retry-After`` (a number or a date), None where there is none.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                # Against the server's own clock where it tells it: ours may differ.
                now = headers.get("date")
                here = parsedate_to_datetime(now).timestamp() if now else time.time()
                seconds = parsedate_to_datetime(value).timestamp() - here
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _error_class(status: int) -> type[LLMError]:
    if status == 429:
        return errors.RateLimited
    if status in (408, 409) or status >= 500:
        return errors.ProviderBusy
    if status in (401, 403):
        return errors.NotAllowed
    return errors.ModelNotFound if status == 404 else errors.BadRequest


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read a stream past its last event to its end: only then can its connection carry the next call."""
    import httpx2

    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass
    except (TimeoutError, httpx2.HTTPError):
        pass
