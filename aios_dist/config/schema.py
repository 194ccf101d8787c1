"""The JSON schema of ``aios.toml``: editors complete and check the file by it."""

from __future__ import annotations

from typing import Any

import msgspec

from aios_dist.config.bounds import NAME
from aios_dist.config.declared import settings_of
from aios_dist.config.tables import TABLES, Config


def schema() -> dict[str, Any]:
    """The schema, as plain data: JSON Schema, draft 2020-12.

    What must fit together (``renew`` and ``lease``), and what must be there (a ``fallback``), it cannot say.
    """
    made = msgspec.json.schema(Config)
    tables = {kind.__name__: made["$defs"][kind.__name__] for kind in TABLES.values()}
    for kind in TABLES.values():
        table = tables[kind.__name__]
        table["description"] = _first_line(kind)
        for name, setting in settings_of(kind).items():
            table["properties"][name] = {
                **_without_null(table["properties"][name]),
                "description": setting.help(),
            }
    for table_name, name in (("FleetConfig", "name"), ("ModelConfig", "lane"), ("PoolConfig", "lanes")):
        property_ = tables[table_name]["properties"][name]
        property_.get("items", property_)["pattern"] = _NAME
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aios.toml",
        "type": "object",
        "properties": {section: _section(section, kind) for section, kind in TABLES.items()},
        "additionalProperties": False,
        "$defs": tables,
    }


_NAME = f"^{NAME.pattern}$"


def _section(section: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    table = {"$ref": f"#/$defs/{kind.__name__}"}
    if section == "fleet":
        return table
    return {
        "description": _first_line(kind),
        "type": "object",
        "propertyNames": {"pattern": _NAME},
        "additionalProperties": table,
    }


def _first_line(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").split("\n", 1)[0].replace("``", "`")


def _without_null(declared: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: what may be left out is left out."""
    kept = dict(declared)
    if "anyOf" in kept:
        (type_,) = (each for each in kept.pop("anyOf") if each != {"type": "null"})
        kept.update(type_)
    if "default" in kept and kept["default"] is None:
        del kept["default"]
    return kept
