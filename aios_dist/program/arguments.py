"""The defaults of a function's parameters."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import msgspec

from aios_dist.program.holdings import own
from aios_dist.program.values import changeable, is_plain


class Defaults:
    """The defaults of a function's parameters: what of them is journaled, and what is copied for each start.

    Args:
        signature: of the function.
    """

    __slots__ = ("_changeable", "_given", "_signature")

    def __init__(self, signature: inspect.Signature) -> None:
        self._signature = signature
        given = {p.name: p for p in signature.parameters.values() if p.default is not p.empty}
        self._given = list(given)
        self._changeable = [name for name, p in given.items() if changeable(p.default)]

    def journaled(self, given: dict[str, Any]) -> dict[str, Any]:
        """The defaults of what was not given, as far as JSON gives them back as they are."""
        found = {n: self._signature.parameters[n].default for n in self._given if n not in given}
        return {name: copy.deepcopy(value) for name, value in found.items() if _comes_back(value)}

    def fresh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """``kwargs`` with a copy of each default that a start could change, and the next one would see."""
        if not self._changeable:
            return kwargs
        try:
            given = self._signature.bind_partial(*args, **kwargs).arguments
        except TypeError:  # said by the call itself
            return kwargs
        missing = [name for name in self._changeable if name not in given]
        return {**{n: own(self._signature.parameters[n].default, {})[0] for n in missing}, **kwargs}


def _comes_back(value: Any) -> bool:
    try:
        return is_plain(value) and bool(msgspec.json.decode(msgspec.json.encode(value)) == value)
    except Exception:  # half a character, say
        return False
