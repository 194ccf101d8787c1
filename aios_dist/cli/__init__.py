"""``aios-dist``: the command line. Each command is a module of its own, imported when it is asked for."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and exit; Ctrl-C is 130 from the first import on."""
    try:
        from aios_dist.cli.signals import ctrl_c_at_once

        with ctrl_c_at_once():
            from aios_dist.cli import entry
    except KeyboardInterrupt:
        sys.exit(130)
    entry.main()


__all__ = ["main"]
