"""A protocol as a pure codec: a request to bytes, bytes to an answer or its error. No I/O and no clock.

Each provider is one subclass of :class:`Codec`; what carries the bytes, and how long that may take, is
:class:`~aios_dist.worker.providers.calling.HttpProvider`'s.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

import msgspec
from msgspec.structs import replace

import aios_dist
from aios_dist import errors
from aios_dist.config import ModelConfig
from aios_dist.errors import BadRequest, FinalLLMError, LLMError
from aios_dist.model.calls import LLMRequest, LLMResponse, Timings, ToolCall
from aios_dist.model.options import given
from aios_dist.text.masking import masked
from aios_dist.worker.providers.incoming import Incoming
from aios_dist.worker.providers.lenient import Truncated, clean, plain
from aios_dist.worker.providers.refusals import bounded, named, read_body, refusal
from aios_dist.worker.providers.replies import (
    RAW_LIMIT,
    LineBroke,
    NoAnswer,
    NotHttp,
    ProviderSaid,
    Refused,
    Reply,
    TooLarge,
)
from aios_dist.worker.providers.waits import ASK_AGAIN

FIELDS = ("temperature", "max_tokens", "tools", "response_format")
"""Of a request, that are options of OpenAI's by the same names."""

NO_KEY = "none"
"""Sent where a server of one's own asks for no key: some want one and take any, as the SDKs insist on one."""

PLACE_LIMIT = 160
"""Characters of an error that say which model it was, and where."""


class Asked(NamedTuple):
    """A request as it is sent: a POST.

    Attributes:
        url: all of it, without a user's name.
        headers: by their names in lower case.
        body: JSON.
        streams: it asks for a stream.
        left_out: names of options that the provider has no word for, and that are not in it.
    """

    url: str
    headers: dict[str, str]
    body: bytes
    streams: bool
    left_out: tuple[str, ...]


class Otherwise(NamedTuple):
    """A request in the place of one that was refused.

    Attributes:
        request: what is asked.
        mark: what its idempotency key ends with.
    """

    request: LLMRequest
    mark: str


