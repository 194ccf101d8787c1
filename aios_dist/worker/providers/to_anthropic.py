"""OpenAI's words in Anthropic's: a request goes to either, as an author or a fallback wants it.

What has a counterpart is translated. An option that has none is left out, and named in the answer. Content
that has none (sound, a form of answer) is refused: an answer without it would be one to another question.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from aios_dist.worker.providers.translating import (
    DATA_URL,
    KNOWN,
    Json,
    first_form,
    function_of,
    leave_out,
    says,
)
from aios_dist.worker.providers.translating import unsayable as _unsayable

ONLY_OPENAI = (
    *("audio", "frequency_penalty", "logit_bias", "logprobs", "min_p", "modalities", "n", "prediction"),
    *("presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort"),
    *("repetition_penalty", "seed", "store", "stream_options", "top_logprobs", "verbosity"),
    "web_search_options",
)
"""Options of OpenAI's protocol, and of servers that speak it, without a counterpart."""

OF_TRANSPORT = ("n", "stream_options")
"""… of which nothing is lost: an answer is one, and its usage always comes."""

WARMEST = 1.0
"""Anthropic's highest temperature; OpenAI's is 2."""


def options(body: Json, left_out: list[str]) -> None:
    """Translate a body's options, in place; tools are in it already, messages do not matter.

    Args:
        body: the request so far.
        left_out: gets what is not sent.
    """
    given = [name for name in ONLY_OPENAI if says(name, body.pop(name, None))]
    left_out += [name for name in given if name not in OF_TRANSPORT]
    _sizes(body, left_out)
    _stops(body, left_out)
    _who(body, left_out)
    _tools(body, left_out)


def _sizes(body: Json, left_out: list[str]) -> None:
    most = body.pop("max_completion_tokens", None)
    if most is not None:
        body["max_tokens"] = most
    warmth = body.get("temperature")
    if isinstance(warmth, (int, float)) and warmth > WARMEST:
        body["temperature"] = WARMEST
        left_out.append(f"temperature above {WARMEST:g}")
    tier = body.get("service_tier")
    if tier == "default":
        body["service_tier"] = "standard_only"
    elif tier in ("flex", "priority", "scale"):
        del body["service_tier"]
        left_out.append("service_tier")


def _stops(body: Json, left_out: list[str]) -> None:
    stop = body.pop("stop", None)
    if stop is None:
        return
    words = [stop] if isinstance(stop, str) else list(stop)
    kept = [word for word in words if str(word).strip()]
    if len(kept) < len(words):
        left_out.append("stop at white space")
    if kept:
        body["stop_sequences"] = [*body.get("stop_sequences", ()), *kept]


def _who(body: Json, left_out: list[str]) -> None:
    """Anthropic knows a ``user_id`` only."""
    said = [body.pop(name, None) for name in ("safety_identifier", "user")]
    user = next((name for name in said if name is not None), None)
    told = body.pop("metadata", None)
    about = dict(told) if isinstance(told, Mapping) else {}
    if set(about) - {"user_id"}:
        left_out.append("metadata")
    user = about.get("user_id", user)
    if user is not None:
        body["metadata"] = {"user_id": user}


def _tools(body: Json, left_out: list[str]) -> None:
    first_form(body)
    if "tools" in body:
        body["tools"] = [tool(definition) for definition in body["tools"]]
    choice = tool_choice(body.pop("tool_choice", None))
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice = None
        left_out.append("tool_choice allowed_tools")
    one_at_a_time = body.pop("parallel_tool_calls", None) is False
    if not body.get("tools"):
        body.pop("tools", None)
        return
    if one_at_a_time and (choice is None or choice.get("type") in ("auto", "any", "tool")):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        body["tool_choice"] = choice


def tool(definition: Any) -> Any:
    """OpenAI's definition of a tool as Anthropic's; one that is Anthropic's own passes untouched."""
    if not isinstance(definition, Mapping):
        return definition
    if definition.get("type") == "custom" and isinstance(definition.get("custom"), Mapping):
        raise unsayable("tools of the type 'custom'")
    function = definition.get("function")
    if definition.get("type") != "function" or not isinstance(function, Mapping):
        return definition
    kept = {key: function[key] for key in ("name", "description", "strict") if function.get(key) is not None}
    return {**kept, "input_schema": function.get("parameters") or {"type": "object", "properties": {}}}


def tool_choice(choice: Any) -> Any:
    """OpenAI's ``tool_choice`` as Anthropic's; one that is Anthropic's own passes untouched."""
    if isinstance(choice, str):
        return {"type": {"required": "any"}.get(choice, choice)}
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return {"type": "tool", "name": choice["function"].get("name")}
    return choice


def answer_form(wanted: Mapping[str, Any]) -> Json | None:
    """OpenAI's ``response_format`` as Anthropic's ``output_config`` has it; None for plain text.

    Raises:
        BadRequest: it has no counterpart.
    """
    kind = wanted.get("type")
    if kind == "json_schema":
        return {"type": "json_schema", "schema": (wanted.get("json_schema") or {}).get("schema", {})}
    if kind != "text":
        raise unsayable(f"response_format {kind!r}; use json_schema")
    return None


unsayable = functools.partial(_unsayable, "anthropic")


# Conversations ---------------------------------------------------------------------------------------


