"""``aios-dist``: the command line. A file a noun; each is imported when one of its commands is asked for.
Internal: programs use :mod:`aios_dist`.

This file is the first, and looks after Ctrl-C while the others are imported: it imports next to nothing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what ``signal`` is made of; that itself takes 10 ms for enums
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class ctrl_c_at_once:  # read as a verb: ``with ctrl_c_at_once():``
    """While modules are imported Ctrl-C ends the process, with 130.

    A KeyboardInterrupt may come within a callback of Python's import system, where it is printed and lost.
    Where somebody else looks after SIGINT, and in other threads than the main one, nothing is changed.
    """

    def __enter__(self) -> None:
        self._before: Any = None
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            try:
                self._before = _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
            except ValueError:
                return  # another thread than the main one

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _signal.signal(_signal.SIGINT, self._before)


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and exit; Ctrl-C is 130 from the first import on."""
    try:
        with ctrl_c_at_once():
            from aios_dist.cli import entry
        entry.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


__all__ = ["ctrl_c_at_once", "main"]