class Codec(ABC):
    """One model in the words of its protocol.

    Args:
        label: the model's name in ``aios.toml``; also its name at the provider where ``model.model`` is None.
        model: its table.
        key: sent with each request.

    Attributes:
        name: of the adapter.
        address, path: where the provider itself is, and the calls there.
        key_header: has the key; any other than ``authorization`` has it as it is, and is not sent without.
        url: where this model is.
        headers: of the protocol, by their names in lower case, sent with each request.
        reply: reads an answer.
    """

    name: ClassVar[str]
    address: ClassVar[str]
    path: ClassVar[str]
    key_header: ClassVar[str] = "authorization"
    headers: ClassVar[Mapping[str, str]] = {}
    reply: ClassVar[type[Reply]]

    def __init__(self, label: str, model: ModelConfig, key: str | None) -> None:
        self.label = label
        self.model = model.model or label
        self.config = model
        base = urlsplit(model.base_url or self.address)
        self.place = bounded(f"model {self.model!r} at {masked(model.base_url or self.address)}", PLACE_LIMIT)
        login, _, host = base.netloc.rpartition("@")
        self._base = f"{base.scheme}://{host}{base.path.rstrip('/')}"
        self.url = self._base + self.path
        self._query = base.query
        self._headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": f"aios-dist/{aios_dist.__version__}",
            **self._key(key, unquote(login)),
            **self.headers,
        }

    def _key(self, key: str | None, login: str) -> dict[str, str]:
        if key is None and self.config.credentials is not None:
            return {}
        if login and key is None:
            return {"authorization": f"Basic {b64encode(login.encode()).decode()}"}
        if self.key_header == "authorization":
            return {self.key_header: f"Bearer {key or NO_KEY}"}
        return {self.key_header: key} if key is not None else {}

    # -- a request to bytes ----------------------------------------------------------------------------

    @abstractmethod
    def body(self, request: LLMRequest, left_out: list[str]) -> dict[str, Any]:
        """The request as the provider's JSON, with ``stream`` set; ``extra_headers``, ``extra_query`` and
        ``extra_body`` are no fields of it, and taken out again.

        Args:
            request: what is asked.
            left_out: gets the names of options that the provider has no word for, and that are not sent.

        Raises:
            BadRequest: the provider cannot be asked that; ``detail["unsayable"]`` is set.
        """

    def encode(self, request: LLMRequest, idempotency_key: str | None = None) -> Asked:
        """The request as it is sent.

        Raises:
            BadRequest: as of :meth:`body`, or what is asked is not of OpenAI's form.
        """
        left_out: list[str] = []
        try:
            body = self.body(replace(request, extra=given(request.extra)), left_out)
        except (AttributeError, KeyError, TypeError) as exc:  # of a conversation of another form
            text = f"{self.name} cannot be asked this: a message, tool or option is not of OpenAI's form"
            raise BadRequest(f"{text} ({errors.describe(exc)}).", provider=self.name) from None
        # The three arguments that every method of the official SDKs takes beside the provider's own options.
        extra, query = body.pop("extra_headers", {}), body.pop("extra_query", {})
        body.update(body.pop("extra_body", {}))
        headers = dict(self._headers)
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        headers.update((name.lower(), value) for name, value in extra.items())
        streams = bool(body["stream"])
        path, _, own = self.place_of(body).partition("?")
        queries = [self._query, own]
        if query:
            queries.append(urlencode([pair for name in query for pair in _pairs(name, query[name])]))
        url = "?".join(filter(None, (self._base + path, "&".join(filter(None, queries)))))
        return Asked(url, headers, msgspec.json.encode(body), streams, tuple(left_out))

    @staticmethod
    def say(body: dict[str, Any], request: LLMRequest, fields: Sequence[str] = FIELDS) -> None:
        """Write over the model's options what a call itself says: its fields, over them its ``extra``."""
        for field in fields:
            value = getattr(request, field)
            if value is not None:
                body[field] = value
        body.update(request.extra)

    def place_of(self, body: dict[str, Any]) -> str:
        """The path of a request, and behind a ``?`` what the protocol has in its query.

        Args:
            body: as it is sent; what stands in the path in its place may be taken out of it.
        """
        return self.path

    def otherwise(self, request: LLMRequest, refused: FinalLLMError) -> Otherwise | None:
        """What to ask, once more, in the place of a request that was refused; None where nothing would be
        another."""
        return None

    # -- bytes to an answer, or its error --------------------------------------------------------------

    def incoming(self, asked: Asked) -> Incoming:
        """What reads the answer to that request."""
        return Incoming(self.reply(), asked.streams)

    def answer(self, reply: Reply, left_out: tuple[str, ...], timings: Timings) -> LLMResponse:
        """The answer that has come.

        Raises:
            ContentRefused: the provider's filter stopped it.
        """
        reply.settle()
        if reply.refused is not None:
            text = f"{self.name} refused to answer: {reply.refused}"
            raise errors.ContentRefused(named(text, self.place), provider=self.name)
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
            timings=timings,
            left_out=left_out,
            own=plain(reply.own(calls)),
        )

    def error(self, exc: Exception, incoming: Incoming, now: float) -> LLMError | None:
        """The error of ours that stands for this one; None for a fault in the program, to be seen as such.

        Args:
            exc: what :class:`Incoming` or the line has raised.
            incoming: as far as it came.
            now: seconds since 1970; providers say in moments when to come again.
        """
        reply, headers = incoming.reply, incoming.headers
        if isinstance(exc, LLMError):
            return exc
        if isinstance(exc, Refused):
            return refusal(self.name, exc.status, read_body(exc.body), headers, self.place, now)
        if isinstance(exc, ProviderSaid):
            # Of its headers no more: what an answer says of limits is no word on when to come again.
            told = {name: headers[name] for name in (*ASK_AGAIN, "date") if name in headers}
            return refusal(self.name, exc.status, exc.body, told, self.place, now, after_all=True)
        if isinstance(exc, NoAnswer):
            text = f"{self.name} answered 200 without an answer: {' '.join(str(exc).split())}"
            return errors.ProviderBusy(named(text, self.place), status=200, provider=self.name)
        if isinstance(exc, TooLarge):
            return self._bad_reply(f"the answer of {self.name} is {exc}: it was cut off", reply)
        if isinstance(exc, Truncated | EOFError):
            return self._broken(f"the answer of {self.name} ended in its middle: {_came(reply)}")
        if isinstance(exc, msgspec.DecodeError | NotHttp):
            why = str(exc) if isinstance(exc, NotHttp) else errors.describe(exc)
            return self._bad_reply(f"{self.name} answered what is not of its protocol: {why}", reply)
        if isinstance(exc, LineBroke):
            return self._broken(f"the connection to {self.name} broke: {exc}")
        if reply.raw:
            # The call was answered, so paid for: that we cannot read it is no reason to pay again.
            return self._bad_reply(f"the answer of {self.name} cannot be read: {errors.describe(exc)}", reply)
        return None

    def _broken(self, text: str) -> LLMError:
        return errors.ConnectionBroken(named(text, self.place), provider=self.name)

    def _bad_reply(self, text: str, reply: Reply) -> LLMError:
        raw = bytes(reply.raw).decode("utf-8", "backslashreplace")
        kept = bounded(raw, RAW_LIMIT) if raw else None
        return errors.BadReply(named(text, self.place), provider=self.name, raw=kept)


def _came(reply: Reply) -> str:
    return " ".join(bytes(reply.raw).decode("utf-8", "replace").split()) or "nothing came"


def _pairs(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A parameter of a query as the official SDKs write it: lists and tables in brackets."""
    if isinstance(value, Mapping):
        for inner, entry in value.items():
            yield from _pairs(f"{name}[{inner}]", entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _pairs(f"{name}[]", entry)
    elif value is not None:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)
