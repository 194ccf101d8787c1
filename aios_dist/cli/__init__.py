"""``aios-dist``: the command line. Each command is a module of its own, imported when it is asked for."""

from aios_dist.cli.entry import main

__all__ = ["main"]
