"""The way to a model: ``open_provider`` gives what ``await provider.call(request)`` is called on.

An adapter is named in ``aios.toml`` (``provider = "openai"``); a class of one's own by its place
(``provider = "my_pkg.my_module:MyProvider"``), made with ``MyProvider(name, model, env)``. No SDK is imported
until a model that needs it is opened. No retries happen here: they are the fleet's, not the process's.

``SdkProvider`` is what the adapters share. The official SDK makes the request (address, headers, key, TLS,
proxies) and aiohttp carries it, but bodies are encoded and replies decoded here: measured with 20 pieces a
reply, the SDK's own models cost 1.0 ms of CPU a call and 2.8 ms streamed, this way it is 0.5 ms and 0.8 ms.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import msgspec
from msgspec.structs import replace

from aios_dist import errors
from aios_dist.config import ModelConfig, odd_option
from aios_dist.errors import ConfigError, LLMError
from aios_dist.model.calls import LLMRequest, LLMResponse, Timings, ToolCall
from aios_dist.model.options import OURS, given, odd_extra
from aios_dist.program.imports import importing
from aios_dist.text.masking import learn, masked
from aios_dist.worker.limits import Limit
from aios_dist.worker.providers.lenient import Truncated, clean, plain
from aios_dist.worker.providers.refusals import bounded, named, read_body, refusal
from aios_dist.worker.providers.replies import RAW_LIMIT as RAW_LIMIT
from aios_dist.worker.providers.replies import NoAnswer, ProviderSaid, Reply, TooLarge
from aios_dist.worker.providers.streams import read_stream
from aios_dist.worker.providers.waits import ASK_AGAIN

logger = logging.getLogger("aios_dist.providers")


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

        ``request.timeout`` need not be looked at: whoever calls ends the call then.

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
        "aios_dist.worker.providers.openai:OpenAIProvider",
        ("openai", "aiohttp"),
        "pip install 'aios-dist[worker]'",
        "OPENAI_API_KEY",
    ),
    "anthropic": _Adapter(
        "aios_dist.worker.providers.anthropic:AnthropicProvider",
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
            raise ConfigError.with_fix(
                f"Model {name!r} needs the package {missing[0]!r}", adapter.install, ": "
            )
    if model.base_url is not None and not model.base_url.startswith(("http://", "https://")):
        raise ConfigError(
            f"Model {name!r}: base_url {masked(model.base_url)!r} must start with http:// or https://."
        )
    led = FOREIGN.get(model.provider, "")
    if model.base_url is None and env.get(led):
        raise ConfigError(
            f"Model {name!r}: {led} is in the environment, which is not followed: set base_url of the model, "
            "be it the provider's own address."
        )
    if "timeout" in model.options:
        raise ConfigError(
            f"Model {name!r}: timeout is a setting of the model itself, and none of its options."
        )
    if said := _odd_options(model.options):
        raise ConfigError(f"Model {name!r}: of its options, {said}")
    key_of(name, model, env)


def _odd_options(options: Mapping[str, Any]) -> str:
    """What is wrong with options that every call of a model gets, as a sentence; "" where nothing is."""
    for name in ("messages", "model", "prompt", "system"):
        if name in options:
            return f"{name} is the call's own."
    own = odd_option(options.get("max_tokens"), options.get("temperature"))
    return own or odd_extra({name: value for name, value in options.items() if name not in OURS})


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
        raise ConfigError.with_fix(
            f"Model {name!r} needs its key in the environment variable {variable}",
            "set it for the worker",
            ": ",
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError.with_fix(
            f"Model {name!r}: the key in {variable} has characters that no key has", "set it again", ": "
        )
    learn(key)
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
    with importing(f"Model {name!r}: the provider {model.provider!r}"):
        return getattr(importlib.import_module(module), attribute)


FOREIGN = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL"}
"""Variables by which SDKs are led elsewhere. One that another program has set would get our prompts and our
key, one that is meant would be missed: so it is neither followed nor passed over."""

NO_KEY = "none"
"""Sent where a server of one's own asks for no key: the SDKs insist on one."""


