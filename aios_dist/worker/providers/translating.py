"""What the translations of OpenAI's words into another protocol's have in common (``to_anthropic.py``, …)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from aios_dist.errors import BadRequest

Json = dict[str, Any]

DATA_URL = re.compile(
    r"data:(?P<media>[\w.+-]+/[\w.+-]+)(;[\w.+-]+=[^;,]*)*;base64,(?P<data>.*)", re.DOTALL | re.IGNORECASE
)

KNOWN = frozenset(
    {
        "annotations",
        "audio",
        "content",
        "function_call",
        "name",
        "refusal",
        "role",
        "tool_call_id",
        "tool_calls",
    }
)
"""Fields of a message in OpenAI's form."""


def says(name: str, value: Any) -> bool:
    """Whether an option asks for anything; a seed of 0 does, a penalty of 0 does not."""
    return value is not None and value is not False and (name == "seed" or value != 0)


def unsayable(provider: str, what: str) -> BadRequest:
    """The error of a request that a provider cannot be asked: another model may, see ``fallback``."""
    return BadRequest(f"{provider} has no {what}.", provider=provider, unsayable=True)


def leave_out(what: str, left_out: list[str]) -> None:
    """Note it, once."""
    if what not in left_out:
        left_out.append(what)


def function_of(provider: str, call: Mapping[str, Any]) -> tuple[Any, Json]:
    """Name and arguments of a tool call.

    Raises:
        BadRequest: it is of another type, or its arguments are not a JSON object.
    """
    if call.get("type") == "custom":
        raise unsayable(provider, "calls of tools of the type 'custom'")
    function = call.get("function") or {}
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise BadRequest(
            f"the arguments of the tool call {call.get('id')!r} are not a JSON object, as {provider} "
            "insists.",
            provider=provider,
            unsayable=True,
        ) from None
    return function.get("name"), arguments


def text_of_part(part: Mapping[str, Any], left_out: list[str]) -> str:
    """The text of a part; what else it says (``cache_control``) is left out."""
    for name in part:
        if name not in ("type", "text", "refusal"):
            leave_out(f"{name} of messages", left_out)
    return str(part.get("text") or part.get("refusal") or "")


def first_form(body: Json) -> None:
    """Tools as OpenAI had them at first (``functions``), in the form of now, in place."""
    functions, call = body.pop("functions", None), body.pop("function_call", None)
    if functions is not None:
        body.setdefault("tools", [{"type": "function", "function": function} for function in functions])
    if call is not None:
        named = {"type": "function", "function": call}
        body.setdefault("tool_choice", call if isinstance(call, str) else named)


class Edited(Exception):
    """A message no longer says what stands beside it in the provider's own form."""


class Again:
    """Text and calls of an earlier answer, taken again in the pieces in which they came: what the provider's
    own form says of them (signatures, ids) stands beside them, and counts them instead of saying them twice.

    Args:
        message: the answer, as it is in the conversation now.
    """

    def __init__(self, message: Mapping[str, Any]) -> None:
        content, calls = message.get("content"), message.get("tool_calls")
        self._text = content if isinstance(content, str) else ""
        self._calls = calls if isinstance(calls, list) else []
        self._at = self._taken = 0
        self._fine = content is None or isinstance(content, str)

    def text(self, length: Any) -> str:
        """The next so many characters.

        Raises:
            Edited: they are not there.
        """
        begin = self._at
        if type(length) is not int or not 0 <= length <= len(self._text) - begin:
            raise Edited
        self._at = begin + length
        return self._text[begin : self._at]

    def call(self) -> Mapping[str, Any]:
        """The next call.

        Raises:
            Edited: there is none.
        """
        if self._taken >= len(self._calls) or not isinstance(self._calls[self._taken], Mapping):
            raise Edited
        self._taken += 1
        found: Mapping[str, Any] = self._calls[self._taken - 1]
        return found

    def end(self) -> None:
        """All must have been taken.

        Raises:
            Edited: something was not.
        """
        if not self._fine or self._at < len(self._text) or self._taken < len(self._calls):
            raise Edited


def without(field: str, conversation: list[Json]) -> list[Json]:
    """The conversation without that field of its messages."""
    return [{name: message[name] for name in message if name != field} for message in conversation]
