"""OpenAI's chat completions, and all that speak them: vLLM, Ollama, llama.cpp, most gateways.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import openai

from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import SdkProvider, to_openai
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
from aios_dist.worker.providers.merging import grown, merged
from aios_dist.worker.providers.refusals import status_of, words_of
from aios_dist.worker.providers.replies import GIVEN_UP, NoAnswer, ProviderSaid, Reply

_LEGACY = {"function_call": "tool_calls"}
_OF_A_PIECE = {"index", "delta", "finish_reason", "logprobs"}
_OF_A_CHOICE = {
    *_OF_A_PIECE,
    "message",
    "text",
    "native_finish_reason",
    "stop_reason",
    "matched_stop",
    "error",
}
_OF_A_DELTA = {"role", "content"}
_READ = {"role", "content", "tool_calls", "function_call"}
_OF_A_CALL = {"index", "id", "type", "function"}
_OF_A_FUNCTION = {"name", "arguments"}
_SAYS_WHY = ("detail", "errors", "fault")
_SAYS_WHAT = ("message", "msg", "error_msg", "error_message", "Message")
_SAYS_CODE = ("code", "status", "error_code", "status_code", "statusCode", "__type")
_WELL = (None, 0, 200, "0", "200", "", "ok", "success")


class CompletionReply(Reply):
    """Reads a completion. Of several choices (``n``) the first is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._place: dict[object, int] = {}
        self._choice: int | None = None
        self._more: dict[int, dict[str, Any]] = {}  # what calls say of themselves beyond name and arguments
        self._fields: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}  # fields that are text, in their pieces
        self._parts: list[Any] = []  # of a content that is a list

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        completion = decode(data)
        self._read(completion)
        if self.complete:
            return
        if isinstance(completion, list) and len(completion) == 1:
            completion = completion[0]
        if completion and not isinstance(completion, dict):
            raise msgspec.DecodeError("a completion without a choice")
        choices = table(completion).get("choices")
        if (choices and not isinstance(choices, list | dict)) or any(
            choice.keys() - _OF_A_CHOICE for choice in tables(choices)
        ):
            raise msgspec.DecodeError("a choice of another form")
        if completion and ("choices" not in completion or _failure(completion) or words_of(completion)):
            raise ProviderSaid(status_of(completion), completion)
        raise NoAnswer(data)

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        said = decode(data)
        if not table(said).get("choices") and _failure(said):
            raise ProviderSaid(status_of(said), said)
        self._read(said)
        return False

    def own(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """See :meth:`Reply.own`."""
        found = {**{name: "".join(texts) for name, texts in self._texts.items()}, **self._fields}
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in self._parts):
            found["content"] = self._parts
        if self._more:
            found["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    **(more := self._more.get(at, {})),
                    **({} if "custom" in more else {"function": _function(call, more)}),
                }
                for at, call in zip(self.calls, calls, strict=True)
            ]
        return found

    def _read(self, said: Any) -> None:
        completion = (
            said if isinstance(said, dict) else table(said[0] if isinstance(said, list) and said else 0)
        )
        choices = tables(completion.get("choices"))
        error = completion.get("error") or (completion if completion.get("object") == "error" else None)
        if error and not (choices and _says_nothing(error)):
            raise ProviderSaid(status_of(error), error)
        self._count(completion.get("usage") or table(completion.get("x_groq")).get("usage"))
        if self.model is None:
            self.model = word(completion.get("model"))
        for choice in choices:
            number = count(choice.get("index"))
            if self._choice is None and (not number or len(choices) == 1):  # some count from 1
                self._choice = number
            if number == self._choice:
                self._choose(choice)
                break

    def _count(self, told: Any) -> None:
        if not isinstance(told, dict):
            return
        prompt, output = told.get("prompt_tokens"), told.get("completion_tokens")
        if prompt is None and output is None:  # as OpenAI's other protocol and Anthropic call them
            prompt, output = told.get("input_tokens"), told.get("output_tokens")
        cached = table(told.get("prompt_tokens_details")).get("cached_tokens")
        if cached is None:
            cached = told.get("prompt_cache_hit_tokens", told.get("cached_tokens"))
        self.usage = usage(prompt, output, cached)

    def _choose(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if choice.keys() <= _OF_A_PIECE and choice.get("finish_reason") is None and isinstance(delta, dict):
            text = delta.get("content")
            if isinstance(text, str) and delta.keys() <= _OF_A_DELTA and not self._parts:
                if text:
                    self.text.append(text)
                return  # nearly every piece of a stream is this, so it is read first
        self._count(choice.get("usage"))  # Moonshot's place for it
        ended = choice.get("finish_reason")
        why = table(ended)  # SGLang's form of it
        reason = word(why.get("type") if why else ended)
        error = choice.get("error") or table(delta).get("error")
        if error and not _says_nothing(error):
            raise ProviderSaid(status_of(error), error)
        if reason is not None and GIVEN_UP.fullmatch(reason):
            said = f"the answer ended with the reason {reason!r}"
            told = words_of(why)
            raise ProviderSaid(status_of(why), f"{said}: {told}" if told else said)
        whole = isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str)
        message = table(delta) or table(choice.get("message"))
        content = message.get("content") or choice.get("text")
        # Some streams say all of it once more at their end.
        if not (whole and (self.text or self.calls) and text_of(content) == "".join(self.text)):
            self._say(content)
            self._calls(message, whole and not delta)
            for name in message.keys() - _READ:
                self._keep(name, message[name])
        # One without a message has said nothing, whatever it says of its end; but see what the end says.
        silent = "message" in choice and not (whole or delta or reason in ("length", "content_filter"))
        if (reason is not None and not silent) or whole:
            self.complete = True
            self.finish_reason = _LEGACY.get(reason, reason) if reason is not None else None
            if reason == "content_filter" and not self.text:
                self.refused = "its content filter stopped the answer"

    def _say(self, content: Any) -> None:
        """A content, or in a stream a piece of one."""
        text = text_of(content)
        if not text and not isinstance(content, list):
            return
        if isinstance(content, list) or self._parts:
            if not self._parts and self.text:
                grown(self._parts, "".join(self.text))
            for part in content if isinstance(content, list) else [text]:
                grown(self._parts, part)
        if text:
            self.text.append(text)

    def _keep(self, name: str, value: Any) -> None:
        """What a message says beyond text and calls."""
        if value is None or value in ("", [], {}):
            return
        if isinstance(value, str) and name not in self._fields:
            self._texts.setdefault(name, []).append(value)
        else:
            self._fields[name] = merged(self._fields.get(name), value)

    def _calls(self, message: dict[str, Any], whole: bool) -> None:
        pieces = tables(message.get("tool_calls"))
        if not pieces and isinstance(legacy := message.get("function_call"), dict):
            pieces = [{"index": 0, "function": legacy}]
        for piece in pieces:
            self._call(piece, whole)

    def _call(self, piece: dict[str, Any], whole: bool) -> None:
        """A call, or in a stream a piece of one."""
        custom = table(piece.get("custom"))  # a tool that takes text
        function, id = table(piece.get("function")) or custom, word(piece.get("id")) or ""
        name, arguments = word(function.get("name")) or "", arguments_of(function.get("arguments"))
        index, last = piece.get("index"), len(self.calls) - 1
        known = self.calls.get(last)
        if whole:
            at = last + 1
        elif isinstance(index, bool) or not isinstance(index, int | float | str):
            # Some servers number nothing: another id then begins the next call.
            at = last + 1 if known is None or (id and known.id != id) else last
        else:
            at = self._place.get(index, last + 1)
            known = self.calls.get(at)
            if known is not None and id and known.id and known.id != id:
                at = last + 1  # and some give all calls the number 0
            self._place[index] = at
        known = self.calls.get(at, ToolCall("", "", ""))
        if custom:
            arguments = arguments_of(custom.get("input"))
        self.calls[at] = ToolCall(known.id or id, known.name or name, known.arguments + arguments)
        more = {name: value for name, value in piece.items() if name not in _OF_A_CALL and value is not None}
        if (
            further := {name: function[name] for name in function.keys() - _OF_A_FUNCTION}
            if not custom
            else {}
        ):
            more["function"] = further
        if custom:
            more["type"] = "custom"
        if more:
            self._more[at] = merged(self._more.get(at, {}), more)