class SdkProvider(ABC):
    """One model over the client of an official SDK: the call, its time limit and its errors.

    Args:
        name, model, env: as for :func:`open_provider`.

    Attributes:
        sdk, stream: the SDK's asyncio client, and its class of streams.
        address, path: where the provider itself is, and the calls there.
    """

    name: str
    sdk: Callable[..., Any]
    stream: Any
    path: str
    address: str
    reply: type[Reply]
    options: Mapping[str, Any] = {}
    connection_error: type[Exception]

    def __init__(self, name: str, model: ModelConfig, env: Mapping[str, str]) -> None:
        from aios_dist.worker.providers.transport import open_client

        http = open_client(model.answer_limit)
        self._client = self.sdk(
            # Given always, so that the SDK looks for no other credentials and no other address.
            api_key=key_of(name, model, env) or NO_KEY,
            base_url=model.base_url or self.address,
            max_retries=0,
            timeout=http.timeout,
            http_client=http,
        )
        # Headers that it has taken from the environment: of one account, they would go to any server.
        self._client.organization = self._client.project = None
        self._client._custom_headers = {}
        self.label = name
        self.model = model.model or name
        self._place = bounded(
            f"model {self.model!r} at {masked(model.base_url or self.address)}", PLACE_LIMIT
        )
        self.config = model
        self.left_out: list[str] = []
        self._said: set[str] = set()

    @abstractmethod
    def body(self, request: LLMRequest) -> dict[str, Any]:
        """The request as the provider's JSON, with ``stream`` set. ``self.left_out`` gets the names of
        options that the provider has no word for, and that are not sent.

        Raises:
            BadRequest: the provider cannot be asked that; ``detail["unsayable"]`` is set.
        """

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        """See :meth:`Provider.call`."""
        left_out: list[str] = []
        self.left_out = left_out  # nothing is awaited until it is full
        try:
            body = self.body(replace(request, extra=given(request.extra)))
        except (AttributeError, KeyError, TypeError) as exc:  # of a conversation of another form
            text = f"{self.name} cannot be asked this: a message, tool or option is not of OpenAI's form"
            raise errors.BadRequest(f"{text} ({errors.describe(exc)}).", provider=self.name) from None
        self._say(left_out)
        # The three arguments that every method of the SDKs takes beside the provider's own options.
        headers, query = body.pop("extra_headers", {}), body.pop("extra_query", {})
        body.update(body.pop("extra_body", {}))
        if idempotency_key is not None:
            headers = {"Idempotency-Key": idempotency_key, **headers}
        reply = self.reply()
        started = time.monotonic()
        bound = request.timeout
        own = bound is not None and bound < self.config.timeout
        limit = Limit(bound if bound is not None and own else self.config.timeout, self.config.stream_pause)
        first: float | None = None
        try:
            try:
                async with limit:
                    first = await self._exchange(body, {"headers": headers, "params": query}, reply, limit)
            except TimeoutError:
                if not reply.complete:  # else it waited for the end of an answer that is there
                    raise
            reply.settle()
            if reply.refused is not None:
                text = f"{self.name} refused to answer: {reply.refused}"
                raise errors.ContentRefused(named(text, self._place), provider=self.name)
            return self._response(reply, started, first, tuple(left_out))
        except Exception as exc:
            # Never chained: the SDKs' exceptions carry the request with its key, and the provider's raw text.
            late = limit.expired and not reply.complete
            error = (
                self._timed_out(limit.expired, bound if own else None) if late else self._error(exc, reply)
            )
            if error is None:
                raise
            # The error's frames live until Python looks for cycles. What came in, and may be large, must not.
            vars(reply).clear()
            raise error from None

    def _say(self, left_out: list[str]) -> None:
        new = [name for name in left_out if name not in self._said]
        if new:
            self._said.update(new)
            logger.warning(
                "Model %s is asked without %s: %s has no word for that. (Said once; each answer has it in "
                "left_out, and so does `aios-dist job show`.)",
                *(self.label, ", ".join(new), self.name),
            )

    def _response(
        self, reply: Reply, started: float, first: float | None, left_out: tuple[str, ...]
    ) -> LLMResponse:
        calls: list[ToolCall] = []
        for call in reply.calls.values():
            id, arguments = call.id, clean(call.arguments)
            if not id or any(id == other.id for other in calls):  # a result must find its call
                id = f"call_{secrets.token_hex(8)}"
            calls.append(
                ToolCall(id, clean(call.name), "{}" if arguments.strip() in ("", "null") else arguments)
            )
        return LLMResponse(
            text=clean("".join(reply.text)),
            tool_calls=calls,
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            model=reply.model or self.model,
            provider=self.name,
            timings=Timings(time.monotonic() - started, None if first is None else first - started),
            left_out=left_out,
            own=plain(reply.own(calls)),
        )

    async def aclose(self) -> None:
        """See :meth:`Provider.aclose`."""
        await self._client.close()

    async def _exchange(
        self, body: dict[str, Any], options: dict[str, Any], reply: Reply, limit: Limit
    ) -> float | None:
        """Send the body and read the reply; gives the time of a stream's first token."""
        import httpx2

        # stream=True: the SDK gives the response before its body, which is then read here, streamed or not.
        response: httpx2.Response = await self._client.post(
            self.path,
            stream_cls=self.stream,
            cast_to=httpx2.Response,
            content=msgspec.json.encode(body),
            options={**self.options, **options},
            stream=True,
        )
        reply.headers = response.headers
        try:
            kind = response.headers.get("content-type", "")
            # A server may answer a request for a stream with the whole, as some gateways do.
            if "event-stream" in kind or (body["stream"] and "json" not in kind):
                return await read_stream(_heard(response.aiter_bytes(), reply, limit), reply)
            await self._read_whole(response, reply)
            return None
        finally:
            # Also when cancelled: a body that was not read to its end takes its connection with it.
            await response.aclose()

    async def _read_whole(self, response: Any, reply: Reply) -> None:
        pieces: list[bytes] = []
        broke: BaseException | None = None
        try:
            async for piece in response.aiter_bytes():
                reply.keep(piece)
                pieces.append(piece)
        except TooLarge:
            pieces.clear()  # see call()
            raise
        except BaseException as exc:  # also that its time is over
            broke = exc
        data = b"".join(pieces)
        pieces.clear()
        try:
            # A stream that nobody asked for, or that is not called one.
            if _EVENTS.match(data) or _LINES.match(data):
                await read_stream(_one(data), reply)
            elif not _ANSWER.match(data):
                raise NoAnswer(data)
            else:
                reply.whole(data)
        except (msgspec.DecodeError, NoAnswer, EOFError):
            # What decodes as whole is the answer, also where its connection ended in disorder.
            if broke is not None:
                raise broke from None
            raise
        finally:
            del data
        if not isinstance(broke, Exception | None):
            raise broke

    def _error(self, exc: Exception, reply: Reply) -> LLMError | None:
        """The error of ours that stands for this one; None for a fault in the program, to be seen as such."""
        import aiohttp
        import httpx2

        if isinstance(exc, LLMError):
            return exc
        if isinstance(exc, ProviderSaid):
            # Of its headers no more: what an answer says of limits is no word on when to come again.
            told = {name: reply.headers[name] for name in (*ASK_AGAIN, "date") if name in reply.headers}
            return refusal(self.name, exc.status, exc.body, told, self._place, after_all=True)
        if isinstance(exc, NoAnswer):
            text = f"{self.name} answered 200 without an answer: {' '.join(str(exc).split())}"
            return errors.ProviderBusy(named(text, self._place), status=200, provider=self.name)
        if isinstance(exc, TooLarge):
            return self._bad_reply(f"the answer of {self.name} is {exc}: it was cut off", reply)
        response = getattr(exc, "response", None)
        if isinstance(response, httpx2.Response):
            body = read_body(response.content) if response.is_closed else getattr(exc, "body", None)
            return refusal(self.name, response.status_code, body, response.headers, self._place)
        root: BaseException = exc
        if isinstance(exc, Truncated | EOFError):
            return self._broken(f"the answer of {self.name} ended in its middle: {self._came(reply)}")
        # aiohttp raises ClientResponseError for what is not HTTP at all; only one of the SDKs wraps it.
        bad = isinstance(exc, msgspec.DecodeError | httpx2.DecodingError | aiohttp.ClientResponseError)
        while root.__cause__ is not None:
            root = root.__cause__
            bad = bad or isinstance(root, aiohttp.ClientResponseError)
        if bad:
            text = f"{self.name} answered what is not of its protocol: {errors.describe(root)}"
            return self._bad_reply(text, reply)
        broken = (self.connection_error, httpx2.TransportError, aiohttp.ClientError, OSError)
        if isinstance(exc, broken):
            return self._broken(f"the connection to {self.name} broke: {errors.describe(root)}")
        if reply.raw:
            # The call was answered, so paid for: that we cannot read it is no reason to pay again.
            return self._bad_reply(f"the answer of {self.name} cannot be read: {errors.describe(exc)}", reply)
        return None

    def _broken(self, text: str) -> LLMError:
        return errors.ConnectionBroken(named(text, self._place), provider=self.name)

    def _came(self, reply: Reply) -> str:
        return " ".join(bytes(reply.raw).decode("utf-8", "replace").split()) or "nothing came"

    def _bad_reply(self, text: str, reply: Reply) -> LLMError:
        raw = bytes(reply.raw).decode("utf-8", "backslashreplace")
        kept = bounded(raw, RAW_LIMIT) if raw else None
        return errors.BadReply(named(text, self._place), provider=self.name, raw=kept)

    def _timed_out(self, what: str, bound: float | None) -> LLMError:
        """``bound``: the call's own, where that is what is over."""
        if what == "timeout" and bound is not None:
            return call_timeout(self.name, bound, self._place)
        text = f"{self.name} gave no whole answer within the model's timeout of {self.config.timeout:g} s"
        if what == "pause":
            pause = self.config.stream_pause
            text = f"the answer of {self.name} stood still for the model's stream_pause of {pause:g} s"
        return errors.CallTimeout(named(text, self._place), provider=self.name)


def call_timeout(name: str, seconds: float, place: str = "") -> errors.CallTimeout:
    """A call that took all the time its agent gave it (``llm(…, timeout=…)``): no word on the model."""
    text = f"{name} gave no whole answer within the call's own timeout of {seconds:g} s"
    return errors.CallTimeout(named(text, place) if place else text, provider=name, own=True)


async def _heard(pieces: AsyncIterator[bytes], reply: Reply, limit: Limit) -> AsyncIterator[bytes]:
    """The pieces; from the first on that has something of the answer, they may not stay away for long."""
    async for piece in pieces:
        yield piece
        if reply.text or reply.calls:
            limit.heard()


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


_BOM = rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\0?\s*"
_ANSWER = re.compile(_BOM + rb"[\[{\"]")
"""How JSON begins; all else is a page, or the words of a proxy, whatever the server calls it."""

_EVENTS = re.compile(_BOM + rb"(?:data|event|id|retry)?:")
"""How a stream begins."""

_LINES = re.compile(_BOM + rb'\{[^\n]*"delta"[^\n]*\}\s*\n\s*\{')
"""… one of bare lines, as some servers have it."""

PLACE_LIMIT = 160
"""Characters of an error that say which model it was, and where."""
