"""The release before this one, from the repository's history: what runs beside this one on the same Redis."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from aios_dist.config import Config
from aios_dist.local.config_file import as_toml
from aios_dist.local.members import environment

ROOT = Path(__file__).parents[1]
BEFORE = "4c0a124"
"""A commit before codes had names, and before anything was parked."""


class NoHistory(Exception):
    """This checkout has none, or not that far back."""


def unpack(folder: Path, *more: str) -> Path:
    """A copy of that release, in a new folder, with files of this one beside it.

    Args:
        more: files of this checkout that it is to have as well, from the root on.

    Raises:
        NoHistory: it cannot be had here.
    """
    asked = ["git", "archive", BEFORE, "aios_dist", "workers"]
    packed = subprocess.run(asked, cwd=ROOT, capture_output=True, check=False)
    if packed.returncode != 0:
        raise NoHistory(f"this checkout has no history: {packed.stderr.decode(errors='replace').strip()}")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    for name in more:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((ROOT / name).read_bytes())
    return folder


def unpacked(folder: Path, *more: str) -> Path:
    """The same for a test, which is skipped where there is no history."""
    try:
        return unpack(folder, *more)
    except NoHistory as error:
        pytest.skip(str(error))


def settings(config: Config, path: Path) -> Path:
    """Write a configuration that it knows: without what this release alone has, as far as that is not set."""
    lines: list[str] = []
    for section in Config.__struct_fields__:
        held = getattr(config, section)
        for name, table in {"fleet": held}.items() if section == "fleet" else held.items():
            title = name if section == "fleet" else f"{section}.{as_toml(name)}"
            lines += [f"[{title}]", *_chosen(table), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _chosen(table: msgspec.Struct) -> list[str]:
    """The settings of a table that say something: they are not at their default, and not empty."""
    usual = {field.name: field.default for field in msgspec.structs.fields(table)}
    return [
        f"{name} = {as_toml(value)}"
        for name, value in msgspec.to_builtins(table).items()
        if value not in (None, {}, [], usual[name])
    ]


def settled(release: Path, config: Path) -> dict[str, str]:
    """The environment of its programs: started in a folder without a copy of this one, they are its own."""
    path = os.pathsep.join([str(release), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**environment(config), "PYTHONPATH": path}
