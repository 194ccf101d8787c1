"""Fault points: places at which a test lets a worker die, as if ``kill -9`` had hit it there.

``AIOS_FAULT_POINT=committed`` ends the process at the first passage of ``point("committed")``,
``committed:3`` at the third. Read once, when the process starts; without it a passage costs one comparison.
"""

from __future__ import annotations

import os

VARIABLE = "AIOS_FAULT_POINT"
EXIT_CODE = 137
"""As the shell reports a SIGKILL."""

_name, _, _nth = os.environ.get(VARIABLE, "").partition(":")
_left = int(_nth or 1)


def point(name: str) -> None:
    """Die here, if the environment says so: no clean-up, no farewell, nothing flushed."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os._exit(EXIT_CODE)
