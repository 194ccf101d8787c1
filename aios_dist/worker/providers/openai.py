"""OpenAI's chat completions, and all that speak them: vLLM, Ollama, llama.cpp, most gateways.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aios_dist.config import ModelConfig
from aios_dist.errors import BadRequest, FinalLLMError
from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import to_openai
from aios_dist.worker.providers.codec import Codec, Otherwise
from aios_dist.worker.providers.lenient import (
    are_parts,
    arguments_of,
    count,
    decode,
    read_text,
    table,
    tables,
    text_of,
    unwrapped,
    usage,
    word,
)
from aios_dist.worker.providers.merging import grown, merged
from aios_dist.worker.providers.refusals import fields_of, status_of, words_of
from aios_dist.worker.providers.replies import FILTERED, GIVEN_UP, Called, NoAnswer, ProviderSaid, Reply

_LEGACY = {"function_call": "tool_calls"}
_OF_A_PIECE = {"index", "delta", "finish_reason", "logprobs"}
_NO_REASON = ("", "null", "none")
_OF_A_CHOICE = {
    *_OF_A_PIECE,
    "content_filter_result",
    "content_filter_results",
    "seed",
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
_WELL = (None, 0, 200, "0", "200", "ok", "success", "")
_SAYS_ELSEWHERE = (
    "content",
    "message",
    "output",
    "result",
    "response",
    "data",
    "candidates",
    "generated_text",
)
"""Where an answer stands of a server that speaks another protocol: it is paid for, and asked for once."""


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
        self._streams = False
        self._filter = ""  # the reason with which one has ended it

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        completion = unwrapped(decode(data), "choices")
        self._read(completion)
        if self.complete:
            return
        if completion and not isinstance(completion, dict):
            raise msgspec.DecodeError("a completion without a choice")
        choices = table(completion).get("choices")
        if (choices and not isinstance(choices, list | dict)) or any(
            choice.keys() - _OF_A_CHOICE for choice in tables(choices)
        ):
            raise msgspec.DecodeError("a choice of another form")
        if _failure(completion) or words_of(fields_of(completion)):
            raise ProviderSaid(status_of(completion), completion)
        if "choices" not in table(completion) and any(
            table(completion).get(name) for name in _SAYS_ELSEWHERE
        ):
            raise msgspec.DecodeError("an answer of another protocol")
        raise NoAnswer(data)

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        said = unwrapped(decode(data), "choices")
        self._streams = True
        if not table(said).get("choices") and _failure(said):
            raise ProviderSaid(status_of(said), said)
        self._read(said)
        return False

    def own(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """See :meth:`Reply.own`."""
        found = {**{name: "".join(texts) for name, texts in self._texts.items()}, **self._fields}
        if any(part.get("type") != "text" or part.keys() - {"type", "text"} for part in tables(self._parts)):
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
            raise ProviderSaid(status_of(error, completion), error)
        counted = self._count(completion.get("usage") or table(completion.get("x_groq")).get("usage"))
        if not choices and counted and (self.text or self.calls):
            self.complete = True  # the last that comes, where neither a reason nor an end is said
        if self.model is None:
            self.model = word(completion.get("model"))
        numbers = [count(choice.get("index")) for choice in choices]
        if self._choice is None and numbers:
            self._choice = 0 if 0 in numbers else numbers[0]  # some count from 1
        for number, choice in zip(numbers, choices, strict=True):
            if number == self._choice:
                self._choose(choice)
                break

    def _count(self, told: Any) -> int:
        """Take the counts; gives the output's."""
        if not isinstance(told, dict):
            return 0
        prompt, output = told.get("prompt_tokens"), told.get("completion_tokens")
        if prompt is None and output is None:  # as OpenAI's other protocol and Anthropic call them
            prompt, output = told.get("input_tokens"), told.get("output_tokens")
        cached = table(told.get("prompt_tokens_details")).get("cached_tokens")
        if cached is None:
            cached = told.get("prompt_cache_hit_tokens", told.get("cached_tokens"))
        said = usage(prompt, output, cached)
        self.count(said)
        return said.output_tokens

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
        if reason is not None and reason.strip().lower() in _NO_REASON:
            reason = None  # as some servers have it in each piece
        error = choice.get("error") or table(delta).get("error")
        if error and not _says_nothing(error):
            raise ProviderSaid(status_of(error), error)
        if reason is not None and GIVEN_UP.fullmatch(reason):
            said = f"the answer ended with the reason {reason!r}"
            told = words_of(why)
            raise ProviderSaid(status_of(why), f"{said}: {told}" if told else said)
        said_something = self._said(choice, table(delta))
        # One without a message has said nothing, whatever it says of its end; but see what the end says.
        silent = ("message" in choice or not self._streams) and not said_something
        if reason is not None and (not silent or reason == "length" or FILTERED.fullmatch(reason)):
            self.complete = True
            self.finish_reason = _LEGACY.get(reason, reason)
            if FILTERED.fullmatch(reason):
                self.finish_reason, self._filter = "content_filter", reason
        elif said_something and not self._streams and not delta:
            self.complete = True

    def _said(self, choice: dict[str, Any], delta: dict[str, Any]) -> bool:
        """Read what a choice says; False where it says nothing. What stands beside a piece is that once more
        (Together's ``text``), or all so far (Perplexity's ``message``)."""
        message, text = choice.get("message"), choice.get("text")
        if delta:
            self._say(delta.get("content"))
            self._calls(delta, whole=False)
            for name in delta.keys() - _READ:
                self._keep(name, delta[name])
        elif isinstance(message, dict):
            self._whole(message, text)
        elif isinstance(text, str):
            self._say(text)
        return bool(delta) or isinstance(message, dict) or isinstance(text, str)

    def _whole(self, message: dict[str, Any], text: Any) -> None:
        """A whole message; some streams say all of it once more at their end, or all so far in each piece."""
        content, before = message.get("content"), "".join(self.text)
        if content is None or content == "":
            content = text
        if not before:
            self._say(content)
        elif not self._parts and (now := text_of(content)).startswith(before):
            self.text = [now]
        if not self.calls:
            self._calls(message, whole=True)
        for name in message.keys() - _READ:
            self._texts.pop(name, None)
            self._fields.pop(name, None)
            self._keep(name, message[name])

    def _say(self, content: Any) -> None:
        """A content, or in a stream a piece of one."""
        text, parted = text_of(content), isinstance(content, list) and are_parts(content)
        if not text and not parted:
            return
        if parted or self._parts:
            if not self._parts and self.text:
                grown(self._parts, "".join(self.text))
            for part in content if parted else [text]:
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
        told = message.get("tool_calls")
        pieces = tables(read_text(told) if isinstance(told, str) else told)
        if not pieces and isinstance(legacy := message.get("function_call"), dict):
            pieces = [{"index": 0, "function": legacy}]
        for piece in pieces:
            self._call(piece, whole)

    def _call(self, piece: dict[str, Any], whole: bool) -> None:
        """A call, or in a stream a piece of one."""
        custom = table(piece.get("custom"))  # a tool that takes text
        function, id = table(piece.get("function")) or custom, word(piece.get("id")) or ""
        name, arguments = word(function.get("name")) or "", arguments_of(function.get("arguments"))
        if custom:
            arguments = arguments_of(custom.get("input"))
        at = len(self.calls) if whole else self._place_of(piece.get("index"), id, name, arguments)
        if at is None:
            return
        known = self.calls.get(at)
        if known is None:
            begun = Called("", self.calls[at - 1].name if at and arguments and not (id or name) else "")
            known = self.calls[at] = begun
        known.id, known.name = known.id or id, known.name or name
        if arguments:
            known.pieces.append(arguments)
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

    def _place_of(self, index: Any, id: str, name: str, arguments: str) -> int | None:
        """Which call a piece of a stream goes on with, or begins; None: it says once more what is known.

        Numbers and ids are not to be trusted: some servers give none, some give all calls the same, and some
        each piece another.
        """
        numbered = isinstance(index, int | float | str) and not isinstance(index, bool)
        new = len(self.calls)
        at = self._place.get(index) if numbered else None
        if at is None and id:
            at = next((n for n, call in self.calls.items() if call.id == id), None)
        if at is None and not numbered and new and not (id and name):
            at = new - 1
        if at is not None:
            known = self.calls[at]
            other = id and known.id and id != known.id
            if name and (other or (known.name and name != known.name)):
                at = new
            elif arguments.lstrip()[:1] in ("{", '"') and _is_whole(known):
                so_far = known.arguments
                if so_far in (arguments, read_text(arguments)) and (not name or (id and id == known.id)):
                    return None
                at = new
        at = new if at is None else at
        if numbered:
            self._place[index] = at
        return at

    def settle(self) -> None:
        """See :meth:`Reply.settle`."""
        named = {at: call for at, call in self.calls.items() if call.name or call.arguments.strip()}
        self.calls = named  # some servers have a call of nothing in each answer
        self._more = {at: more for at, more in self._more.items() if at in named}
        if self._filter and not self.text and not self.calls:
            what = "" if self._filter == "content_filter" else f" (reason {self._filter!r})"
            self.refused = f"its content filter stopped the answer{what}"


