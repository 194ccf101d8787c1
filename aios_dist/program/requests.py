"""What an agent asks for, as bytes and as a fingerprint, or the sentence that says why it cannot be asked.

The journal keeps JSON. What JSON would quietly make another value of (bytes, NaN, sets, numbers as keys) is
refused when it is asked for, where the agent's author sees the line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from aios_dist.config import odd_option
from aios_dist.errors import InvalidInput, ProgramChanged
from aios_dist.model.calls import (
    LLMRequest,
    LLMResponse,
    Request,
    SignalRequest,
    SleepRequest,
    ToolRequest,
)
from aios_dist.model.given import as_json, plain, short
from aios_dist.model.jobs import Kind, Outcome, Rejection, Step, StepState, digest
from aios_dist.model.options import odd_extra
from aios_dist.program.commands import Leaf, Tool
from aios_dist.text.tracebacks import text_of

_JSON = msgspec.json.Encoder(enc_hook=plain)
_SORTED = msgspec.json.Encoder(enc_hook=plain, order="deterministic")
_64_BITS = msgspec.msgpack.Encoder(enc_hook=plain)
_READ: dict[type, Any] = {
    kind: msgspec.json.Decoder(kind).decode for kind in (LLMRequest, ToolRequest, SleepRequest, SignalRequest)
}


class Asked(msgspec.Struct, frozen=True):
    """A step that the program asked for, in the order of asking; its place in the list is its number.

    Attributes:
        command: None where it is written and nobody asks for it any more: all but tools, see ``written``.
        rejected: what the program had asked for since the step before, and was refused.
        once: what ``once()`` gave it since the step before.
    """

    command: Leaf | None
    kind: Kind
    digest: str
    rejected: tuple[Rejection, ...] = ()
    once: tuple[Outcome, ...] = ()

    def written(self, number: int, request: Request | None = None, outcome: Outcome | None = None) -> Step:
        """The step as a journal would have it, for a program that is run beside this one."""
        return Step(
            job="",
            number=number,
            kind=self.kind,
            lane="",
            state=StepState.READY,
            digest=self.digest,
            request=request,
            outcome=outcome,
            rejected=self.rejected,
            once=self.once,
        )


def encoded(command: Leaf) -> tuple[bytes, str]:
    """The request as JSON, and its digest.

    Raises:
        InvalidInput: it is not JSON.
    """
    request = command.request
    if isinstance(command, Tool):
        # A request is data: refuse now what the journal could not give back.
        as_json([command.request.args, command.request.kwargs], f"input of tool {command.request.name!r}")
    try:
        data = _JSON.encode(request)
        # The order of a set is another one in each process: the fingerprint must not see it.
        return data, digest(_SORTED.encode(request))
    except Exception as exc:  # also what the agent's own objects raise
        odd = _place(request) if isinstance(request, LLMRequest) else ""
        raise InvalidInput(f"The request is not JSON: {odd or text_of(exc)}.") from None


def check_new(request: Request, data: bytes, checked: tuple[int, object] = (0, None)) -> Request:
    """The request as the journal will give it back.

    Args:
        checked: so many messages, and the last of them, were looked at already: what a conversation begins
            with is not, at each of its turns, looked at again.

    Raises:
        InvalidInput: it will not, or its options cannot be.
    """
    if isinstance(request, LLMRequest):
        if request.model is not None and not isinstance(request.model, str):
            raise InvalidInput(
                "The request cannot be used: a model is named by text, "
                f"not by a {type(request.model).__name__}."
            )
        if not request.messages:
            raise InvalidInput(
                "llm(messages=…) is an empty conversation; an iterator gives its messages once."
            )
        first = request.messages[0]
        if first.get("role") == "system" and isinstance(first.get("content"), (Mapping, int, float)):
            raise InvalidInput(f"llm(): system must be text, not {short(first['content'])}.")
        if said := _odd_answer(request.messages, _known(request.messages, *checked)):
            raise InvalidInput(f"llm(messages=…): {said}")
        most, temperature = request.max_tokens, request.temperature
        if (most is not None or temperature is not None) and (odd := odd_option(most, temperature)):
            raise InvalidInput(f"llm(): {odd}")
    try:
        _64_BITS.encode(request)  # knows no integers beyond, as other programs that read JSON
        read: Request = _READ[type(request)](data)
    except OverflowError:
        raise InvalidInput("The request holds a whole number beyond 64 bits; give it as text.") from None
    except Exception as exc:
        raise InvalidInput(f"The request cannot be used: {text_of(exc)}.") from None
    check_same(request, read)
    if isinstance(read, LLMRequest) and read.extra and (odd := odd_extra(read.extra)):
        raise InvalidInput(f"llm(): {odd}")
    return read


def _known(messages: list[dict[str, Any]], many: int, last: object) -> int:
    """How many of them a conversation had before."""
    try:
        return many if 0 < many <= len(messages) and messages[many - 1] == last else 0
    except Exception:  # of the agent's own objects
        return 0


def _odd_answer(messages: list[dict[str, Any]], start: int) -> str:
    """What is wrong with an answer that was put into a conversation by hand, as a sentence; "": nothing."""
    for number in range(start, len(messages)):
        message = messages[number]
        if isinstance(message.get("content"), LLMResponse):
            return f"the content of message {number} is a reply; append reply.message."
        calls = message.get("tool_calls")
        if calls is None:
            continue
        if not isinstance(calls, (list, tuple)):
            return f"tool_calls of message {number} is {short(calls)}; append reply.message."
        for call in calls:
            table = type(call) is dict or isinstance(call, Mapping)
            if not table or ("name" in call and not {"function", "custom"} & call.keys()):
                return (
                    f"tool_calls of message {number} has {short(call)}, which no provider takes "
                    "(name and arguments stand in its 'function'); append reply.message."
                )
    return ""


def check_same(request: Request, read: Request | None) -> None:
    """Refuse a call of a model that the journal gives back as another one.

    Args:
        request: what the agent asks for.
        read: what the journal holds, or would hold, of it.

    Raises:
        InvalidInput: it names the place.
    """
    if not isinstance(request, LLMRequest):
        return
    try:
        if request == read:  # nearly always
            return
    except Exception:  # the agent's own objects again
        pass
    if odd := _place(request):
        raise InvalidInput(f"The request is not JSON: {odd}.")


def _place(request: LLMRequest) -> str:
    try:
        return _odd(msgspec.structs.asdict(request), "")
    except Exception as exc:  # nested too deep, or objects that do not want to be looked at
        return f"it cannot be looked at ({type(exc).__name__})"


def _odd(value: Any, at: str) -> str:
    """The first place in a value that JSON has no word for, and what stands there; "" for none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{at} is {value}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{at} is bytes; give text (base64, say, where the provider takes that)"
    if isinstance(value, (set, frozenset)):
        return f"{at} is a set, which has no order; give a list"
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                return f"a key of {at or 'it'} is {type(key).__name__}, not text"
            if odd := _odd(entry, f"{at}[{key[:40]!r}]" if at else key[:40]):
                return odd
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            if odd := _odd(entry, f"{at}[{place}]"):
                return odd
    return ""


