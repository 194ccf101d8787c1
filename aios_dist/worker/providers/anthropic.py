"""Anthropic's messages, asked and answered in OpenAI's words.

https://platform.claude.com/docs/en/api/messages, and for streams
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from typing import Any

import anthropic
import msgspec

from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import NoAnswer, ProviderSaid, Reply, SdkProvider, to_anthropic
from aios_dist.worker.providers.lenient import arguments_of, count, decode, table, tables, usage, word

MAX_TOKENS = 4096
"""What is asked for where the request says nothing: Anthropic insists on a number."""

SAMPLING = ("temperature", "top_p", "top_k")
SAMPLING_VERSION = "2023-06-01"
"""The last version of the API that takes SAMPLING. 2026-10-21, which the SDK sends from 2.0 on, answers 400
to them even at their defaults, so a request that has one asks for this version:
https://codersera.com/blog/anthropic-api-2026-10-21-sdk-migration-guide-2026/"""

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}

# https://platform.claude.com/docs/en/api/errors
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class MessageReply(Reply):
    """Reads a message. Blocks that are neither text nor a call of a tool (thinking) are left out."""

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        said = decode(data)
        message = self._checked(said)
        if message.get("type") != "message":
            if not message and isinstance(said, dict | None):
                raise NoAnswer(data)
            if isinstance(message.get("detail"), str) and "content" not in message:
                raise ProviderSaid(500, message)
            raise msgspec.DecodeError("an answer that is not a message")
        self._start(message)
        content = message.get("content")
        if isinstance(content, str):
            self.text.append(content)
        for index, block in enumerate(tables(content)):
            self._block(index, block, arguments_of(block.get("input")))
        self._end(message.get("stop_reason"))
        self.complete = True

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        event = self._checked(decode(data))
        index, block, delta = count(event.get("index")), event.get("content_block"), event.get("delta")
        match event.get("type"):
            case "content_block_delta":
                self._delta(index, table(delta))
            case "message_start":
                self._start(table(event.get("message")))
            case "content_block_start":
                # The input of a streamed call is empty here and follows in pieces.
                self._block(index, table(block), "")
            case "message_delta":
                self._count(event.get("usage"))
                self._end(table(delta).get("stop_reason"))
                self.complete = self.finish_reason is not None
            case "message_stop":
                self.complete = True
                return True
        return False

    def _checked(self, said: Any) -> dict[str, Any]:
        message = table(said)
        error = message.get("error")
        if error is not None:
            raise ProviderSaid(_STATUS_OF.get(str(table(error).get("type")), 500), error)
        return message

    def _start(self, message: dict[str, Any]) -> None:
        self.model = word(message.get("model"))
        self._count(message.get("usage"))

    def _count(self, told: Any) -> None:
        """Take the counts, which are sums so far. What a cache held or took is part of the prompt."""
        if not isinstance(told, dict):
            return
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        prompt = sum(count(told.get(name)) for name in names)
        self.usage = usage(max(prompt, self.usage.prompt_tokens), told.get("output_tokens"))

    def _block(self, index: int, block: dict[str, Any], arguments: str) -> None:
        if block.get("type") == "text":
            self._say(block.get("text"))
        elif block.get("type") == "tool_use":
            self.calls[index] = ToolCall(
                word(block.get("id")) or "", word(block.get("name")) or "", arguments
            )

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        if delta.get("type") == "text_delta":
            self._say(delta.get("text"))
        elif delta.get("type") == "input_json_delta" and (call := self.calls.get(index)) is not None:
            piece = arguments_of(delta.get("partial_json"))
            self.calls[index] = ToolCall(call.id, call.name, call.arguments + piece)

    def _say(self, text: Any) -> None:
        if isinstance(text, str) and text:
            self.text.append(text)

    def _end(self, reason: Any) -> None:
        said = word(reason)
        self.finish_reason = _FINISH.get(said, said) if said is not None else None
        if said == "refusal":
            self.refused = "it stopped the answer with the reason 'refusal'"


class AnthropicProvider(SdkProvider):
    """A model of Anthropic's; see :class:`SdkProvider` and :func:`open_provider`.

    ``base_url`` is without ``/v1``, as the SDK has it.
    """

    name = "anthropic"
    path = "/v1/messages"
    reply = MessageReply
    sdk = anthropic.AsyncAnthropic
    stream = anthropic.AsyncStream[Any]
    connection_error = anthropic.APIConnectionError

    def body(self, request: LLMRequest) -> dict[str, Any]:
        """The request in Anthropic's form; options that are Anthropic's own pass untouched.

        Raises:
            BadRequest: content that has no counterpart there, the ``response_format`` ``json_object``, or a
                tool call in the conversation whose arguments are not a JSON object.
        """
        body: dict[str, Any] = {"max_tokens": MAX_TOKENS, "stream": self.config.stream, **self.config.options}
        body["model"] = self.model
        body["messages"], system = to_anthropic.messages(request.messages, self.left_out)
        for field in ("temperature", "max_tokens", "tools"):
            value = getattr(request, field)
            if value is not None:
                body[field] = value
        if system:
            body["system"] = system
        body.update(request.extra)
        to_anthropic.options(body, self.left_out)
        if "tools" not in body and (called := to_anthropic.tools_of(body["messages"])):
            body["tools"], body["tool_choice"] = called, {"type": "none"}
        form = to_anthropic.answer_form(request.response_format or {"type": "text"})
        if form is not None:
            body["output_config"] = {**body.get("output_config", {}), "format": form}
        if any(option in body for option in SAMPLING):
            version = {"anthropic-version": SAMPLING_VERSION}
            body["extra_headers"] = {**version, **body.get("extra_headers", {})}
        return body
