"""What Ctrl-C and SIGTERM do to a command: at once while it is only being loaded, in good order later."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
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


@contextlib.contextmanager
def ctrl_c_at_once() -> Iterator[None]:
    """While modules are imported Ctrl-C ends the process, with 130.

    A KeyboardInterrupt may come within a callback of Python's import system, where it is printed and lost.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
