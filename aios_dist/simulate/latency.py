"""From tokens to seconds: a stated model, not a measurement of anybody's provider."""

from __future__ import annotations

import math

import msgspec

from aios_dist.errors import InvalidInput
from aios_dist.model.calls import INPUT_COST, OUTPUT_COST, OUTPUT_GUESS


class Latency(msgspec.Struct, frozen=True):
    """A call takes ``ttft + prompt / prefill + output / decode`` seconds, whatever else runs.

    The rates are near those of Llama2-70B on one DGX-H100 without batching (Patel et al., "Splitwise", ISCA
    2024: first token of a prompt of 1,500 tokens after 95 ms, 31 ms for each following); ``ttft`` is our
    guess of network and queue.

    Attributes:
        ttft: seconds until the provider begins.
        prefill, decode: tokens a second, of the prompt and of the answer.
        tool: seconds that an agent takes after a call that asked for a tool.

    Raises:
        InvalidInput: a rate of 0 or less, a time below 0.
    """

    ttft: float = 0.2
    prefill: float = 15_000.0
    decode: float = 33.0
    tool: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.ttft < math.inf and 0 <= self.tool < math.inf):
            raise InvalidInput("The time to begin and the time of a tool are seconds, 0 or more.")
        if not (self.prefill > 0 and self.decode > 0):
            raise InvalidInput("The rates of prompt and answer are tokens a second, more than 0.")

    def seconds(self, prompt: float, output: float) -> float:
        """Of a call with so many tokens."""
        return self.ttft + prompt / self.prefill + output / self.decode


def cost(prompt: float, output: float) -> float:
    """What a call is charged to its tenant."""
    return INPUT_COST * prompt + OUTPUT_COST * output


def estimate(prompt: float) -> float:
    """What its tenant is charged when it begins, until the answer has been counted."""
    return cost(prompt, OUTPUT_GUESS)
