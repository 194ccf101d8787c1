"""A configuration as an ``aios.toml`` that workers, Flower and the command line can be pointed at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from aios_dist.config import Config, FleetConfig


def write_config(config: Config, path: Path) -> None:
    """Write the file; readable by its owner only, as the Redis URL may hold a password."""
    path.touch(mode=0o600)
    path.write_text(to_toml(config), encoding="utf-8")


def to_toml(config: Config) -> str:
    """The text that :func:`aios_dist.config.load` reads as this configuration."""
    lines: list[str] = []
    data = msgspec.to_builtins(config)
    for section in Config.__struct_fields__:
        tables = {section: data[section]} if section == "fleet" else _named(section, data[section])
        if config.fleet.redis_timeout == FleetConfig().redis_timeout:
            tables.get("fleet", {}).pop("redis_timeout", None)  # not chosen: it may be shorter, as leases are
        for name, table in tables.items():
            lines += [
                f"[{name}]",
                *(f"{_text(key)} = {as_toml(v)}" for key, v in table.items() if v is not None),
                "",
            ]
    return "\n".join(lines)


def _named(section: str, tables: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{_text(name)}": table for name, table in tables.items()}


def as_toml(value: Any) -> str:
    """A value as TOML writes it, without what is None in its tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)} = {as_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return _text(value)


def _text(value: Any) -> str:
    """JSON's texts and numbers are TOML's, but for one control character that JSON leaves alone."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
