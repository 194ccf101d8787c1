"""What a setting is, and where that stands: beside its name, once.

A setting is a field of a record (see :mod:`aios_dist.config.tables`). Its type says what can stand there
(``Annotated[int, Meta(ge=0)]``), :func:`says` what it means. The file, the command line, the pages, the
schema and what a hand sets all read that: nobody else says a range, a default or a help text.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
from msgspec import inspect

Kind = type[msgspec.Struct]


def says(
    text: str,
    *,
    unit: str = "",
    zero: str = "",
    then: str = "",
    choices: tuple[str, ...] = (),
    without: int | None = None,
    variable: str = "",
) -> msgspec.Meta:
    """What a setting means, for ``Annotated``; its range is in the ``Meta`` beside it.

    Args:
        text: its meaning, in the form of the tables of ``docs/``: Markdown, links relative to that folder.
        unit: what is counted; the pages have a column of it.
        zero: what 0 (or no text) means, as "no limit".
        then: sentences that follow.
        choices: the texts that there are; any, where there are none.
        without: a number within the range that cannot be; all below it, but 0, cannot either.
        variable: of the environment, goes before the file.
    """
    schema: dict[str, Any] = {"enum": list(choices)} if choices else {}
    if without is not None:
        schema["not"] = {"const": without}
    if zero and not choices:
        text += f"; 0: {zero}" + (f", else {without + 1} or more" if without is not None else "")
    extra = {"unit": unit, "zero": zero, "choices": choices, "without": without, "variable": variable}
    return msgspec.Meta(
        description=". ".join(filter(None, (text, then))), extra=extra, extra_json_schema=schema or None
    )


class Setting(msgspec.Struct, frozen=True):
    """One setting, as it is declared.

    Attributes:
        name: of the field, as it stands in the file.
        type: what can stand there, without "or nothing".
        text: what it means, in Markdown.
        default: what holds where it is left out; of one that is required, nothing does.
        optional: None can stand there.
    """

    name: str
    type: inspect.Type
    text: str = ""
    unit: str = ""
    zero: str = ""
    choices: tuple[str, ...] = ()
    without: int | None = None
    variable: str = ""
    default: Any = None
    required: bool = False
    optional: bool = False

    def help(self) -> str:
        """What it means, as a sentence of plain text that says its unit."""
        text = without_links(self.text)
        if self.unit and self.unit not in text:
            text += f" ({self.unit})"
        if len(self.choices) > 2:
            text += f": {', '.join(self.choices)}"
        return f"{text[:1].upper()}{text[1:]}."


@functools.cache
def settings_of(kind: Kind) -> dict[str, Setting]:
    """The settings of a record by name, in its order."""
    declared = inspect.type_info(kind)
    assert isinstance(declared, inspect.StructType)
    return {field.encode_name: _setting(field) for field in declared.fields}


def _setting(field: inspect.Field) -> Setting:
    default = None if field.default is msgspec.NODEFAULT else field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    type_, said, optional = without_none(field.type)
    if isinstance(type_, inspect.LiteralType):
        said["choices"], type_ = tuple(map(str, type_.values)), inspect.StrType()
    return Setting(
        field.encode_name, type_, **said, default=default, required=field.required, optional=optional
    )


def without_none(type_: inspect.Type) -> tuple[inspect.Type, dict[str, Any], bool]:
    """The type itself, what is said of it, and whether None can stand in its place."""
    said: dict[str, Any] = {}
    optional = False
    while isinstance(type_, (inspect.Metadata, inspect.UnionType)):
        if isinstance(type_, inspect.UnionType):
            optional = optional or any(isinstance(t, inspect.NoneType) for t in type_.types)
            (type_,) = (t for t in type_.types if not isinstance(t, inspect.NoneType))
        else:
            said = {
                "text": (type_.extra_json_schema or {}).get("description", ""),
                **(type_.extra or {}),
                **said,
            }
            type_ = type_.type
    return type_, said, optional


def without_links(markdown: str) -> str:
    """The text without its links, which lead nowhere from a terminal or an editor."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
