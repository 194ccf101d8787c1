"""What Ctrl-C and SIGTERM do to a command that runs: it ends in good order. See also ``at_once``."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def sigterm_is_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Both raise KeyboardInterrupt, also where a shell started us in the background and SIGINT ignored.

    Yields:
        What says whether a SIGTERM has come: who sends one wants the end, and no exit code 130.
    """
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio, too, knows this one
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield lambda: terminated
    finally:
        for number, action in before.items():
            signal.signal(number, action)