def changed(number: int, step: Step | None, now: str, request: Request | None, place: str) -> ProgramChanged:
    """The error of a program that does not repeat itself.

    Args:
        number, step: which step, and as its journal has it, where it has one.
        now: what the program does instead: the kind of step that it asks for, or in words.
        request: … and what of it.
        place: the lines that do so.
    """
    journaled = "nothing"
    if step is not None:
        was, is_ = brief(step.request), ""
        if request is not None:
            was, is_ = briefs(step.request, request)
        journaled, now = f"{step.kind.value} {was}", f"{now} {is_}".rstrip()
    elif request is not None:
        now = f"{now} {brief(request)}"
    here = f" Here:\n{place}" if place else ""
    error = ProgramChanged(
        f"The agent does not repeat its own steps. Step {number} was journaled as {journaled}; on replay "
        f"it asked for {now}. Between its awaits an agent must do the same each time it runs: take time "
        f"and chance from now(), uuid() and random(), and put input/output into tool().{here}",
        step=number,
    )
    error.was, error.now, error.place = journaled, now, place
    return error


def brief(request: Request | None) -> str:
    """The request in a few words, for the job's owner (the error goes into the journal, not into logs)."""
    return _cut(_text(request))


def briefs(one: Request | None, other: Request | None) -> tuple[str, str]:
    """Both in a few words each, in which they differ where the requests do."""
    texts = _text(one), _text(other)
    if texts[0] == texts[1]:  # the models, say, or what was said before
        try:
            texts = (_SORTED.encode(one).decode(), _SORTED.encode(other).decode())
        except Exception:  # an object of the agent's
            pass
    same = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    if same < WORDS // 2 or texts[0] == texts[1]:
        return _cut(texts[0]), _cut(texts[1])
    start = same - WORDS // 4
    return _cut("…" + texts[0][start:]), _cut("…" + texts[1][start:])


WORDS = 80
"""Characters of a request in a few words."""


def _cut(text: str) -> str:
    return text if len(text) <= WORDS else text[: WORDS - 3] + "…"


def _text(request: Request | None) -> str:
    try:
        if isinstance(request, ToolRequest):
            return f"{request.name}({', '.join(map(repr, request.args))})"
        if request is not None and not isinstance(request, LLMRequest):
            return repr(request)
        if request is not None:
            asked = request.messages
            return repr(asked[-1].get("content", "")) if asked else "an empty conversation"
        return "an unknown request"
    except Exception:  # an object of the agent's
        return "a request that cannot be shown"
