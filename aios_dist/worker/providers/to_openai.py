"""Anthropic's words in OpenAI's, for a request that was written for Claude and goes elsewhere.

Only what OpenAI's protocol cannot be: servers that speak it know many an option that OpenAI does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

Json = dict[str, Any]

ONLY_ANTHROPIC = ("container", "context_management", "mcp_servers", "output_config", "thinking", "top_k")
"""Options that OpenAI itself answers with 400; gateways may take them."""

_FOREIGN = frozenset(
    {
        *("compaction", "container_upload", "document", "image", "mcp_tool_use", "redacted_thinking"),
        *("search_result", "server_tool_use", "thinking", "tool_result", "tool_use"),
    }
)  # types of blocks


def options(body: Json, itself: bool, left_out: list[str]) -> None:
    """Translate a body's options, in place.

    Args:
        body: the request so far.
        itself: it goes to OpenAI, and not to another server that speaks its protocol.
        left_out: gets what is not sent.
    """
    if itself:
        left_out += [name for name in ONLY_ANTHROPIC if body.pop(name, None) is not None]
    stops = body.pop("stop_sequences", None)
    if stops:
        said = body.get("stop") or []
        body["stop"] = [*([said] if isinstance(said, str) else said), *stops]
    if body.get("tools"):
        body["tools"] = [made for one in body["tools"] if (made := _tool(one, left_out)) is not None]
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") in ("any", "auto", "none", "tool"):
        if choice.get("disable_parallel_tool_use"):
            body["parallel_tool_calls"] = False
        kind = choice["type"]
        named = {"type": "function", "function": {"name": choice.get("name")}}
        body["tool_choice"] = named if kind == "tool" else {"any": "required"}.get(kind, kind)


def _tool(definition: Any, left_out: list[str]) -> Any:
    if not isinstance(definition, Mapping) or "function" in definition:
        return definition
    if "input_schema" in definition:
        kept = {k: definition[k] for k in ("name", "description", "strict") if k in definition}
        return {"type": "function", "function": {**kept, "parameters": definition["input_schema"]}}
    if str(definition.get("type")).rpartition("_")[2].isdigit():  # web_search_20250305: Anthropic runs it
        left_out.append(f"tool {definition.get('name')}")
        return None
    return definition


def messages(
    conversation: list[Json], left_out: list[str], itself: bool = False, refused: Collection[str] = ()
) -> list[Json]:
    """A conversation with Anthropic's blocks in OpenAI's form; messages without any pass untouched.

    Args:
        conversation: the messages.
        left_out: gets what is not sent.
        itself: it goes to OpenAI, and not to another server that speaks its protocol: what an answer of such
            a server had of its own (its reasoning, its signatures) OpenAI answers with 400.
        refused: fields of answers that this other server answers so.
    """
    out: list[Json] = []
    for message in conversation:
        content = message.get("content")
        if isinstance(content, list) and any(_foreign(part, itself) for part in content):
            out += _translated(message, content, left_out)
        else:
            out.append(message)
    if itself:
        return [_known(message, left_out) for message in out]
    return [_without(message, refused, left_out) for message in out] if refused else out


def refused_fields(conversation: list[Json], said: str) -> set[str]:
    """Fields of earlier answers, of another server, of which a refusal says that this one knows none."""
    if not _UNKNOWN.search(said):
        return set()
    always = _OF_AN_ANSWER - {"annotations", "refusal"}
    own = {name for m in conversation if m.get("role") == "assistant" for name in m.keys() - always}
    return {name for name in own if re.search(rf"\b{re.escape(str(name))}\b", said)}


_UNKNOWN = re.compile(
    r"unsupported|not (?:permitted|allowed|supported)|unknown|unrecognized|unexpected|extra|additional",
    re.IGNORECASE,
)


def _foreign(part: Any, itself: bool) -> bool:
    """Whether OpenAI's protocol has no such part. Mistral's has thoughts, in parts of their own."""
    kind = _type(part)
    if kind == "text":
        return isinstance(part, Mapping) and part.get("citations") is not None
    if kind == "thinking" and not itself and isinstance(part.get("thinking"), list):
        return False
    return kind in _FOREIGN or str(kind).endswith("_tool_result")


_OF_AN_ANSWER = frozenset(
    {"annotations", "audio", "content", "function_call", "name", "refusal", "role", "tool_calls"}
)
_OF_A_CALL = frozenset({"custom", "function", "id", "type"})


def _known(message: Json, left_out: list[str]) -> Json:
    """An earlier answer without what OpenAI does not know of it; other messages as they are."""
    if message.get("role") != "assistant":
        return message
    calls = message.get("tool_calls")
    made = _without(message, message.keys() - _OF_AN_ANSWER, left_out)
    odd_calls = isinstance(calls, list) and any(
        isinstance(c, Mapping) and c.keys() - _OF_A_CALL for c in calls
    )
    if odd_calls and isinstance(calls, list):
        kept = [
            {k: v for k, v in c.items() if k in _OF_A_CALL} if isinstance(c, Mapping) else c for c in calls
        ]
        made = {**made, "tool_calls": kept}
    return made


def _without(message: Json, fields: Collection[str], left_out: list[str]) -> Json:
    if message.get("role") != "assistant" or message.keys().isdisjoint(fields):
        return message
    for name in sorted(message.keys() & set(fields)):
        if message[name] and f"{name} of messages" not in left_out:
            left_out.append(f"{name} of messages")
    return {name: value for name, value in message.items() if name not in fields}


def _translated(message: Json, content: list[Any], left_out: list[str]) -> list[Json]:
    out: list[Json] = []
    parts: list[Any] = []
    calls: list[Json] = []
    for part in content:
        match _type(part):
            case "tool_use":
                arguments = msgspec.json.encode(part.get("input") or {}).decode()
                function = {"name": part.get("name"), "arguments": arguments}
                calls.append({"id": part.get("id"), "type": "function", "function": function})
            case "tool_result":
                told, shown = _result(part.get("content"), left_out)
                out.append({"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": told})
                parts += shown
            case "thinking" | "redacted_thinking":
                if "thinking of earlier answers" not in left_out:
                    left_out.append("thinking of earlier answers")
            case kind if kind not in ("document", "image") and _foreign(part, True) and kind != "text":
                if f"{kind} of earlier answers" not in left_out:  # which Anthropic ran itself
                    left_out.append(f"{kind} of earlier answers")
            case "text" if "citations" in part:
                parts.append({"type": "text", "text": part.get("text")})
            case _:
                parts.append(_part(part))
    if parts or calls or message.get("tool_calls"):
        text = all(_type(part) == "text" and set(part) == {"type", "text"} for part in parts)
        said: Any = parts
        if message.get("role") == "assistant" and text:  # which has text only, with most servers
            said = "".join(part["text"] for part in parts) or None
        made = {**message, "content": said}
        out.append({**made, "tool_calls": calls} if calls else made)
    return out


def _result(content: Any, left_out: list[str]) -> tuple[str, list[Json]]:
    """A tool's result as text, and its pictures, which only a user's message can have."""
    if not isinstance(content, list):
        return str(content or ""), []
    text: list[str] = []
    shown: list[Json] = []
    for part in content:
        match _type(part):
            case "image" | "document":
                shown.append(_part(part))
            case "text":
                text.append(str(part.get("text", "")))
            case None:
                text.append(str(part))
            case kind:
                left_out.append(f"{kind} of a tool's result")
    return "\n".join(text), shown


def _part(part: Any) -> Any:
    source = part.get("source") if isinstance(part, Mapping) else None
    if not isinstance(source, Mapping):
        return part
    if source.get("type") == "text":
        return {"type": "text", "text": str(source.get("data", ""))}
    if part.get("type") == "image" and source.get("url"):
        return {"type": "image_url", "image_url": {"url": source["url"]}}
    if source.get("data") is None:  # a page of the web, a file of Anthropic's: it says so itself
        return part
    url = f"data:{source.get('media_type')};base64,{source['data']}"
    if part.get("type") == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": part.get("title") or "document", "file_data": url}}


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None
