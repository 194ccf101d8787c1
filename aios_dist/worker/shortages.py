"""What this worker's own machine does not give: files, network, room. It says nothing of any model.

A call that fails for it is no try; the worker takes fewer steps at a time, and more again by and by.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable

from aios_dist.broker.addresses import AWAY
from aios_dist.config import FILES_BESIDE_CALLS

logger = logging.getLogger("aios_dist.shortages")

OF_MACHINE = {
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "no space left of the quota",
    errno.ENOMEM: "no memory",
    errno.ENOBUFS: "no memory for sockets",
    errno.EADDRNOTAVAIL: "no local port is free",
}
NO_DNS = -1
OF_NETWORK = {
    NO_DNS: "DNS does not answer",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ENETDOWN: "the network is down",
}

REST_S = 5.0
"""Without trouble for so long, a worker takes a tenth more."""

INSTANT_S = 1.0
"""What fails within a second is one trouble."""

NETWORK_S = 5.0
"""Where another call was answered within so long, the network is there: it is that address, or that name."""


def shortage(error: BaseException | None) -> int:
    """The error number of the shortage that an error stands for, 0 for none: also where it is below."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, socket.gaierror):  # its numbers are others, and on some systems the same
            return NO_DNS if error.errno in AWAY else 0
        if isinstance(error, OSError) and (error.errno in OF_MACHINE or error.errno in OF_NETWORK):
            return error.errno or 0
        error = error.__cause__ or error.__context__
    return 0


class Slots:
    """How many steps this worker holds at a time.

    Args:
        most: as it was told.
        set_limit: told each new number.

    Attributes:
        now: the number.
        why: what keeps it below ``most``, or "".
    """

    def __init__(self, most: int, set_limit: Callable[[int], None]) -> None:
        self.most = self.now = most
        self.why = ""
        self._set_limit = set_limit
        self._halved = self._changed = float("-inf")
        self._answered = float("-inf")

    def of_files(self, limit: int) -> None:
        """At the start: no more than the limit of open files (0: none) gives connections for."""
        if limit <= 0 or limit >= self.most + FILES_BESIDE_CALLS:
            return
        self._say(max(1, limit - FILES_BESIDE_CALLS, limit // 2 if limit < 2 * FILES_BESIDE_CALLS else 1))
        self.why = f"{limit:,} open files"
        self.most = self.now
        logger.warning(
            "%s are too few for all slots: this worker has %d. Raise them: `aios-dist doctor`.",
            self.why,
            self.now,
        )

    def resize(self, most: int, files: int) -> None:
        """Another number from now on, within the limit of open files; a shortage of now stays one."""
        short = self.now < self.most
        self.most = most
        if not short:
            self.why = ""
        self._say(min(self.now, most) if short else most)
        self.of_files(files)

    def answered(self) -> None:
        """A call was."""
        self._answered = time.monotonic()

    def short(self, number: int, busy: int) -> bool:
        """A call could not be made.

        Args:
            number: the error number.
            busy: steps in flight now.

        Returns:
            Whether it is this machine's fault: so it seems of a network only if nothing comes through it.
        """
        now = time.monotonic()
        if number in OF_NETWORK and now - self._answered < NETWORK_S:
            return False
        self.why = OF_MACHINE.get(number) or OF_NETWORK.get(number) or ""
        self._changed = now
        fewer = max(1, min(self.now, busy) // 2)
        if fewer < self.now and now - self._halved >= INSTANT_S:
            self._halved = now
            self._say(fewer)
            logger.warning(
                "This machine does not give what a call needs (%s): %d of %d slots for now.",
                self.why,
                self.now,
                self.most,
            )
        return True

    def look(self) -> None:
        """Once in a while: a little more, where there was no trouble."""
        if self.now < self.most and time.monotonic() - self._changed >= REST_S:
            self._changed = time.monotonic()
            self._say(min(self.most, self.now + max(1, self.most // 10)))
            if self.now == self.most:
                logger.warning("All %d slots again.", self.most)
                self.why = ""

    def _say(self, slots: int) -> None:
        self.now = slots
        self._set_limit(slots)


def allow_files(wanted: int) -> None:
    """Raise our own limit of open files as far as the system lets us: each call in flight is a connection."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):
        return  # what we have must do; `aios-dist doctor` says what is missing


def open_files() -> int:
    """This process's limit of open files; 0: none, or nobody knows."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft
