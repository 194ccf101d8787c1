"""What a test orders the fake LLM to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aios_dist.testing.calls import Call, CallInFlight
from aios_dist.testing.faults import Fault
from aios_dist.testing.replies import Reply, ToolCall, text_of

Said = str | Reply | Fault


class Script:
    """What a test wants said: nothing (None), one text or reply, a list in order, a mapping, or a callable.

    A list gives one entry to each call that no fault hits, and nothing after its end. A mapping is looked up
    by the text of the last message, first whole, then for a key inside it. A callable gets the ``Call``, runs
    in the server's event loop, and must be quick. Where the script gives nothing (None), the reply is seeded.
    """

    def __init__(self, source: Any = None) -> None:
        if isinstance(source, Mapping):
            source = {str(key): said(value) for key, value in source.items()}
        elif isinstance(source, Sequence) and not isinstance(source, str | bytes):
            source = [said(value) for value in source]
        elif source is not None and not callable(source):
            source = said(source)
        self._source: str | Reply | Fault | list[Said] | dict[str, Said] | Callable[[Call], Any] | None = (
            source
        )
        self._next = 0

    def restart(self) -> None:
        """Begin a list again from its first entry."""
        self._next = 0

    def say(self, call: CallInFlight) -> Reply | Fault | None:
        """What this call gets; None for a seeded reply."""
        source = self._source
        found: Any = source
        if isinstance(source, list):
            found = source[self._next] if self._next < len(source) else None
            self._next += 1
        elif isinstance(source, dict):
            last = text_of(call.messages[-1])
            found = source.get(last) or next((value for key, value in source.items() if key in last), None)
        elif callable(source):
            found = source(call.record())
            found = said(found) if found is not None else None
        return Reply(found) if isinstance(found, str) else found


def said(value: Any) -> Said:
    """One scripted answer, from itself or from JSON: a text, {"text", "tool_calls"} or {"fault": "429"}."""
    if isinstance(value, str | Reply | Fault):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a scripted reply is a text, an object or a Reply, not {value!r}")
    try:
        if "fault" in value:
            rest = {key: item for key, item in value.items() if key != "fault"}
            return Fault(str(value["fault"]), **rest)
        fields = dict(value)
        fields["tool_calls"] = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
        return Reply(**fields)
    except TypeError as error:
        raise ValueError(f"a scripted reply has a field that is not known: {error}") from None
