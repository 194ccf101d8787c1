"""How the fake LLM behaves: settings that can be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aios_dist.testing.faults import Faults, parse_faults
from aios_dist.testing.latency import (
    Constant,
    Distribution,
    Latency,
    Uniform,
    parse_distribution,
    parse_latency,
)
from aios_dist.testing.script import Script

_AT_ONCE, _NO_FAULTS, _SHORT = Constant(0.0), Faults(), Uniform(8, 24)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Everything that ``FakeLLM.script`` and POST /script can change."""

    latency: Latency = _AT_ONCE
    faults: Faults = _NO_FAULTS
    reply: Script = field(default_factory=Script)
    output_tokens: Distribution = _SHORT
    seed: int = 0
    api_key: str | None = None
    models: tuple[str, ...] = ()
    chunk_tokens: int = 4

    @property
    def draws(self) -> bool:
        """Whether a call's latency or fault is drawn, so that repeats of a prompt must be told apart."""
        return bool(self.faults.rates) or not isinstance(self.latency, Constant)

    def changed(self, changes: Mapping[str, Any]) -> Behaviour:
        """A behaviour with these fields changed; ValueError, with one sentence, for what is not understood.

        ``latency``, ``output_tokens``, ``faults``: objects or their texts; ``retry_after``: seconds, for the
        faults given with it; ``reply``: what ``Script`` takes; ``models``, ``api_key``: None for any.
        """
        changes = dict(changes)
        retry_after = _number(changes.pop("retry_after", self.faults.retry_after), "retry_after")
        fields: dict[str, Any] = {}
        for name, value in changes.items():
            match name:
                case "latency":
                    fields[name] = parse_latency(value)
                case "faults":
                    fields[name] = parse_faults(value, retry_after)
                case "reply":
                    fields[name] = Script(value)
                case "output_tokens":
                    fields[name] = parse_distribution(value, "output tokens")
                case "seed":
                    fields[name] = _whole(value, name, None)
                case "chunk_tokens":
                    fields[name] = _whole(value, name, 1)
                case "models":
                    fields[name] = _names(value)
                case "api_key":
                    fields[name] = None if value is None else str(value)
                case _:
                    raise ValueError(f"{name!r} is not a setting: give one of {', '.join(SETTINGS)}")
        return replace(self, **fields)


SETTINGS = (*Behaviour.__dataclass_fields__, "retry_after")


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value or ()):
        raise ValueError(f"models {value!r} must be a list of names")
    return tuple(value or ())


def _whole(value: Any, name: str, low: int | None) -> int:
    if type(value) is not int or (low is not None and value < low):
        raise ValueError(f"{name} {value!r} must be a whole number{'' if low is None else f' from {low}'}")
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{name} {value!r} must be a number of seconds")
    return float(value)
