"""A request in OpenAI's words of chat completions (or Anthropic's), in those of its Responses.

What has a counterpart is translated. An option that has none is left out, and named in the answer. Content
that has none (sound) is refused. What an answer had beyond text and calls (reasoning, searches of its own)
goes back as it came: see :data:`OWN`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from aios_dist.worker.providers import to_openai
from aios_dist.worker.providers.translating import (
    KNOWN,
    Again,
    Edited,
    Json,
    first_form,
    leave_out,
    says,
    text_of_part,
)
from aios_dist.worker.providers.translating import unsayable as _unsayable

OWN = "response_items"
"""The field of a message that has its items, without what content and calls say already: a text in them is
its number of characters, a call only what it has of its own."""

ENCRYPTED = "reasoning.encrypted_content"

NOT_THERE = (
    *("audio", "background", "frequency_penalty", "logit_bias", "logprobs", "min_p", "modalities", "n"),
    *("prediction", "presence_penalty", "repetition_penalty", "seed", "stop", "web_search_options"),
)
"""Options of chat completions without a counterpart; an answer ``background`` would come later."""

OF_TRANSPORT = ("n",)
"""… of which nothing is lost: an answer is one."""

unsayable = functools.partial(_unsayable, "openai-responses")


def options(body: Json, left_out: list[str]) -> None:
    """Translate a body's options, in place; messages do not matter.

    Args:
        body: the request so far.
        left_out: gets what is not sent.
    """
    first_form(body)
    to_openai.options(body, True, left_out)
    given = [name for name in NOT_THERE if says(name, body.pop(name, None))]
    left_out += [name for name in given if name not in OF_TRANSPORT]
    most = [body.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
    for number in most:
        if number is not None:
            body.setdefault("max_output_tokens", number)
    _within(body, "reasoning", effort=body.pop("reasoning_effort", None))
    form = body.pop("response_format", None)
    _within(body, "text", format=_form(form), verbosity=body.pop("verbosity", None))
    streaming = body.pop("stream_options", None)
    if isinstance(streaming, Mapping) and (kept := {k: v for k, v in streaming.items() if k != USAGE}):
        body["stream_options"] = kept
    if body.get("tools"):
        body["tools"] = [_tool(definition) for definition in body["tools"]]
    if (choice := _choice(body.get("tool_choice"))) is not None:
        body["tool_choice"] = choice


USAGE = "include_usage"
"""It always comes."""


def _within(body: Json, name: str, **fields: Any) -> None:
    said = {key: value for key, value in fields.items() if value is not None}
    if said:
        known = body.get(name)
        body[name] = {**said, **(known if isinstance(known, Mapping) else {})}


def _form(wanted: Any) -> Any:
    schema = wanted.get("json_schema") if isinstance(wanted, Mapping) else None
    if not isinstance(schema, Mapping):
        return wanted
    return {"type": "json_schema", "name": "answer", **schema}


def _tool(definition: Any) -> Any:
    """A tool's definition; one that is of Responses' own passes untouched."""
    if not isinstance(definition, Mapping):
        return definition
    kind = definition.get("type")
    inner = definition.get(kind) if kind in ("function", "custom") else None
    if not isinstance(inner, Mapping):
        return definition
    if kind == "custom":
        form = inner.get("format")
        grammar = form.get("grammar") if isinstance(form, Mapping) else None
        more = {"format": {"type": "grammar", **grammar}} if isinstance(grammar, Mapping) else {}
        return {"type": kind, **inner, **more}
    # Strict is what is not said here, and what is not said in a chat is not.
    made = {"type": kind, **inner, "strict": bool(inner.get("strict"))}
    return made if made.get("parameters") else {**made, "parameters": {"type": "object", "properties": {}}}


def _choice(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    kind = choice.get("type")
    inner = choice.get(kind) if isinstance(kind, str) else None
    if not isinstance(inner, Mapping):
        return choice
    if kind == "allowed_tools":
        tools = inner.get("tools")
        return {
            "type": kind,
            **inner,
            "tools": [_choice(one) for one in tools] if isinstance(tools, list) else tools,
        }
    return {"type": kind, "name": inner.get("name")}


# Conversations ---------------------------------------------------------------------------------------


def items(conversation: list[Json], stored: bool, left_out: list[str]) -> list[Json]:
    """A conversation as the items of an ``input``.

    Args:
        conversation: the messages.
        stored: the server has kept what it answered, and knows it by its ids.
        left_out: gets what is not sent.

    Raises:
        BadRequest: something in it has no counterpart.
    """
    talk = _Talk(stored, left_out)
    for message in to_openai.messages(conversation, left_out):
        talk.add(message)
    return talk.out


class _Talk:
    def __init__(self, stored: bool, left_out: list[str]) -> None:
        self.out: list[Json] = []
        self._stored = stored
        self._left_out = left_out
        self._called: list[str] = []  # calls of OpenAI's first form, which has no ids
        self._custom: set[Any] = set()  # ids of calls of tools that take text

    def add(self, message: Json) -> None:
        role, content = message.get("role"), message.get("content")
        if message.get("name") is not None and role not in ("tool", "function"):
            leave_out("names of speakers", self._left_out)
        for name in message:
            if name not in KNOWN and name != OWN and message[name]:
                leave_out(f"{name} of messages", self._left_out)
        if role == "assistant":
            self._answer(message)
        elif role == "tool":
            self._result(message.get("tool_call_id"), content)
        elif role == "function":
            self._result(self._called.pop(0) if self._called else None, content)
        else:
            self.out.append({"role": role, "content": self._content(content)})

    def _result(self, id: Any, content: Any) -> None:
        kind = "custom_tool_call_output" if id in self._custom else "function_call_output"
        self.out.append({"type": kind, "call_id": id, "output": self._content(content)})

    def _answer(self, message: Json) -> None:
        if message.get("audio") is not None:
            leave_out("sound of earlier answers", self._left_out)
        calls = list(message.get("tool_calls") or ())
        if isinstance(legacy := message.get("function_call"), Mapping):
            self._called.append(f"call_{len(self.out)}")
            calls.append({"id": self._called[-1], "function": legacy})
        self._custom |= {call.get("id") for call in calls if call.get("type") == "custom"}
        own = message.get(OWN)
        if isinstance(own, list) and own:
            try:
                self.out += _as_it_came(message, own, self._stored)
                return
            except (AttributeError, Edited, KeyError, TypeError):
                leave_out(f"{OWN} of messages", self._left_out)
        if text := _text(message.get("content")) or message.get("refusal"):
            self.out.append({"role": "assistant", "content": text})
        self.out += map(_call, calls)

    def _content(self, content: Any) -> Any:
        return [self._part(part) for part in content] if isinstance(content, list) else content or ""

    def _part(self, part: Any) -> Any:
        """A part of a content; one that is of Responses' own passes untouched."""
        if isinstance(part, str):
            return {"type": "input_text", "text": part}
        match part.get("type") if isinstance(part, Mapping) else None:
            case "text" | "refusal":
                return {"type": "input_text", "text": text_of_part(part, self._left_out)}
            case "image_url":
                shown = part.get("image_url")
                told = shown if isinstance(shown, Mapping) else {"url": shown}
                return {
                    "type": "input_image",
                    "detail": told.get("detail") or "auto",
                    "image_url": told.get("url"),
                }
            case "file":
                return {"type": "input_file", **part["file"]}
            case "audio_url" | "input_audio" | "video_url" as kind:
                raise unsayable(f"content of the type {kind!r}")
        return part


