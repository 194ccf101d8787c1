"""Prompts with places to fill in: ``{input}``, ``{input[key]}``, ``{previous}``, ``{steps[0]}``.

A short template can ask for gigabytes (``{previous}`` 60,000 times): a prompt is measured before it is built.
"""

from __future__ import annotations

import string
from typing import Any

from aios_dist.errors import InvalidInput
from aios_dist.program.commands import Refused

PROMPT_BOUND = 64 * 1024 * 1024
"""Bytes of a filled-in prompt where nobody knows the fleet's ``prompt_limit``."""

_formatter = string.Formatter()


class _Anything:
    """Stands for an input that is not known yet, while an agent's placeholders are checked."""

    def __getitem__(self, key: object) -> _Anything:
        return self

    def __format__(self, spec: str) -> str:
        return ""


ANYTHING: Any = _Anything()


def fill(agent_name: str, number: int, prompt: str, value: Any, answers: list[str], limit: int) -> str:
    """The prompt with its places filled in; its size is known, and bounded, before it is put together.

    Args:
        agent_name, number: the agent, and which of its prompts; for the error.
        prompt: the template.
        value: the job's input; None where there is none.
        answers: those before it.
        limit: bytes.

    Raises:
        Refused: it would be over the limit.
        InvalidInput: a place that cannot be filled.
    """
    parts = pieces(agent_name, number, prompt, value, answers)
    if sum(map(len, parts)) * 4 > limit:  # no character has more than four bytes
        sizes = {piece: len(piece.encode("utf-8", "surrogatepass")) for piece in set(parts)}
        if (size := sum(map(sizes.__getitem__, parts))) > limit:
            raise Refused(over_limit(f"Prompt {number} of agent {agent_name!r}, filled in,", size, limit))
    return "".join(parts)


def over_limit(what: str, size: int, limit: int) -> str:
    """The sentence for a request of too many bytes."""
    return (
        f"{what} has {size:,} bytes, more than prompt_limit ({limit:,}); "
        "shorten it, or raise prompt_limit in [fleet]."
    )


def pieces(agent_name: str, number: int, prompt: str, value: Any, answers: list[str]) -> list[str]:
    """The text between the places, and what stands in them: each place's text once, however often it comes.

    Raises:
        InvalidInput: a place that cannot be filled.
    """
    fields: dict[str, Any] = {"steps": answers}
    if value is not None:
        fields["input"] = value
    if answers:
        fields["previous"] = answers[-1]
    parts: list[str] = []
    filled: dict[str, str] = {}
    try:
        for text, field, spec, conversion in _formatter.parse(prompt):
            parts.append(text)
            if field is None:
                continue
            if "." in field or not field or spec or conversion:
                rest = f"!{conversion}" * bool(conversion) + f":{spec}" * bool(spec)
                raise ValueError(f"{{{field}{rest}}} is more than that")
            if field not in filled:
                filled[field] = format(_formatter.get_field(field, (), fields)[0], "")
            parts.append(filled[field])
        return parts
    except (LookupError, ValueError, TypeError) as exc:
        why = f"there is no {exc}" if isinstance(exc, KeyError) else str(exc)
        raise InvalidInput(
            f"Prompt {number} of agent {agent_name!r} cannot be filled in: {why}. "
            "It may use {input}, {input[key]}, {previous} and {steps[N]} of an earlier prompt."
        ) from None
