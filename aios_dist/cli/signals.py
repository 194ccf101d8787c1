"""What Ctrl-C, SIGTERM and a terminal that closes do to a command that runs: it ends in good order.

See also ``at_once``.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def every_end_is_ctrl_c() -> Iterator[Callable[[], bool]]:
    """All raise KeyboardInterrupt, also where a shell started us in the background and SIGINT ignored.

    But for SIGHUP where it is ignored: ``nohup``. It counts once: the shell and the kernel both send it.

    Yields:
        What says whether a SIGTERM has come: who sends one wants the end, and no exit code 130.
    """
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)

    def hang_up(*_: object) -> None:
        no_hang_up()
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio, too, knows this one
    signal.signal(signal.SIGTERM, terminate)
    if before[signal.SIGHUP] is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    try:
        yield lambda: terminated
    finally:
        for number, action in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # no_hang_up() is for the rest of our life
                signal.signal(number, action)


def no_hang_up() -> None:
    """The end in good order has begun: a terminal that closes now wants no other one."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def hang_up_is_sigterm(ignored: bool) -> None:
    """A terminal that closes ends this process as SIGTERM does; ``ignored``: not at all (``nohup``)."""
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: signal.raise_signal(signal.SIGTERM)
    )
