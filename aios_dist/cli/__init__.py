"""``aios-dist``: the command line. Each command is a module of its own, imported when it is asked for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and exit; Ctrl-C is 130 from the first import on."""
    try:
        from aios_dist.cli.at_once import ctrl_c_at_once

        with ctrl_c_at_once():
            from aios_dist.cli import entry
        entry.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


__all__ = ["main"]
