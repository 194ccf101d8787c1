"""OpenAI's Responses, asked and answered in the words of its chat completions.

https://platform.openai.com/docs/api-reference/responses, and for streams
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aios_dist.config import ModelConfig
from aios_dist.errors import FinalLLMError
from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import to_responses
from aios_dist.worker.providers.codec import Codec, Otherwise
from aios_dist.worker.providers.lenient import (
    arguments_of,
    clean,
    decode,
    table,
    tables,
    text_of,
    unwrapped,
    usage,
    word,
)
from aios_dist.worker.providers.refusals import status_of, words_of
from aios_dist.worker.providers.replies import Called, NoAnswer, ProviderSaid, Reply
from aios_dist.worker.providers.to_responses import ENCRYPTED, OWN
from aios_dist.worker.providers.translating import without

_WHY = {"max_output_tokens": "length", "max_tokens": "length"}
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items that are calls of a tool, and what has their arguments."""

_PLAIN = {
    "message": {"type", "id", "status", "role", "content"},
    "function_call": {"type", "id", "status", "call_id", "name", "arguments"},
}
"""Items of which text and calls say everything."""

_FAILED = ("failed", "cancelled")
_LATER = ("queued", "in_progress")


class ItemsReply(Reply):
    """Reads a response. Its items (reasoning, searches of its own) are in ``own``."""

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[int, dict[str, Any]] = {}
        self._refusal: list[str] = []
        self._order: list[int] = []

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        said = unwrapped(decode(data), "output")
        response = table(said)
        if "output" not in response and not response.get("status"):
            if error := response.get("error"):
                raise ProviderSaid(status_of(error, response), error)
            if not response and (not said or isinstance(said, dict)):
                raise NoAnswer(data)
            if words_of(response):
                raise ProviderSaid(status_of(response), response)
            raise msgspec.DecodeError("an answer that is no response")
        self._ends(response)
        if not self.complete:
            raise NoAnswer(data)

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        event = table(decode(data))
        kind, index = event.get("type"), event.get("output_index")
        at = index if isinstance(index, int) else len(self._items)
        match kind:
            case "response.output_text.delta":
                self._delta(event.get("delta"))
            case "response.refusal.delta":
                if isinstance(piece := event.get("delta"), str):
                    self._refusal.append(piece)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                if (call := self.calls.get(at)) is not None and isinstance(piece := event.get("delta"), str):
                    call.pieces.append(piece)
            case "response.output_item.added" | "response.output_item.done":
                self._item(at, table(event.get("item")))
            case "response.created" | "response.in_progress":
                self.model = word(table(event.get("response")).get("model"))
            case "response.completed" | "response.incomplete" | "response.failed" | "response.done":
                self._ends(table(event.get("response")))
                return True
            case "error":
                raise ProviderSaid(status_of(event.get("error") or event), event.get("error") or event)
            case None if event.get("error") or words_of(event):
                error = event.get("error") or event
                raise ProviderSaid(status_of(error, event), error)
        return False

    def _delta(self, piece: Any) -> None:
        if isinstance(piece, str) and piece:
            self.text.append(piece)

    def _item(self, at: int, item: dict[str, Any]) -> None:
        self._items[at] = item
        if (field := _CALLS.get(str(item.get("type")))) is None:
            return
        id, name = word(item.get("call_id")) or word(item.get("id")) or "", word(item.get("name")) or ""
        before = self.calls.get(at)
        call = self.calls[at] = Called(id, name)
        # Some say all of it once more at the end, and some only then.
        given = arguments_of(item.get(field))
        call.pieces = [given] if given else before.pieces if before is not None else []

    def _ends(self, response: dict[str, Any]) -> None:
        """The response, as it is at its end."""
        self.model = word(response.get("model")) or self.model
        told = response.get("usage")
        if isinstance(told, dict):
            cached = table(told.get("input_tokens_details")).get("cached_tokens")
            self.count(usage(told.get("input_tokens"), told.get("output_tokens"), cached))
        status, error = word(response.get("status")), response.get("error")
        if status in _FAILED or (error and status != "completed"):
            raise ProviderSaid(_status_of(error, response), error or f"the response is {status}")
        if status in _LATER and not response.get("output"):
            raise ProviderSaid(500, f"the response is {status}, and comes later")
        output = tables(response.get("output") or [])
        if output:  # of which some servers say nothing again at the end of a stream
            known = self.calls
            self._items, self.calls = {}, {}
            for at, item in enumerate(output):
                self._item(at, item)
            if not self.calls and known:
                self.calls = known
        if any(item.get("type") == "message" for item in self._items.values()):
            texts = [self._text_of(item) for item in self._items.values()]
            if any(texts) or not self.text:
                self.text = [text for text in texts if text]
        self._order, self.calls = sorted(self._items), dict(sorted(self.calls.items()))
        why = (
            word(table(response.get("incomplete_details")).get("reason")) if status == "incomplete" else None
        )
        self.finish_reason = _WHY.get(why, why) if why else "tool_calls" if self.calls else "stop"
        self.complete = bool(self._items or self.text or self.calls) or status == "incomplete"

    def _text_of(self, item: dict[str, Any]) -> str:
        """A message's text; a refusal is put aside."""
        content = item.get("content")
        if item.get("type") != "message":
            return ""
        if not isinstance(content, list):
            return text_of(content)
        refused = [str(part["refusal"]) for part in tables(content) if part.get("refusal")]
        if refused:
            self._refusal = refused
        return "".join(text_of(part.get("text")) for part in tables(content) if part.get("text"))

    def settle(self) -> None:
        """See :meth:`Reply.settle`."""
        if self.finish_reason == "content_filter" and not self.text and not self.calls:
            self.refused = "its content filter stopped the answer"

    def own(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """See :meth:`Reply.own`: all items as they came, where text and calls do not say everything."""
        found: dict[str, Any] = {}
        if self._refusal:
            found["refusal"] = "".join(self._refusal)
        ids = dict(zip(self.calls, calls, strict=True))
        custom = [at for at in ids if self._items.get(at, {}).get("type") == "custom_tool_call"]
        if custom:
            found["tool_calls"] = [
                {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
                if at in custom
                else {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for at, call in ids.items()
            ]
        items = [self._items[at] for at in self._order]
        if not all(map(_is_plain, items)) or _is_mixed(items):
            found[OWN] = [self._kept(item) for item in items]
        return found

    def _kept(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item without what text and calls of the answer say: see :data:`to_responses.OWN`."""
        kind = str(item.get("type"))
        made = {name: value for name, value in item.items() if value is not None}
        if kind == "message":
            made["content"] = [
                {**part, "text": len(clean(part["text"]))} if isinstance(part.get("text"), str) else part
                for part in tables(item.get("content") or [])
            ]
        elif kind in _CALLS:
            for name in ("call_id", "name", _CALLS[kind]):
                made.pop(name, None)
        return made


def _status_of(error: Any, response: dict[str, Any]) -> int:
    told = status_of(error, response)
    return 400 if told == 500 and _ASKED_WRONG.match(str(table(error).get("code"))) else told


_ASKED_WRONG = re.compile(r"(?:invalid|image|unsupported_image|empty_image)_|data_residency")
"""Codes of responses that failed for what was asked."""


def _is_plain(item: dict[str, Any]) -> bool:
    known = _PLAIN.get(str(item.get("type")), set())
    if {name for name, value in item.items() if value is not None} - known:
        return False
    return all(
        part.get("type") in ("output_text", "refusal") and not part.get("annotations")
        for part in tables(item.get("content") or [])
    )


def _is_mixed(items: list[dict[str, Any]]) -> bool:
    """Whether it matters in which order text and calls came."""
    kinds = [str(item.get("type")) for item in items]
    return kinds.count("message") > 1 or "message" in kinds[1:]


class ResponsesCodec(Codec):
    """A model behind OpenAI's Responses."""

    name = "openai-responses"
    address = "https://api.openai.com/v1"
    path = "/responses"
    reply = ItemsReply

    def __init__(self, label: str, model: ModelConfig, key: str | None) -> None:
        super().__init__(label, model, key)
        self._encrypts = True  # this model has reasoning that can be had encrypted

    def body(self, request: LLMRequest, left_out: list[str]) -> dict[str, Any]:
        """The request in Responses' form; options that are its own pass untouched.

        What is not to be stored (``store = false``) is asked for with its reasoning encrypted, so that it can
        come back.

        Raises:
            BadRequest: content that has no counterpart there.
        """
        body: dict[str, Any] = {"stream": self.config.stream, **self.config.options, "model": self.model}
        self.say(body, request)
        to_responses.options(body, left_out)
        stored = body.get("store") is not False
        body["input"] = to_responses.items(request.messages, stored, left_out)
        if not stored and self._encrypts:
            body.setdefault("include", [ENCRYPTED])
        return body

    def otherwise(self, request: LLMRequest, refused: FinalLLMError) -> Otherwise | None:
        """See :meth:`Codec.otherwise`. A model without reasoning is asked for none from then on; a server
        that knows nothing of earlier answers (another's, or gone) gets what they said, without their ids."""
        said = str(refused)
        if self._encrypts and ENCRYPTED_REFUSED in said.lower():
            self._encrypts = False
            return Otherwise(request, "-plain")
        if any(OWN in message for message in request.messages) and UNKNOWN_ITEMS.search(said):
            return Otherwise(replace(request, messages=without(OWN, request.messages)), "-anew")
        return None


ENCRYPTED_REFUSED = "encrypted content is not supported"
UNKNOWN_ITEMS = re.compile(r"item with id|encrypted[ _]content|required '\w+' item", re.IGNORECASE)
"""Words of refusals of what an earlier answer had of its own: it is another server's, or too old."""
