"""Google's Gemini, asked and answered in OpenAI's words.

https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from aios_dist.errors import FinalLLMError
from aios_dist.model.calls import LLMRequest, ToolCall
from aios_dist.worker.providers import to_gemini
from aios_dist.worker.providers.codec import Codec, Otherwise
from aios_dist.worker.providers.lenient import (
    arguments_of,
    clean,
    count,
    decode,
    table,
    tables,
    unwrapped,
    usage,
    word,
)
from aios_dist.worker.providers.refusals import status_of, words_of
from aios_dist.worker.providers.replies import FILTERED, GIVEN_UP, Called, NoAnswer, ProviderSaid, Reply
from aios_dist.worker.providers.to_gemini import ABOUT, OWN

_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_FILTERS = ("LANGUAGE", "ESCALATION", "MODEL_ARMOR")
"""Reasons of Gemini's own with which its filters stop an answer."""

_REFUSED = {"MISSING_THOUGHT_SIGNATURE": 400, "PUP_LIMITED_DISABLED": 403}
"""Reasons that are refusals, and the status that they would have had."""

_NO_REASON = ("", "FINISH_REASON_UNSPECIFIED", "null")
_OF_A_TEXT = {"text"}


class ContentReply(Reply):
    """Reads an answer. Of several candidates the first counts. Parts that are neither text nor a call
    (thoughts, their signatures) are in ``own``."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[dict[str, Any]] = []
        self._about: dict[str, Any] = {}
        self._said = False  # it has a content, be it empty
        self._streams = False

    def whole(self, data: bytes) -> None:
        """See :meth:`Reply.whole`."""
        said = unwrapped(decode(data), "candidates")
        answers = said if isinstance(said, list) else [said]  # a stream that is no stream of events
        self._streams = len(answers) > 1
        for answer in answers:
            self._read(answer)
        if self.complete or self.refused:
            return
        found = table(answers[0] if answers else None)
        if not found and answers and answers[0] not in ({}, None):
            raise msgspec.DecodeError("an answer that is none of Gemini's")
        if words_of(found) and "candidates" not in found:
            raise ProviderSaid(status_of(found), found)
        if found and not found.keys() & _OF_AN_ANSWER:
            raise msgspec.DecodeError("an answer of another protocol")
        raise NoAnswer(data)

    def event(self, data: bytes) -> bool:
        """See :meth:`Reply.event`."""
        self._streams = True
        self._read(unwrapped(decode(data), "candidates"))
        return False

    def _read(self, said: Any) -> None:
        answer = table(said)
        if error := answer.get("error"):
            raise ProviderSaid(status_of(error, answer), error)
        self.model = word(answer.get("modelVersion")) or self.model
        told = answer.get("usageMetadata")
        if isinstance(told, dict):
            prompt, output = (
                sum(count(told.get(name)) for name in names) for names in (_OF_THE_PROMPT, _OF_THE_OUTPUT)
            )
            self.count(usage(prompt, output, told.get("cachedContentTokenCount")))
        blocked = word(table(answer.get("promptFeedback")).get("blockReason"))
        if blocked is not None:
            more = word(table(answer["promptFeedback"]).get("blockReasonMessage"))
            self.refused = f"its filter stopped the question (reason {blocked!r})" + (
                f": {more}" if more else ""
            )
            self.complete = True
        candidates = tables(answer.get("candidates") or [])
        first = next((one for one in candidates if not count(one.get("index"))), None)
        if first is None and candidates:
            first = candidates[0]
        if first is not None:
            self._choose(first)

    def _choose(self, candidate: dict[str, Any]) -> None:
        content = candidate.get("content")
        if isinstance(content, dict):
            self._said = True
            for part in tables(content.get("parts") or []):
                self._part(part)
        for name in ABOUT:
            if candidate.get(name):
                self._about[name] = candidate[name]
        reason = word(candidate.get("finishReason"))
        if reason is None or reason in _NO_REASON:
            self.complete = self.complete or (self._said and not self._streams)
            return
        told = word(candidate.get("finishMessage"))
        why = f"the answer ended with the reason {reason!r}" + (f": {told}" if told else "")
        something = bool(self.text or self.calls)
        if reason in _REFUSED or GIVEN_UP.fullmatch(reason) or (reason == "OTHER" and not something):
            raise ProviderSaid(_REFUSED.get(reason, 500), why)
        if FILTERED.fullmatch(reason) or reason in _FILTERS:
            self.finish_reason = "content_filter"
            if not something:
                self.refused = f"its filter stopped the answer (reason {reason!r})" + (
                    f": {told}" if told else ""
                )
        elif reason == "STOP" and self.calls:
            self.finish_reason = "tool_calls"
        else:
            self.finish_reason = _FINISH.get(reason, reason.lower())
        # One without a content has said nothing, whatever it says of its end.
        self.complete = self._said or self.finish_reason != "stop"

    def _part(self, part: dict[str, Any]) -> None:
        text, call = part.get("text"), part.get("functionCall")
        if isinstance(call, dict):
            arguments = call.get("args")
            made = Called(word(call.get("id")) or "", word(call.get("name")) or "")
            if arguments:
                made.pieces.append(arguments_of(arguments))
            self.calls[len(self.calls)] = made
        elif isinstance(text, str) and not part.get("thought"):
            if text:
                self.text.append(text)
            # Nearly every piece of a stream is a text that goes on, so it is put together here.
            if self._parts and self._parts[-1].keys() | part.keys() == _OF_A_TEXT:
                self._parts[-1]["text"] += text
                return
        elif isinstance(text, str) and self._goes_on(part):
            self._parts[-1]["text"] += text
            return
        self._parts.append(dict(part))

    def _goes_on(self, part: dict[str, Any]) -> bool:
        """Whether a piece of a thought goes on from the part before."""
        last = self._parts[-1] if self._parts else {}
        return last.keys() == part.keys() == {"text", "thought"} and isinstance(last["text"], str)

    def own(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """See :meth:`Reply.own`: all parts as they came, where text and calls do not say everything."""
        found = dict(self._about)
        kinds = [_kind(part) for part in self._parts]
        if kinds != sorted(kinds) or "other" in kinds:
            found[OWN] = [_kept(part) for part in self._parts]
        return found


def _kind(part: dict[str, Any]) -> str:
    """What text and calls say of it, in the order in which they say it: all, or not."""
    if part.keys() == {"functionCall"}:
        return "call"
    return "a text" if part.keys() == _OF_A_TEXT else "other"


def _kept(part: dict[str, Any]) -> dict[str, Any]:
    """A part without what text and calls of the answer say: see :data:`to_gemini.OWN`."""
    call, text = part.get("functionCall"), part.get("text")
    if isinstance(call, dict):
        return {**part, "functionCall": {k: call[k] for k in call if k not in ("id", "name", "args")}}
    if isinstance(text, str) and not part.get("thought"):
        return {**part, "text": len(clean(text))}
    return part


_OF_THE_PROMPT = ("promptTokenCount", "toolUsePromptTokenCount")
_OF_THE_OUTPUT = ("candidatesTokenCount", "thoughtsTokenCount")
_OF_AN_ANSWER = {"candidates", "promptFeedback", "usageMetadata", "modelVersion", "responseId"}


class GeminiCodec(Codec):
    """A model of Google's. ``base_url`` ends in the version (``/v1beta``), or on Google's cloud in
    ``/publishers/google``."""

    name = "gemini"
    address = "https://generativelanguage.googleapis.com/v1beta"
    path = "/models"
    key_header = "x-goog-api-key"
    reply = ContentReply

    def body(self, request: LLMRequest, left_out: list[str]) -> dict[str, Any]:
        """The request in Gemini's form; options that are Gemini's own pass untouched.

        Raises:
            BadRequest: content that has no counterpart there, or a tool call in the conversation whose
                arguments are not a JSON object.
        """
        body: dict[str, Any] = {"stream": self.config.stream, **self.config.options}
        self.say(body, request)
        to_gemini.options(body, left_out)
        body["contents"], system = to_gemini.contents(request.messages, left_out)
        if system:
            body["systemInstruction"] = {"parts": system}
        return body

    def place_of(self, body: dict[str, Any]) -> str:
        """See :meth:`Codec.place_of`: the path says which model it is, and whether the answer streams."""
        model = quote(self.model, safe="/:@")
        path = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
        return f"/{path}:streamGenerateContent?alt=sse" if body.pop("stream") else f"/{path}:generateContent"

    def otherwise(self, request: LLMRequest, refused: FinalLLMError) -> Otherwise | None:
        """See :meth:`Codec.otherwise`. Calls that another model has made have no signature, or one that this
        server does not know: then it is told so."""
        said = str(refused).lower()
        if "thought_signature" not in said and "thought signature" not in said:
            return None
        asked = to_gemini.unsigned(request.messages, anew="missing" not in said)
        return Otherwise(replace(request, messages=asked), "-unsigned") if asked != request.messages else None