def _as_it_came(message: Json, own: list[Json], stored: bool) -> list[Json]:
    """The items of an earlier answer. What is not stored is known by no id, and reasoning by what is
    encrypted of it alone.

    Raises:
        Edited: the message says something else by now.
    """
    said, out = Again(message), []
    for item in own:
        kind = item["type"]
        made = dict(item)
        if kind == "message":
            made["content"] = [
                {**part, "text": said.text(part["text"])} if "text" in part else part
                for part in item["content"]
            ]
        elif kind in ("function_call", "custom_tool_call"):
            made |= _call(said.call())
        if not stored:
            made.pop("id", None)
        if stored or kind != "reasoning" or item.get("encrypted_content"):
            out.append(made)
    said.end()
    return out


def _call(call: Mapping[str, Any]) -> Json:
    if call.get("type") == "custom":
        custom = call.get("custom") or {}
        told = {"name": custom.get("name"), "input": custom.get("input") or ""}
        return {"type": "custom_tool_call", "call_id": call.get("id"), **told}
    function = call.get("function") or {}
    told = {"name": function.get("name"), "arguments": function.get("arguments") or "{}"}
    return {"type": "function_call", "call_id": call.get("id"), **told}


def _text(content: Any) -> str:
    """What an answer said, which may stand in parts."""
    if not isinstance(content, list):
        return content or ""
    told = (part if isinstance(part, str) else part.get("text") or part.get("refusal") for part in content)
    return "".join(text for text in told if isinstance(text, str))
