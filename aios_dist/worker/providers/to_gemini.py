"""OpenAI's words (or Anthropic's) in Gemini's.

What has a counterpart is translated. An option that has none is left out, and named in the answer. Content
that has none is refused. What an answer had beyond text and calls (signatures of thoughts, code that Google
ran) goes back with the part that it came with: see :data:`OWN`.
"""

from __future__ import annotations

import functools
import mimetypes
from collections.abc import Mapping
from typing import Any

import msgspec

from aios_dist.worker.providers import to_openai
from aios_dist.worker.providers.translating import (
    DATA_URL,
    KNOWN,
    Again,
    Edited,
    Json,
    first_form,
    function_of,
    leave_out,
    says,
    text_of_part,
)
from aios_dist.worker.providers.translating import unsayable as _unsayable

OWN = "gemini_parts"
"""The field of a message that has its parts, without what content and calls say already: a text that is the
answer's is its number of characters, a call only what it has of its own."""

ABOUT = ("citationMetadata", "groundingMetadata", "urlContextMetadata")
"""Fields of a message about its text; they do not go back."""

NOT_THERE = (
    *("audio", "logit_bias", "metadata", "min_p", "modalities", "n", "prediction", "prompt_cache_key"),
    *("prompt_cache_retention", "reasoning_effort", "repetition_penalty", "safety_identifier"),
    *("stream_options", "user", "verbosity", "web_search_options"),
)
"""Options of OpenAI's protocol without a counterpart."""

OF_TRANSPORT = ("n", "stream_options")
"""… of which nothing is lost: an answer is one, and its usage always comes."""

_NAMES = {
    "frequency_penalty": "frequencyPenalty",
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "topK",
    "top_logprobs": "logprobs",
    "top_p": "topP",
}
"""Options of OpenAI's protocol, and what they are called within ``generationConfig``."""

_WITHIN = frozenset(
    {
        *("candidateCount", "frequencyPenalty", "imageConfig", "maxOutputTokens", "mediaResolution"),
        *("presencePenalty", "responseJsonSchema", "responseLogprobs", "responseMimeType"),
        *("responseModalities", "responseSchema", "speechConfig", "stopSequences", "thinkingConfig", "topK"),
        "topP",
    }
)
"""Gemini's own options that stand there."""

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_TIERS = {"default": "standard"}

unsayable = functools.partial(_unsayable, "gemini")


def options(body: Json, left_out: list[str]) -> None:
    """Translate a body's options, in place; messages do not matter.

    Args:
        body: the request so far.
        left_out: gets what is not sent.

    Raises:
        BadRequest: a tool has no counterpart.
    """
    first_form(body)
    top_k = body.pop("top_k", None)
    to_openai.options(body, True, left_out)
    given = [name for name in NOT_THERE if says(name, body.pop(name, None))]
    left_out += [name for name in given if name not in OF_TRANSPORT]
    config: Json = {name: body.pop(name) for name in _WITHIN if name in body}
    for name, theirs in _NAMES.items():
        value = top_k if name == "top_k" else body.pop(name, None)
        if value is not None:
            config.setdefault(theirs, value)
    if body.pop("logprobs", None):
        config["responseLogprobs"] = True
    elif "logprobs" in config:
        del config["logprobs"]
    stop = body.pop("stop", None)
    if stop:
        config["stopSequences"] = [
            *config.get("stopSequences", ()),
            *([stop] if isinstance(stop, str) else stop),
        ]
    _form(body.pop("response_format", None), config)
    _tools(body, left_out)
    tier = body.pop("service_tier", None)
    if tier is not None and tier != "auto":
        body["serviceTier"] = _TIERS.get(tier, tier)
    known = body.get("generationConfig")
    config |= known if isinstance(known, Mapping) else {}
    if config:
        body["generationConfig"] = config


def _form(wanted: Any, config: Json) -> None:
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
    if kind == "json_schema":
        config["responseJsonSchema"] = (wanted.get("json_schema") or {}).get("schema", {})
    elif kind not in (None, "json_object", "text"):
        raise unsayable(f"response_format {kind!r}; use json_schema")