def messages(conversation: list[Json], left_out: list[str]) -> tuple[list[Json], str | list[Json]]:
    """OpenAI's messages as Anthropic's, and the system prompt, which Anthropic has beside them.

    Raises:
        BadRequest: something in it has no counterpart, or a tool's arguments are no JSON object.
    """
    talk = _Talk(left_out)
    for message in conversation:
        talk.add(message)
    if all(set(part) == {"type", "text"} for part in talk.system):
        return talk.out, "\n\n".join(part["text"] for part in talk.system)
    return talk.out, talk.system


def tools_of(conversation: list[Json]) -> list[Json]:
    """Definitions of the tools that Anthropic's messages name: it insists on them wherever one was called."""
    names = {
        block.get("name"): None
        for message in conversation
        if isinstance(message["content"], list)
        for block in message["content"]
        if isinstance(block, Mapping) and block.get("type") == "tool_use"
    }
    return [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in names]


class _Talk:
    """A conversation on its way into Anthropic's form."""

    def __init__(self, left_out: list[str]) -> None:
        self.out: list[Json] = []
        self.system: list[Json] = []
        self._left_out = left_out
        self._called: list[str] = []  # calls of OpenAI's first form, which has no ids

    def add(self, message: Json) -> None:
        """The next message."""
        role, content = message.get("role"), message.get("content")
        if message.get("name") is not None and role not in ("tool", "function"):
            self._leave_out("names of speakers")
        for name in message:
            if name not in KNOWN and message[name]:
                self._leave_out(f"{name} of messages")
        if role in ("system", "developer"):
            self.system += self._parts(content)
        elif role == "tool":
            self._result(message.get("tool_call_id"), content)
        elif role == "function":
            self._result(self._called.pop(0) if self._called else None, content)
        elif role == "assistant":
            self._answer(message)
        else:
            said = content if isinstance(content, str) else self._parts(content)
            self.out.append({"role": role, "content": said})

    def _answer(self, message: Json) -> None:
        content, calls = message.get("content"), list(message.get("tool_calls") or ())
        if isinstance(legacy := message.get("function_call"), Mapping):
            id = f"call_{len(self.out)}"
            self._called.append(id)
            calls.append({"id": id, "function": legacy})
        if message.get("audio") is not None:
            self._leave_out("sound of earlier answers")
        content = content or message.get("refusal")
        if isinstance(content, str) and not content.strip():
            content = None  # white space alone is refused
        if isinstance(content, str) and not calls:
            self.out.append({"role": "assistant", "content": content})
        elif parts := [*self._parts(content), *map(_tool_use, calls)]:
            self.out.append({"role": "assistant", "content": parts})
        # An answer of nothing: OpenAI takes it, Anthropic answers 400.

    def _result(self, id: Any, content: Any) -> None:
        told = content if isinstance(content, str) else self._parts(content)
        result = {"type": "tool_result", "tool_use_id": id, "content": told}
        # The results of calls that were made together must come back in one message.
        if self.out and self.out[-1]["role"] == "user" and _is_results(self.out[-1]["content"]):
            self.out[-1]["content"].append(result)
        else:
            self.out.append({"role": "user", "content": [result]})

    def _parts(self, content: Any) -> list[Json]:
        """A message's content as Anthropic's blocks; what is Anthropic's own passes untouched."""
        if not content:
            return []
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts = content if isinstance(content, list) else [content]
        if any(_of_another(part) for part in parts):
            self._leave_out("thinking of earlier answers")
        made = [self._part(part) for part in parts if not _of_another(part)]
        return [part for part in made if part != {"type": "text", "text": ""}]  # which answers 400

    def _part(self, part: Any) -> Any:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        match part.get("type") if isinstance(part, Mapping) else None:
            case "image_url":
                shown = part.get("image_url")
                if isinstance(shown, Mapping) and shown.get("detail") not in (None, "auto"):
                    self._leave_out("detail of pictures")
                return _image(shown.get("url") if isinstance(shown, Mapping) else shown)
            case "refusal":
                return {"type": "text", "text": str(part.get("refusal") or "")}
            case "file":
                return _document(part.get("file"))
            case "audio_url" | "input_audio" | "video_url" as kind:
                raise unsayable(f"content of the type {kind!r}")
        return part

    def _leave_out(self, what: str) -> None:
        leave_out(what, self._left_out)


def _of_another(part: Any) -> bool:
    """A thought of another provider's model: Anthropic's bear its signature."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind == "reasoning" or (kind == "thinking" and not isinstance(part.get("signature"), str))


def _image(url: Any) -> Json:
    inline = DATA_URL.fullmatch(str(url))
    if inline is None:
        return {"type": "image", "source": {"type": "url", "url": url}}
    source = {"type": "base64", "media_type": inline["media"], "data": inline["data"]}
    return {"type": "image", "source": source}


def _document(file: Any) -> Json:
    known = file if isinstance(file, Mapping) else {}
    inline = DATA_URL.fullmatch(str(known.get("file_data")))
    if inline is None:
        raise unsayable("file of another provider; give its content as file_data")
    source = {"type": "base64", "media_type": inline["media"], "data": inline["data"]}
    title = {"title": known["filename"]} if known.get("filename") else {}
    return {"type": "document", "source": source, **title}


def _is_results(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and content[0].get("type") == "tool_result"


def _tool_use(call: Json) -> Json:
    name, arguments = function_of("anthropic", call)
    return {"type": "tool_use", "id": call.get("id"), "name": name, "input": arguments}
