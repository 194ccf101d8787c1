"""How long an answer takes, and how many tokens it has: pure functions of one drawn number.

A model of latency takes ``u``, a number in (0, 1) that the server draws from its seed, and gives the seconds
from the request fully read to the first token and to the last. Written as text:

    0.1                   always 0.1 s
    uniform:0.05,0.2      between the two
    lognormal:0.1,0.5     median 0.1 s, sigma 0.5 (of the logarithm)
    tokens:0.2,0.01       first token after 0.2 s, each following one 0.01 s later
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

_NORMAL = NormalDist()


class Latency(Protocol):
    """``seconds(u, tokens)`` gives (first token or None for "spread evenly", last token), in seconds."""

    def seconds(self, u: float, tokens: int) -> tuple[float | None, float]: ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always ``value``."""

    value: float

    def draw(self, u: float) -> float:
        return self.value

    def seconds(self, u: float, tokens: int) -> tuple[float | None, float]:
        return None, self.value


@dataclass(frozen=True, slots=True)
class Uniform:
    """Between ``low`` and ``high``, all equally likely."""

    low: float
    high: float

    def draw(self, u: float) -> float:
        return self.low + (self.high - self.low) * u

    def seconds(self, u: float, tokens: int) -> tuple[float | None, float]:
        return None, self.draw(u)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half below ``median``, a long tail above; ``sigma`` is the spread of the logarithm."""

    median: float
    sigma: float

    def draw(self, u: float) -> float:
        return self.median * math.exp(self.sigma * _NORMAL.inv_cdf(u))

    def seconds(self, u: float, tokens: int) -> tuple[float | None, float]:
        return None, self.draw(u)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The first token after ``first`` seconds, each following one ``each`` seconds later."""

    first: float
    each: float

    def seconds(self, u: float, tokens: int) -> tuple[float | None, float]:
        return self.first, self.first + self.each * max(0, tokens - 1)


Distribution = Constant | Uniform | LogNormal


def parse_latency(spec: str | float | Latency) -> Latency:
    """A latency model from its text, a number of seconds, or itself; ValueError says what is wrong."""
    if hasattr(spec, "seconds"):
        return spec
    name, numbers = _split(spec, "latency")
    if name == "tokens":
        first, each = _exactly(numbers, 2, spec, "latency")
        return Tokens(first, each)
    return _distribution(name, numbers, spec, "latency")


def parse_distribution(spec: str | float | Distribution, what: str) -> Distribution:
    """A distribution of ``what`` from its text, a number, or itself; ValueError says what is wrong."""
    if isinstance(spec, Distribution):
        return spec
    name, numbers = _split(spec, what)
    return _distribution(name, numbers, spec, what)


def _distribution(name: str, numbers: list[float], spec: str | float, what: str) -> Distribution:
    if name == "constant":
        (value,) = _exactly(numbers, 1, spec, what)
        return Constant(value)
    if name == "uniform":
        low, high = _exactly(numbers, 2, spec, what)
        if low > high:
            raise ValueError(f"{what} {spec!r}: the lower end is above the upper end")
        return Uniform(low, high)
    if name == "lognormal":
        median, sigma = _exactly(numbers, 2, spec, what)
        if median == 0:
            raise ValueError(f"{what} {spec!r}: the median must be above 0")
        return LogNormal(median, sigma)
    known = "a number, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA" + (
        " or tokens:FIRST,EACH" if what == "latency" else ""
    )
    raise ValueError(f"{what} {spec!r} is not known: give {known}")


def _split(spec: str | float, what: str) -> tuple[str, list[float]]:
    name, colon, rest = str(spec).strip().partition(":")
    if not colon:
        name, rest = ("constant", name) if name[:1] in "0123456789.+-ni" else (name, "")
    try:
        numbers = [float(number) for number in rest.split(",")] if rest else []
    except ValueError:
        raise ValueError(f"{what} {spec!r}: {rest!r} is not a list of numbers") from None
    if any(number < 0 or not math.isfinite(number) for number in numbers):
        raise ValueError(f"{what} {spec!r}: numbers must be finite and not negative")
    return name, numbers


def _exactly(numbers: list[float], count: int, spec: str | float, what: str) -> list[float]:
    if len(numbers) != count:
        raise ValueError(f"{what} {spec!r} needs {count} number{'s' * (count > 1)}, {len(numbers)} given")
    return numbers