def _tools(body: Json, left_out: list[str]) -> None:
    functions: list[Json] = []
    others: list[Any] = []
    for definition in body.pop("tools", None) or ():
        kind = definition.get("type") if isinstance(definition, Mapping) else None
        if kind == "function" and isinstance(function := definition.get("function"), Mapping):
            functions.append(_function(function, left_out))
        elif kind == "custom":
            raise unsayable("tools of the type 'custom'")
        elif isinstance(kind, str):  # one that another provider runs
            leave_out(f"tool {kind}", left_out)
        else:
            others.append(definition)
    if functions:
        others.insert(0, {"functionDeclarations": functions})
    if body.pop("parallel_tool_calls", None) is False and functions:
        leave_out("parallel_tool_calls", left_out)
    calling = _calling(body.pop("tool_choice", None), left_out)
    if others:
        body["tools"] = others
    if functions and calling is not None:
        known = body.get("toolConfig")
        body["toolConfig"] = {
            "functionCallingConfig": calling,
            **(known if isinstance(known, Mapping) else {}),
        }


def _function(function: Mapping[str, Any], left_out: list[str]) -> Json:
    if function.get("strict"):
        leave_out("strict of tools", left_out)
    made = {name: function[name] for name in ("name", "description") if function.get(name) is not None}
    if function.get("parameters"):
        made["parametersJsonSchema"] = function["parameters"]
    return made


def _calling(choice: Any, left_out: list[str]) -> Json | None:
    if isinstance(choice, str):
        return {"mode": _MODES.get(choice, choice)}
    if not isinstance(choice, Mapping):
        return None
    if isinstance(named := choice.get("function"), Mapping):
        return {"mode": "ANY", "allowedFunctionNames": [named.get("name")]}
    allowed = choice.get("allowed_tools")
    if isinstance(allowed, Mapping) and allowed.get("mode") == "required":
        names = [(tool.get("function") or {}).get("name") for tool in allowed.get("tools") or ()]
        return {"mode": "ANY", "allowedFunctionNames": names}
    leave_out(f"tool_choice {choice.get('type')}", left_out)
    return None


# Conversations ---------------------------------------------------------------------------------------


def contents(conversation: list[Json], left_out: list[str]) -> tuple[list[Json], list[Json]]:
    """A conversation as Gemini's, and the parts of the system's prompt, which Gemini has beside it.

    Raises:
        BadRequest: something in it has no counterpart, or a tool's arguments are no JSON object.
    """
    talk = _Talk(left_out)
    for message in to_openai.messages(conversation, left_out):
        talk.add(message)
    return talk.out, talk.system


class _Talk:
    def __init__(self, left_out: list[str]) -> None:
        self.out: list[Json] = []
        self.system: list[Json] = []
        self._left_out = left_out
        self._called: list[Any] = []  # calls of OpenAI's first form, which has no ids
        self._names: dict[Any, Any] = {}  # of the functions that were called, by the calls' ids
        self._results: list[Json] | None = None  # of calls that were made together

    def add(self, message: Json) -> None:
        role, content = message.get("role"), message.get("content")
        if message.get("name") is not None and role not in ("tool", "function"):
            leave_out("names of speakers", self._left_out)
        for name in message:
            if name not in KNOWN and name not in (OWN, *ABOUT) and message[name]:
                leave_out(f"{name} of messages", self._left_out)
        if role in ("tool", "function"):
            id = message.get("tool_call_id")
            if role == "function" and self._called:
                id = self._called.pop(0)
            self._result(id, message.get("name"), content)
            return
        self._results = None
        if role in ("system", "developer"):
            self.system += self._parts(content)
        elif role == "assistant":
            self._answer(message)
        else:
            self.out.append({"role": "user", "parts": self._parts(content) or [{"text": ""}]})

    def _answer(self, message: Json) -> None:
        if message.get("audio") is not None:
            leave_out("sound of earlier answers", self._left_out)
        calls = list(message.get("tool_calls") or ())
        if isinstance(legacy := message.get("function_call"), Mapping):
            self._called.append(f"call_{len(self.out)}")
            calls.append({"id": self._called[-1], "function": legacy})
        self._names |= {call.get("id"): (call.get("function") or {}).get("name") for call in calls}
        own = message.get(OWN)
        parts: list[Json] | None = None
        if isinstance(own, list) and own:
            try:
                parts = _as_they_came(message, own)
            except (AttributeError, Edited, TypeError):
                leave_out(f"{OWN} of messages", self._left_out)
        if parts is None:
            content = message.get("content") or message.get("refusal")
            parts = [*self._parts(content), *map(_call, calls)]
        if parts:  # an answer of nothing: OpenAI takes it, Gemini answers 400
            self.out.append({"role": "model", "parts": parts})

    def _result(self, id: Any, name: Any, content: Any) -> None:
        parts = self._parts(content)
        shown = [part for part in parts if "text" not in part]
        told = "".join(part["text"] for part in parts if "text" in part)
        made: Json = {"name": self._names.get(id) or name, "response": _response(told)}
        if id is not None:
            made["id"] = id
        # The results of calls that were made together must come back in one content.
        if self._results is None:
            self._results = []
            self.out.append({"role": "user", "parts": self._results})
        self._results += [{"functionResponse": made}, *shown]

    def _parts(self, content: Any) -> list[Json]:
        """A message's content; parts that are Gemini's own pass untouched, empty texts are none."""
        if not content:
            return []
        if isinstance(content, str):
            return [{"text": content}]
        parts = [self._part(part) for part in (content if isinstance(content, list) else [content])]
        return [part for part in parts if part != {"text": ""}]

    def _part(self, part: Any) -> Any:
        if isinstance(part, str):
            return {"text": part}
        match part.get("type") if isinstance(part, Mapping) else None:
            case "text" | "refusal":
                return {"text": text_of_part(part, self._left_out)}
            case "image_url" | "audio_url" | "video_url" as kind:
                shown = part.get(kind)
                if isinstance(shown, Mapping) and shown.get("detail") not in (None, "auto"):
                    leave_out("detail of pictures", self._left_out)
                return _media(shown.get("url") if isinstance(shown, Mapping) else shown)
            case "input_audio":
                sound = part["input_audio"]
                data = {"mimeType": f"audio/{sound.get('format')}", "data": sound.get("data")}
                return {"inlineData": data}
            case "file":
                return _file(part.get("file"))
            case str() as kind:
                raise unsayable(f"content of the type {kind!r}")
        return part


