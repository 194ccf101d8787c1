"""OpenAI's chat completions, and all that speak them: vLLM, Ollama, llama.cpp, most gateways.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import openai

from aios_dist.calls import LLMRequest, ToolCall, Usage
from aios_dist.config import ModelConfig
from aios_dist.runtime.providers import ProviderSaid, Reply, SdkProvider, http_options, key_of

NO_KEY = "none"
"""Sent where a server of one's own asks for no key: the SDK insists on one."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    """A message, or a stream's delta of one. Some servers give the content as a list of parts."""

    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    """What is read of a completion and of a chunk of one; every field may be missing."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Completion).decode
_STATUS_OF = {"rate_limit_exceeded": 429, "insufficient_quota": 429, "invalid_request_error": 400}


class CompletionReply(Reply):
    """Reads a completion. Of several choices (``n``) the first is the answer."""

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        self._read(_decode(data))
        if not self.complete:
            raise msgspec.DecodeError("a completion without a choice")

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        if data == b"[DONE]":
            return True
        self._read(_decode(data))
        return False

    def _read(self, completion: _Completion) -> None:
        if completion.error:
            raise ProviderSaid(_status_of(completion.error), completion.error)
        if completion.usage is not None:
            told = completion.usage
            self.usage = Usage(told.prompt_tokens or 0, told.completion_tokens or 0, calls=1)
        self.model = self.model or completion.model
        for choice in completion.choices or ():
            if choice.index:
                continue
            message = choice.delta or choice.message
            if message is not None:
                self._add(message)
            if choice.finish_reason is not None or choice.message is not None:
                self.complete = True
                self.finish_reason = choice.finish_reason
                if choice.finish_reason == "content_filter":
                    self.refused = "its content filter stopped the answer"

    def _add(self, message: _Message) -> None:
        if isinstance(message.content, str):
            if message.content:
                self.text.append(message.content)
        elif message.content:
            self.text += [text for part in message.content if isinstance(text := part.get("text"), str)]
        if message.refusal:
            self.refused = (self.refused or "") + message.refusal
        for piece in message.tool_calls or ():
            function = piece.function or _Function()
            at = piece.index
            if at is None:
                # Some servers number nothing: an id then begins the next call.
                at = len(self.calls) if piece.id or not self.calls else len(self.calls) - 1
            known = self.calls.get(at, ToolCall("", "", ""))
            self.calls[at] = ToolCall(
                known.id or piece.id or "",
                known.name or function.name or "",
                known.arguments + (function.arguments or ""),
            )


class OpenAIProvider(SdkProvider):
    """A model behind OpenAI's protocol; see :class:`SdkProvider` and :func:`open_provider`."""

    name = "openai"
    path = "/chat/completions"
    # Without this the SDK would also send the organisation's admin key, where the environment has one.
    options: Mapping[str, Any] = {"security": {"bearer_auth": True}}
    reply = CompletionReply
    connection_error = openai.APIConnectionError

    def __init__(self, name: str, model: ModelConfig, env: Mapping[str, str]) -> None:
        key = key_of(name, model, env)
        http = http_options()
        client = openai.AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=model.base_url,
            max_retries=0,
            timeout=http["timeout"],
            http_client=openai.DefaultAioHttpClient(**http),
        )
        post = partial(client.post, stream_cls=openai.AsyncStream[Any])
        super().__init__(name, model, post, client.close, key)

    def body(self, request: LLMRequest) -> dict[str, Any]:
        """The model's options, over them the request's fields, over them its ``extra``, all untouched."""
        body = {"stream": self.config.stream, **self.config.options}
        body |= {"model": self.model, "messages": request.messages}
        for field in ("temperature", "max_tokens", "tools", "response_format"):
            value = getattr(request, field)
            if value is not None:
                body[field] = value
        body.update(request.extra)
        if body["stream"]:
            body.setdefault("stream_options", {"include_usage": True})
        return body


def _status_of(error: Any) -> int:
    """The HTTP status for an error told in the midst of an answer; 500 where nothing says otherwise."""
    if not isinstance(error, dict):
        return 500
    code = error.get("code")
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    return _STATUS_OF.get(str(code), _STATUS_OF.get(str(error.get("type")), 500))
