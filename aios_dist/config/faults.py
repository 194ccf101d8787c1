"""What is wrong with a value or a table, held against what is declared, as the rest of a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import inspect

from aios_dist.config.declared import Kind, Setting, settings_of, without_none
from aios_dist.config.words import as_written, kind_of, nearest


def fault(setting: Setting, value: Any, shown: Callable[[Any], str] | None = None, at: str = "") -> str:
    """What is wrong with that value of a setting.

    Args:
        setting: as it is declared.
        value: any object.
        shown: how a value of the wrong type is told: :func:`kind_of` by default, as it may be a secret.
        at: what it is called there, as "--lease"; its name by default.

    Returns:
        "lease must be a number of seconds above 0, not 0."; "" where nothing is wrong.
    """
    return _at(setting, at or setting.name, setting.type, value, shown or kind_of)


def fault_of(kind: Kind, table: Any, shown: Callable[[Any], str] | None = None) -> str:
    """What is wrong with a table of settings, as the rest of a sentence that begins with its place.

    Args:
        kind: the record that it is to be.
        table: plain data, or such a record.
        shown: see :func:`fault`.

    Returns:
        The first fault, as "lease must be a number of seconds above 0, not 0."; "" where there is none.
    """
    settings = settings_of(kind)
    if isinstance(table, kind):
        table = {name: getattr(table, name) for name in settings}
    if not isinstance(table, Mapping):
        return f"must be a table with {', '.join(settings)}; not {kind_of(table)}."
    for name in table:
        if name not in settings:
            return f"has an unknown field {as_written(name)}; {nearest(str(name), settings)}"
    for name, setting in settings.items():
        if name not in table:
            if setting.required:
                return f"needs {name}."
        elif not (setting.optional and table[name] is None) and (found := fault(setting, table[name], shown)):
            return found
    return ""


def _at(setting: Setting, at: str, type_: inspect.Type, value: Any, shown: Callable[[Any], str]) -> str:
    """``at``: the value's place, as ``modules[1]``."""
    if isinstance(type_, inspect.AnyType):
        return ""
    if isinstance(type_, inspect.StructType):
        inner = fault_of(type_.cls, value, shown)
        return f"{at} {inner}" if inner else ""
    if not _is_of(type_, value):
        if isinstance(type_, inspect.IntType) and isinstance(value, float):
            shown = as_written  # no secret is one
        return f"{at} must be {_wanted(setting, type_, value)}, not {shown(value)}."
    if isinstance(type_, inspect.ListType):
        item, *_ = without_none(type_.item_type)
        if len(value) < (type_.min_length or 0):
            return f"{at} must be {_wanted(setting, type_, value)}, not an empty one."
        faults = (_at(setting, f"{at}[{n}]", item, inner, shown) for n, inner in enumerate(value))
        return next(filter(None, faults), "")
    if isinstance(type_, inspect.DictType):
        item, *_ = without_none(type_.value_type)
        faults = (_at(setting, f"{at}.{key}", item, inner, shown) for key, inner in value.items())
        return next(filter(None, faults), "")
    if isinstance(type_, inspect.StrType):
        if not setting.choices or value in setting.choices:
            return ""
        if near := difflib.get_close_matches(value, setting.choices, n=1):
            return f"{at}: there is no {setting.name} {as_written(value)}; did you mean {near[0]!r}?"
    elif _is_in_range(setting, type_, value):
        return ""
    return f"{at} must be {_wanted(setting, type_, value)}, not {as_written(value)}."


def _is_of(type_: inspect.Type, value: Any) -> bool:
    if isinstance(type_, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(type_, inspect.IntType):
        return type(value) is int
    if isinstance(type_, inspect.FloatType):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(type_, inspect.StrType):
        return isinstance(value, str)
    if isinstance(type_, inspect.ListType):
        return isinstance(value, (list, tuple))
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_in_range(setting: Setting, type_: inspect.Type, value: Any) -> bool:
    """NaN is in no range."""
    if not isinstance(type_, (inspect.IntType, inspect.FloatType)):
        return True
    if setting.without is not None and value != 0 and value <= setting.without:
        return False
    return (
        (type_.gt is None or value > type_.gt)
        and (type_.ge is None or value >= type_.ge)
        and (type_.lt is None or value < type_.lt)
        and (type_.le is None or value <= type_.le)
    )


def _wanted(setting: Setting, type_: inspect.Type, value: Any) -> str:
    """What can stand there, in words."""
    if isinstance(type_, inspect.StrType):
        choices = [repr(c) if c or not setting.zero else f"'' ({setting.zero})" for c in setting.choices]
        return _listed(choices) or "text in quotes"
    if isinstance(type_, (inspect.IntType, inspect.FloatType)):
        return _range(setting, type_, value)
    if isinstance(type_, inspect.ListType):
        return "a list with at least one entry" if type_.min_length else "a list"
    return "true or false" if isinstance(type_, inspect.BoolType) else "a table"


def _range(setting: Setting, type_: inspect.IntType | inspect.FloatType, value: Any) -> str:
    words = "a whole number" if isinstance(type_, inspect.IntType) else "a number"
    if setting.unit in ("seconds", "bytes"):
        words += f" of {setting.unit}"
    zero = f" ({setting.zero})" if setting.zero else ""
    if type_.gt is not None:
        words += f" above {_digits(type_.gt)}"
    if setting.without is not None:
        words = f"0{zero} or {words} from {setting.without + 1}"
    elif type_.ge is not None:
        words += f" from {_digits(type_.ge)}" + (zero if type_.ge == 0 else "")
    if type_.le is not None:
        words += f"{' to' if type_.gt is None else ' and at most'} {_digits(type_.le)}"
    # Where durations end is news to whom has one that is longer, and noise to all others.
    if type_.lt is not None and isinstance(value, (int, float)) and value >= type_.lt:
        words += f" and below {_digits(type_.lt)}"
    return words


def _digits(number: float) -> str:
    return f"{number:g}" if number < 10_000 else f"{int(number):,}"


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