def _as_they_came(message: Json, own: list[Json]) -> list[Json]:
    """The parts of an earlier answer.

    Raises:
        Edited: the message says something else by now.
    """
    said, out = Again(message), []
    for part in own:
        made = dict(part)
        if "functionCall" in part:
            made["functionCall"] = {**_call(said.call())["functionCall"], **part["functionCall"]}
        elif type(part.get("text")) is int:
            made["text"] = said.text(part["text"])
        out.append(made)
    said.end()
    return out


UNSIGNED = "skip_thought_signature_validator"
"""Google's word for a call that has no signature, since another model has made it:
https://ai.google.dev/gemini-api/docs/thought-signatures"""


def unsigned(conversation: list[Json], anew: bool) -> list[Json]:
    """The conversation with :data:`UNSIGNED` where a call has no signature.

    Args:
        conversation: the messages.
        anew: the signatures that are there are another server's.
    """
    out: list[Json] = []
    for message in conversation:
        calls = message.get("tool_calls")
        made = {name: message[name] for name in message if not (anew and name == OWN)}
        if message.get("role") == "assistant" and isinstance(calls, list) and calls and OWN not in made:
            google = {"google": {"thought_signature": UNSIGNED}}
            made["tool_calls"] = [{**calls[0], "extra_content": google}, *calls[1:]]
        out.append(made)
    return out


def _call(call: Mapping[str, Any]) -> Json:
    """A call as a part; with the signature that Google's server of OpenAI's protocol gave it."""
    name, arguments = function_of("gemini", call)
    made: Json = {"functionCall": {"id": call.get("id"), "name": name, "args": arguments}}
    google = (call.get("extra_content") or {}).get("google")
    if isinstance(google, Mapping) and (signature := google.get("thought_signature")):
        made["thoughtSignature"] = signature
    return made


def _response(told: str) -> Json:
    """What a tool gave: an object as it is, all else as ``output``."""
    try:
        return msgspec.json.decode(told, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return {"output": told}


def _media(url: Any) -> Json:
    inline = DATA_URL.fullmatch(str(url))
    if inline is not None:
        return {"inlineData": {"mimeType": inline["media"], "data": inline["data"]}}
    kind, _ = mimetypes.guess_type(str(url).partition("?")[0])
    return {"fileData": {"fileUri": url, **({"mimeType": kind} if kind else {})}}


def _file(file: Any) -> Json:
    known = file if isinstance(file, Mapping) else {}
    if (inline := DATA_URL.fullmatch(str(known.get("file_data")))) is not None:
        return {"inlineData": {"mimeType": inline["media"], "data": inline["data"]}}
    if "://" in str(known.get("file_id")):  # as Google names them
        return _media(known["file_id"])
    raise unsayable("file of another provider; give its content as file_data")
