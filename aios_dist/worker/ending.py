"""How a worker's process ends: in time, whatever hangs in it; or by beginning anew."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

logger = logging.getLogger("aios_dist.ending")

BEYOND_S = 10.0
"""After the grace, for what cannot be waited for: the last writes, farewells, closing connections."""

OWN_END_S = 5.0
"""For the interpreter's own end: users' exit handlers, and joining the threads of their executors."""

OVERDUE = 70
"""The exit code of a worker that something kept from ending."""

CUT = 1
"""The exit code of a worker that was told to end at once, and then again: that of Celery's hard shutdown."""


class Ending:
    """The end of one process. It stands outside of every loop: those may be what hangs.

    Args:
        grace: seconds in which calls in flight may end.
        last: called before a process that hangs is ended: saves what can be saved.

    Attributes:
        again: why the process is to begin anew, or "".
    """

    def __init__(self, grace: float, last: Callable[[], None]) -> None:
        self.again = ""
        self._most = grace + BEYOND_S
        self._last = last
        self._lock = threading.RLock()  # a signal may come while one is looked at
        self._over = threading.Event()
        self._begun = False
        self._code = OVERDUE

    def begin(self) -> bool:
        """The worker was told to end: from now on there is a limit. Gives whether this was the first time."""
        with self._lock:
            first, self._begun = not self._begun, True
        if first:
            threading.Thread(target=self._watch, name="aios-ending", daemon=True).start()
        return first

    def cut(self) -> NoReturn:
        """Told to end at once, and then again: the process saves what it can and ends now."""
        with contextlib.suppress(Exception):
            self._last()
        self._leave(CUT)

    def _watch(self) -> None:
        begun = time.monotonic()
        if self._over.wait(self._most):
            left = self._most - (time.monotonic() - begun)
            time.sleep(max(0.1, min(OWN_END_S, left)))  # a daemon goes on for as long as users' handlers do
        else:
            logger.error("This worker has not ended within %g s; it ends now, whatever hangs.", self._most)
            with contextlib.suppress(Exception):
                self._last()
        self._leave(self._code)

    def end(self, code: int, hanging: int) -> None:
        """The last thing: returns where the process may end in the usual way, for which it has ``OWN_END_S``.

        Args:
            code: the exit code.
            hanging: threads that still run users' code; the interpreter's own end is not safe beside them.
        """
        if self.again or hanging:
            self._over.set()
            self._leave(code)
        self._code = code
        self.begin()
        self._over.set()

    def _leave(self, code: int) -> NoReturn:
        if self.again:
            logger.warning("This worker begins anew: %s.", self.again)
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if self.again:
            with contextlib.suppress(OSError):
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        os._exit(code)
