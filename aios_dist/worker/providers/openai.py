"""OpenAI's chat completions, and all that speak them: vLLM, Ollama, llama.cpp, most gateways.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import openai

from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import NoAnswer, ProviderSaid, Reply, SdkProvider, to_openai
from aios_dist.worker.providers.lenient import (
    arguments_of,
    count,
    decode,
    table,
    tables,
    text_of,
    usage,
    word,
)

_STATUS_OF = {"rate_limit_exceeded": 429, "insufficient_quota": 429, "invalid_request_error": 400}
_GIVEN_UP = ("error", "network_error", "insufficient_system_resource", "abort")
"""Reasons with which servers end an answer that they could not finish."""
_OF_A_PIECE = {"index", "delta", "finish_reason", "logprobs"}
_OF_A_DELTA = {"role", "content"}


class CompletionReply(Reply):
    """Reads a completion. Of several choices (``n``) the first is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._place: dict[object, int] = {}

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        completion = decode(data)
        self._read(completion)
        if not self.complete:
            if table(completion).get("choices") or not isinstance(completion, dict | None):
                raise msgspec.DecodeError("a completion without a choice")
            if completion and "choices" not in completion:
                raise ProviderSaid(_status_of(completion), completion)
            raise NoAnswer(data)

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        if data == b"[DONE]":
            return True
        self._read(decode(data))
        return False

    def _read(self, said: Any) -> None:
        completion = (
            said if isinstance(said, dict) else table(said[0] if isinstance(said, list) and said else 0)
        )
        error = completion.get("error") or (completion if completion.get("object") == "error" else None)
        if error:
            raise ProviderSaid(_status_of(error), error)
        told = completion.get("usage")
        if isinstance(told, dict):
            self.usage = usage(told.get("prompt_tokens"), told.get("completion_tokens"))
        if self.model is None:
            self.model = word(completion.get("model"))
        for choice in tables(completion.get("choices")):
            index = choice.get("index")
            if not (index and count(index)):
                self._choose(choice)

    def _choose(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if choice.keys() <= _OF_A_PIECE and choice.get("finish_reason") is None and isinstance(delta, dict):
            text = delta.get("content")
            if isinstance(text, str) and delta.keys() <= _OF_A_DELTA:
                if text:
                    self.text.append(text)
                return  # nearly every piece of a stream is this, so it is read first
        reason = word(choice.get("finish_reason"))
        if choice.get("error"):
            raise ProviderSaid(_status_of(choice["error"]), choice["error"])
        if reason in _GIVEN_UP:
            raise ProviderSaid(500, f"the answer ended with the reason {reason!r}")
        whole = isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str)
        message = table(choice.get("delta")) or table(choice.get("message"))
        if text := text_of(message.get("content") or choice.get("text")):
            self.text.append(text)
        if isinstance(refusal := message.get("refusal"), str) and refusal:
            self.refused = (self.refused or "") + refusal
        pieces = tables(message.get("tool_calls"))
        if isinstance(legacy := message.get("function_call"), dict):
            pieces.append({"index": 0, "function": legacy})
        for piece in pieces:
            self._call(piece, whole)
        if reason is not None or whole:
            self.complete = True
            self.finish_reason = reason
            if reason == "content_filter" and not self.text:
                self.refused = "its content filter stopped the answer"

    def _call(self, piece: dict[str, Any], whole: bool) -> None:
        """A call, or in a stream a piece of one."""
        function, id = table(piece.get("function")), word(piece.get("id")) or ""
        name, arguments = word(function.get("name")) or "", arguments_of(function.get("arguments"))
        index, last = piece.get("index"), len(self.calls) - 1
        if not isinstance(index, int | str):
            # Some servers number nothing: an id then begins the next call.
            at = last + 1 if id or not self.calls else last
        else:
            at = self._place.get(index, last + 1)
            known = self.calls.get(at)
            if whole or (known is not None and id and known.id and known.id != id):
                at = last + 1  # and some give all calls the number 0
            self._place[index] = at
        known = self.calls.get(at, ToolCall("", "", ""))
        self.calls[at] = ToolCall(known.id or id, known.name or name, known.arguments + arguments)


class OpenAIProvider(SdkProvider):
    """A model behind OpenAI's protocol; see :class:`SdkProvider` and :func:`open_provider`."""

    name = "openai"
    path = "/chat/completions"
    # Without this the SDK would also send the organisation's admin key, where the environment has one.
    options: Mapping[str, Any] = {"security": {"bearer_auth": True}}
    reply = CompletionReply
    sdk = openai.AsyncOpenAI
    stream = openai.AsyncStream[Any]
    connection_error = openai.APIConnectionError

    def body(self, request: LLMRequest) -> dict[str, Any]:
        """The model's options, over them the request's fields, over them its ``extra``, all untouched but for
        what only Anthropic has."""
        body = {"stream": self.config.stream, **self.config.options}
        body |= {"model": self.model, "messages": to_openai.messages(request.messages, self.left_out)}
        for field in ("temperature", "max_tokens", "tools", "response_format"):
            value = getattr(request, field)
            if value is not None:
                body[field] = value
        body.update(request.extra)
        to_openai.options(body, self.config.base_url is None, self.left_out)
        if body["stream"]:
            body.setdefault("stream_options", {"include_usage": True})
        return body


def _status_of(error: Any) -> int:
    """The HTTP status for an error told in the midst of an answer; 500 where nothing says otherwise."""
    if not isinstance(error, dict):
        return 500
    code = count(error.get("code"))
    if 400 <= code <= 599:
        return code
    return _STATUS_OF.get(str(error.get("code")), _STATUS_OF.get(str(error.get("type")), 500))