def _is_whole(call: Called) -> bool:
    """Nothing can go on from its arguments: they are an object."""
    # Looked at first, since the rest costs as much as they are long.
    return (
        bool(call.pieces)
        and call.pieces[-1].rstrip()[-1:] == "}"
        and isinstance(read_text(call.arguments), dict)
    )


def _function(call: ToolCall, more: Mapping[str, Any]) -> dict[str, Any]:
    return {**table(more.get("function")), "name": call.name, "arguments": call.arguments}


def _says_nothing(error: Any) -> bool:
    """An error that stands beside an answer as its decoration: it says nothing, or that all is well."""
    if not isinstance(error, dict):
        return False
    return not any(error.values()) or any(
        error.get(name) in _WELL[1:] for name in _SAYS_CODE if name in error
    )


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


class OpenAICodec(Codec):
    """A model behind OpenAI's protocol."""

    name = "openai"
    address = "https://api.openai.com/v1"
    path = "/chat/completions"
    reply = CompletionReply

    def __init__(self, label: str, model: ModelConfig, key: str | None) -> None:
        super().__init__(label, model, key)
        self._refused: set[str] = set()  # fields of earlier answers that this server knows not

    def body(self, request: LLMRequest, left_out: list[str]) -> dict[str, Any]:
        """The model's options, over them the request's fields, over them its ``extra``, all untouched but for
        what only Anthropic has."""
        body = {"stream": self.config.stream, **self.config.options}
        itself = self.config.base_url is None
        told = to_openai.messages(request.messages, left_out, itself, self._refused)
        body |= {"model": self.model, "messages": told}
        self.say(body, request)
        to_openai.options(body, itself, left_out)
        if body["stream"]:
            body.setdefault("stream_options", {"include_usage": True})
        return body

    def otherwise(self, request: LLMRequest, refused: FinalLLMError) -> Otherwise | None:
        """See :meth:`Codec.otherwise`. A server that refuses what an answer of another had of its own (its
        reasoning) is asked once more without it, and from then on always."""
        if not isinstance(refused, BadRequest):
            return None
        new = to_openai.refused_fields(request.messages, str(refused)) - self._refused
        self._refused |= new
        return Otherwise(request, f"-{len(self._refused)}") if new else None
