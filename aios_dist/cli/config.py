"""``aios-dist config show | schema``."""

from __future__ import annotations

import os
import re
from itertools import groupby
from typing import Any

import click

from aios_dist.cli.entry import Commands
from aios_dist.cli.options import as_json_option
from aios_dist.cli.output import print_json, print_table
from aios_dist.config.origins import Origin, origins
from aios_dist.config.schema import schema as schema_of_file
from aios_dist.local.config_file import as_toml
from aios_dist.text.mask import STARS
from aios_dist.text.masking import hide_in

SECRET = re.compile(r"key|auth|pass|secret|token|cookie", re.IGNORECASE)
"""A provider's option of such a name is not shown: somebody may have written a key there all the same."""

config = Commands("config")


@config.command()
@as_json_option
@click.pass_context
def show(context: click.Context, as_json: bool) -> None:
    """Each value, and where it comes from.

    Secrets are masked. What a hand has set in the running fleet is not here: see `aios-dist lane list`,
    `model list` and `tenant list`.
    """
    file, found = origins()
    shown = [(each, _hidden(each.value), *_source(each, context)) for each in found]
    if as_json:
        print_json(
            {
                "file": None if file is None else os.path.abspath(file),
                "settings": [
                    {
                        "table": each.table,
                        "name": each.name,
                        "value": value,
                        "source": source,
                        "where": where or None,
                    }
                    for each, value, source, where in shown
                ],
            }
        )
        return
    rows: list[tuple[str, str, str]] = []
    for table, settings in groupby(shown, key=lambda row: row[0].table):
        rows.append((f"[{table}]", "", ""))
        rows += [
            (f"  {each.name}", "none" if value is None else as_toml(value), where or source)
            for each, value, source, where in settings
        ]
    print_table(("SETTING", "VALUE", "FROM"), rows, empty="")


@config.command()
def schema() -> None:
    """The JSON schema of aios.toml, by which editors complete and check it.

    Write it beside the file, which then names it in its first line: `#:schema ./aios.schema.json`.
    """
    print_json(schema_of_file())


def _source(origin: Origin, context: click.Context) -> tuple[str, str]:
    """``option`` for what --redis-url says: it goes on as a variable, for whatever the command starts."""
    if origin.where == "AIOS_REDIS_URL" and context.find_root().params.get("redis_url") is not None:
        return "option", "--redis-url"
    return origin.source, origin.where


def _hidden(value: Any) -> Any:
    """The value without passwords in URLs, without keys that this process has, and without texts so named."""
    if isinstance(value, dict):
        return {
            name: STARS if isinstance(inner, str) and SECRET.search(name) else _hidden(inner)
            for name, inner in value.items()
        }
    return [_hidden(inner) for inner in value] if isinstance(value, list) else hide_in(value)