def _function(call: ToolCall, more: Mapping[str, Any]) -> dict[str, Any]:
    return {**table(more.get("function")), "name": call.name, "arguments": call.arguments}


def _says_nothing(error: Any) -> bool:
    """An error that stands beside an answer as its decoration: none of its fields says anything."""
    return isinstance(error, dict) and not any(error.values())


def _failure(said: Any) -> bool:
    """What came in a stream is no piece of an answer, but says why there will be none."""
    found = said[0] if isinstance(said, list) and said else said
    if not isinstance(found, dict):
        return False
    if any(words_of(found.get(name)) for name in _SAYS_WHY) or count(
        table(found.get("base_resp")).get("status_code")
    ):
        return True
    return any(isinstance(found.get(name), str) for name in _SAYS_WHAT) and (
        any(found.get(name) not in _WELL for name in _SAYS_CODE) or "error" in str(found.get("type"))
    )


class OpenAIProvider(SdkProvider):
    """A model behind OpenAI's protocol; see :class:`SdkProvider` and :func:`open_provider`."""

    name = "openai"
    path = "/chat/completions"
    address = "https://api.openai.com/v1"
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
        itself = self.config.base_url is None
        body |= {"model": self.model, "messages": to_openai.messages(request.messages, self.left_out, itself)}
        for field in ("temperature", "max_tokens", "tools", "response_format"):
            value = getattr(request, field)
            if value is not None:
                body[field] = value
        body.update(request.extra)
        to_openai.options(body, itself, self.left_out)
        if body["stream"]:
            body.setdefault("stream_options", {"include_usage": True})
        return body
