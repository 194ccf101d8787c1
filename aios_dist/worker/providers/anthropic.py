"""Anthropic's messages, asked and answered in OpenAI's words.

https://platform.claude.com/docs/en/api/messages, and for streams
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import to_anthropic
from aios_dist.worker.providers.codec import Codec
from aios_dist.worker.providers.lenient import (
    arguments_of,
    count,
    decode,
    table,
    tables,
    text_of,
    unwrapped,
    usage,
    word,
)
from aios_dist.worker.providers.merging import merged
from aios_dist.worker.providers.refusals import status_of, words_of
from aios_dist.worker.providers.replies import GIVEN_UP, Called, NoAnswer, ProviderSaid, Reply

MAX_TOKENS = 4096
"""What is asked for where the request says nothing: Anthropic insists on a number."""

VERSION = "2026-10-21"
"""Of the API: the one that the SDK sends from 2.0 on."""

SAMPLING = ("temperature", "top_p", "top_k")
SAMPLING_VERSION = "2023-06-01"
"""The last version of the API that takes SAMPLING. The one after it answers 400 to them even at their
defaults, so a request that has one asks for this version:
https://codersera.com/blog/anthropic-api-2026-10-21-sdk-migration-guide-2026/"""

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_MAIN = {"text": "text", "thinking": "thinking"}
"""The field of a block that comes in pieces; of all others it is ``input``, as JSON."""

INVALID = "INVALID_JSON"
"""What arguments that are none are put under when they go back to Anthropic, which takes objects only:
https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming"""


class MessageReply(Reply):
    """Reads a message. Blocks that are neither text nor a call of a tool (thinking) are in ``own``."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}  # of a block's main field, joined once
        self._at: dict[int, int] = {}  # some servers give all blocks the number 0
        self._streams = False
        self._given: set[int] = set()  # calls whose input came with their beginning

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        said = unwrapped(decode(data), "content")
        message = self._checked(said)
        content = message.get("content")
        if message.get("type") != "message" and not isinstance(content, list | str):
            if not message and (not said or isinstance(said, dict)):
                raise NoAnswer(data)
            if words_of(message) and "content" not in message:
                raise ProviderSaid(status_of(message), message)
            raise msgspec.DecodeError("an answer that is not a message")
        self._start(message)
        for index, block in enumerate(tables(content) or [{"type": "text", "text": text_of(content)}]):
            self._begin(index, block)
            self._put(index, block.get(_MAIN.get(str(block.get("type")), "input")))
        self._end(message.get("stop_reason"))
        self.complete = True

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        event = self._checked(decode(data))
        self._streams = True
        index, block, delta = count(event.get("index")), event.get("content_block"), event.get("delta")
        match event.get("type"):
            case "content_block_delta":
                self._delta(index, table(delta))
            case "message_start":
                self._start(table(event.get("message")))
            case "content_block_start":
                found = table(block)
                at = self._at[index] = index if index not in self._blocks else max(self._blocks) + 1
                self._begin(at, found)
                if begun := found.get(_MAIN.get(str(found.get("type")), "input")):
                    self._put(at, begun)
                    self._given.add(at)
            case "message_delta":
                self._count(event.get("usage"))
                self._end(table(delta).get("stop_reason"))
                self.complete = self.finish_reason is not None
            case "message_stop":
                self.complete = self.finish_reason is not None or bool(self.text or self.calls)
                return True
            case None if words_of(event):
                raise ProviderSaid(status_of(event), event)
        return False

    def own(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """See :meth:`Reply.own`: all blocks as they came, where text and calls do not say everything."""
        ids = dict(zip(self.calls, calls, strict=True))
        order = sorted(self._blocks)
        kinds = [str(self._blocks[at].get("type")) for at in order]
        told = {"text": {"type", "text"}, "tool_use": {"type", "id", "name", "input"}}
        if kinds == sorted(kinds) and all(
            {name for name, value in self._blocks[at].items() if value is not None} <= told.get(kind, set())
            and (kind == "text" or isinstance(_read(ids[at].arguments), dict))
            for at, kind in zip(order, kinds, strict=True)
        ):
            return {}
        made = [self._made(at, ids.get(at)) for at in order]
        # Which it refuses; what is there without text is its thinking.
        kept = [block for block in made if block.get("type") != "text" or block["text"].strip()]
        return {"content": kept, "tool_calls": None}

    def _made(self, index: int, call: ToolCall | None) -> dict[str, Any]:
        block = {name: value for name, value in self._blocks[index].items() if value is not None}
        kind, text = str(block.get("type")), "".join(self._pieces.get(index, ()))
        if kind in _MAIN:
            block[_MAIN[kind]] = text
        elif call is not None or "input" in block:
            found = _read(call.arguments if call is not None else text)
            block["input"] = found if isinstance(found, dict) else {INVALID: text}
        if call is not None:
            block |= {"id": call.id, "name": call.name}
        return block

    def _checked(self, said: Any) -> dict[str, Any]:
        message = table(said)
        error = message.get("error")
        if error or message.get("type") == "error":
            raise ProviderSaid(status_of(error or message), error or message)
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
        self.count(usage(prompt, told.get("output_tokens"), told.get("cache_read_input_tokens")))

    def _begin(self, index: int, block: dict[str, Any]) -> None:
        self._blocks[index] = block
        if block.get("type") == "tool_use":
            self.calls[index] = Called(word(block.get("id")) or "", word(block.get("name")) or "")

    def _put(self, index: int, piece: Any) -> None:
        """The next piece of a block's main field."""
        text = piece if isinstance(piece, str) else arguments_of(piece)
        if not text:
            return
        self._pieces.setdefault(index, []).append(text)
        kind = self._blocks.setdefault(index, {"type": "text"}).get("type")  # a block without its start
        if kind == "text":
            self.text.append(text)
        elif (call := self.calls.get(index)) is not None:
            call.pieces.append(text)

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        index = self._at.get(index, index)
        block = self._blocks.get(index, {})
        match delta.get("type"):
            case "text_delta":
                self._put(index, delta.get("text"))
            case "input_json_delta":
                if index in self._given:  # and comes once more
                    self._given.discard(index)
                    self._pieces.pop(index, None)
                    if (call := self.calls.get(index)) is not None:
                        call.pieces.clear()
                self._put(index, delta.get("partial_json"))
            case "thinking_delta":
                self._put(index, delta.get("thinking"))
            case "signature_delta":
                block["signature"] = merged(block.get("signature"), delta.get("signature"))
            case "compaction_delta":
                for name, value in delta.items():
                    if name != "type":
                        block[name] = merged(block.get(name), value)
            case "citations_delta":
                known = block.get("citations")
                block["citations"] = [*(known if isinstance(known, list) else ()), delta.get("citation")]

    def _end(self, reason: Any) -> None:
        said = word(reason)
        if said is None and self._streams:
            return
        if said is not None and GIVEN_UP.fullmatch(said):
            raise ProviderSaid(500, f"the answer ended with the reason {said!r}")
        self.finish_reason = _FINISH.get(said, said) if said is not None else None
        if said == "refusal" and not self.text:
            self.refused = "it stopped the answer with the reason 'refusal'"


