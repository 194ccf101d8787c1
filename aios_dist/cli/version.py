"""``aios-dist version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from aios_dist import __version__
from aios_dist.cli.output import print_json

PACKAGES = ("celery", "kombu", "redis", "flower", "openai", "anthropic")


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def version(as_json: bool) -> None:
    """Show the versions of aios-dist and what it stands on."""
    found = {"python": platform.python_version()} | {package: installed(package) for package in PACKAGES}
    if as_json:
        print_json({"aios_dist": __version__, **found})
        return
    print(f"aios-dist {__version__}")
    for package, number in found.items():
        print(f"  {package:<10} {number or 'not installed'}")
