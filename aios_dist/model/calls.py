"""What is asked of a provider and what it answers: plain frozen records, the same for every provider.

The field names are those of OpenAI's chat completions, which most providers speak
(https://platform.openai.com/docs/api-reference/chat); a provider with another protocol translates.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec

INPUT_COST, OUTPUT_COST = 1, 2
"""What a token counts in fair share (VTC; Sheng et al., OSDI 2024); ``_limits.lua`` has the same."""

MOST_TOKENS = 10**12
"""Of one step (and millionths of money); ``_lib.lua`` has the same. Who counts more counts nonsense."""

OUTPUT_GUESS = 500
"""Output tokens of a call that sets no ``max_tokens``, until the provider says what it was."""


class LLMRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call of a language model.

    Attributes:
        messages: the conversation, ``[{"role": …, "content": …}, …]``, passed on untouched.
        model: a name from ``[models.*]``; None is the fleet's default model.
        temperature: passed on where given.
        max_tokens: the most output tokens; passed on where given.
        tools: tool definitions in OpenAI's form.
        response_format: OpenAI's ``response_format``.
        extra: provider options, passed on untouched (``{"seed": 1, "top_p": 0.5}``), and ``timeout``.
    """

    messages: list[dict[str, Any]]
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    extra: dict[str, Any] = {}

    @property
    def timeout(self) -> float | None:
        """Seconds that one try of this call may take; None: as long as its model's."""
        said = self.extra.get("timeout")
        if isinstance(said, bool) or not isinstance(said, (int, float)) or not said > 0:
            return None
        return float(said)


class ToolRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a tool: its name, for people and for the replay check, and its arguments as JSON."""

    name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class SleepRequest(msgspec.Struct, frozen=True):
    """A wait for a time: ``seconds`` from when it is asked for."""

    seconds: float


class SignalRequest(msgspec.Struct, frozen=True):
    """A wait for somebody to send ``name`` to the job."""

    name: str


Request = LLMRequest | ToolRequest | SleepRequest | SignalRequest
"""What a step may ask for."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens, as the provider counted them; ``calls`` counts answered calls.

    ``cached_tokens`` are those of the prompt that the provider had in its cache, where it says so. They are
    of one call, and in no sum.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that the model wants called; ``arguments`` is the JSON text that the model wrote."""

    id: str
    name: str
    arguments: str


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seconds, on the worker's monotonic clock. ``first_token_s`` only where the reply was streamed."""

    call_s: float = 0.0
    first_token_s: float | None = None


class LLMResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider answered.

    Attributes:
        text: the answer's text; empty when the model only calls tools.
        tool_calls: what the model wants called.
        finish_reason: ``stop``, ``length``, ``tool_calls``, … in OpenAI's words.
        usage: tokens as the provider counted them.
        model: the model's name at the provider.
        provider: the name of the provider's adapter.
        timings: how long it took.
        left_out: options of the request that the provider has no word for: they were not sent.
        own: what the provider's message said beyond text and calls, by field (``reasoning_content``,
            ``annotations``, …): see ``message``, which is what to append.
    """

    text: str
    tool_calls: list[ToolCall] = []
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str = ""
    provider: str = ""
    timings: Timings = Timings()
    left_out: tuple[str, ...] = ()
    own: dict[str, Any] = {}

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of the conversation, whole, to be appended to it.

        Whatever the provider wants to see again (signatures, reasoning) is in it. A new one each time.
        """
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        # OpenAI refuses a null without calls, and an empty list of calls.
        said: dict[str, Any] = {"role": "assistant", "content": self.text or (None if calls else "")}
        if calls:
            said["tool_calls"] = calls
        said |= copy.deepcopy(self.own)
        audio = said.get("audio")
        if isinstance(audio, dict) and "id" in audio:
            said["audio"] = {"id": audio["id"]}  # the sound itself is not taken back
        return {name: value for name, value in said.items() if value is not None or name == "content"}

    @property
    def refusal(self) -> str | None:
        """Why the model did not answer, in its own words; None where it did."""
        said, parts = self.own.get("refusal"), self.own.get("content")
        if isinstance(said, str):
            return said
        told = (
            [part.get("refusal") for part in parts if isinstance(part, dict)]
            if isinstance(parts, list)
            else []
        )
        return "".join(text for text in told if isinstance(text, str)) or None