def _read(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


class AnthropicCodec(Codec):
    """A model of Anthropic's. ``base_url`` is without ``/v1``, as the SDK has it."""

    name = "anthropic"
    address = "https://api.anthropic.com"
    path = "/v1/messages"
    headers = {"anthropic-version": VERSION}
    reply = MessageReply

    def body(self, request: LLMRequest, left_out: list[str]) -> dict[str, Any]:
        """The request in Anthropic's form; options that are Anthropic's own pass untouched.

        Raises:
            BadRequest: content that has no counterpart there, the ``response_format`` ``json_object``, or a
                tool call in the conversation whose arguments are not a JSON object.
        """
        body: dict[str, Any] = {"max_tokens": MAX_TOKENS, "stream": self.config.stream, **self.config.options}
        body["model"] = self.model
        body["messages"], system = to_anthropic.messages(request.messages, left_out)
        if system:
            body["system"] = system
        self.say(body, request, ("temperature", "max_tokens", "tools"))
        to_anthropic.options(body, left_out)
        if "tools" not in body and (called := to_anthropic.tools_of(body["messages"])):
            body["tools"], body["tool_choice"] = called, {"type": "none"}
        form = to_anthropic.answer_form(request.response_format or {"type": "text"})
        if form is not None:
            body["output_config"] = {**body.get("output_config", {}), "format": form}
        if any(option in body for option in SAMPLING):
            version = {"anthropic-version": SAMPLING_VERSION}
            body["extra_headers"] = {**version, **body.get("extra_headers", {})}
        return body
