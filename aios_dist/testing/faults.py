"""What may go wrong on purpose. Written as text, comma separated:

429:0.1      one call in ten is refused so, drawn from the seed
500@3        call number 3 (the first is 0) fails so
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Answered with this status and the protocol's own error JSON: below 500 at once, as providers do, else after
# the latency. Gateways say so with 200 what failed behind them.
STATUSES = MappingProxyType(
    {
        "200": "The upstream server ended the generation with an error.",
        "400": "The request was not understood.",
        "401": "Incorrect API key provided.",
        "403": "You are not allowed to use this model.",
        "404": "The model does not exist.",
        "408": "The request took too long to arrive.",
        "409": "The request conflicts with another one.",
        "413": "The request is too large.",
        "422": "The request could not be processed.",
        "429": "Rate limit reached, please try again later.",
        "500": "The server had an error while processing your request.",
        "502": "Bad gateway.",
        "503": "The engine is currently overloaded, please try again later.",
        "504": "The upstream server did not answer in time.",
        "529": "Overloaded.",
    }
)
KINDS = (*STATUSES, "hang", "cut", "garbage", "odd")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    ``kind``: a status ("429"; "200" has an error inside), "hang" (no answer until the client leaves), "cut"
    (the connection ends in the middle of the answer), "garbage" (status 200, not JSON) or "odd" (the whole
    answer, decorated as no standard has it). ``retry_after``: seconds, with 429, 503, 529.
    """

    kind: str
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is not known: give one of {', '.join(KINDS)}")
        if not (math.isfinite(self.retry_after) and self.retry_after >= 0):
            raise ValueError(f"retry_after {self.retry_after!r} must be finite seconds, not negative")


@dataclass(frozen=True, slots=True)
class Faults:
    """Which calls go wrong: ``rates`` by kind (0 to 1, together at most 1), ``at`` by call number from 0."""

    rates: Mapping[str, float] = field(default_factory=dict)
    at: Mapping[int, Fault] = field(default_factory=dict)
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        for kind, rate in self.rates.items():
            Fault(kind, self.retry_after)
            if not 0 <= rate <= 1:
                raise ValueError(f"fault {kind}: the rate {rate:g} must be from 0 to 1")
        if sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError(f"the rates of all faults add up to {sum(self.rates.values()):g}, more than 1")

    def pick(self, number: int, u: float) -> Fault | None:
        """The fault of call ``number``, or None; ``u`` in (0, 1) decides where rates do."""
        if number in self.at:
            return self.at[number]
        for kind, rate in self.rates.items():
            u -= rate
            if u < 0:
                return Fault(kind, self.retry_after)
        return None


def parse_faults(spec: str | Faults, retry_after: float = 1.0) -> Faults:
    """Faults from their text, or themselves; ValueError says what is wrong. ``retry_after`` in seconds."""
    if isinstance(spec, Faults):
        return spec
    if not isinstance(spec, str):
        raise ValueError(f"faults {spec!r} must be a text such as '429:0.1,500@3', or Faults")
    rates: dict[str, float] = {}
    at: dict[int, Fault] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        kind, colon, rate = part.partition(":")
        if colon:
            try:
                rates[kind] = rates.get(kind, 0.0) + float(rate)
            except ValueError:
                raise ValueError(f"fault {part!r}: the rate {rate!r} is not a number") from None
            continue
        kind, at_sign, number = part.partition("@")
        if not at_sign:
            raise ValueError(f"fault {part!r} does not say when: give KIND:RATE or KIND@CALL_NUMBER")
        if not number.isdecimal():
            raise ValueError(f"fault {part!r}: the call number {number!r} is not a number from 0")
        at[int(number)] = Fault(kind, retry_after)
    return Faults(rates, at, retry_after)
