"""Where each value of a configuration comes from: a default, a line of the file, a variable."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from aios_dist.config.declared import settings_of
from aios_dist.config.files import read_text
from aios_dist.config.reading import of_environment, parse, read_config
from aios_dist.config.tables import DEFAULT_POOLS, TABLES, Config

LONGEST = 200
"""Lines of one value, which is read again with each of them; behind a longer one no line is named."""


class Origin(msgspec.Struct, frozen=True):
    """One value, and where it comes from.

    Attributes:
        table: as ``fleet`` or ``models.small``.
        value: as plain data.
        source: what says so.
        where: the file and line (``aios.toml:9``) or the variable; empty for a default.
    """

    table: str
    name: str
    value: Any
    source: Literal["default", "file", "environment"]
    where: str = ""


def origins(
    path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ
) -> tuple[Path | None, list[Origin]]:
    """The file that is read, if one is, and every value of the configuration.

    Args:
        path, env: as :func:`aios_dist.config.load` takes them.

    Raises:
        ConfigError: as :func:`aios_dist.config.load`.
    """
    file, data = read_config(path, env)
    config = parse(data, source=repr(str(file or "aios.toml")), env=env)
    lines = {} if file is None else lines_of(read_text(file))
    variables = of_environment(env)
    found = []
    for table, record in _tables(config):
        at = tuple(table.split(".", 1))
        given = data.get(at[0], {}) if len(at) == 1 else data.get(at[0], {}).get(at[1], {})
        for name in settings_of(type(record)):
            source: Literal["default", "file", "environment"] = "default"
            where = ""
            if table == "fleet" and name in variables:
                source, where = "environment", variables[name]
            elif name in given:
                source, where = "file", f"{file}:{lines[*at, name]}" if (*at, name) in lines else str(file)
            found.append(Origin(table, name, msgspec.to_builtins(getattr(record, name)), source, where))
    return file, found


def _tables(config: Config) -> Iterator[tuple[str, msgspec.Struct]]:
    yield "fleet", config.fleet
    for section in list(TABLES)[1:]:
        named = getattr(config, section)
        for name, record in ({**DEFAULT_POOLS, **named} if section == "pools" else named).items():
            yield f"{section}.{name}", record


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """The line at which each value of a TOML text begins, by its path, as ``("models", "small", "lane")``."""
    found: dict[tuple[str, ...], int] = {}
    header, pending, first = "", "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            first = number
        pending += f"{line}\n"
        try:
            tomllib.loads(pending)
        except tomllib.TOMLDecodeError:  # it goes on in the next line
            if number - first > LONGEST:
                return found
            continue
        if pending.lstrip().startswith("["):
            header = pending
        else:
            data = tomllib.loads(header + pending)
            found |= {path: first for path in _paths(data) if path not in found}
        pending = ""
    return found


def _paths(data: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        path = (*above, key)
        yield path
        if isinstance(value, Mapping):
            yield from _paths(value, path)
