"""An event loop that Ctrl-C may meet at any moment, also while it is made and taken down."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run(main: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """``asyncio.run(main(*args))``, of which Ctrl-C breaks nothing half-way.

    It cancels ``main``; where it comes before, at the first ``await``. A KeyboardInterrupt within
    ``asyncio.run`` itself, while its own handler is not in place, leaves half an event loop or a coroutine
    that never ran, and Python prints "Exception ignored in …" with a traceback. A second Ctrl-C is at once,
    as there. Where somebody else looks after SIGINT, and in other threads, it is ``asyncio.run``.

    Raises:
        KeyboardInterrupt: Ctrl-C came, and ``main`` has ended.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return asyncio.run(main(*args, **kwargs))
    came = 0

    def note(*_: object) -> None:
        nonlocal came
        came += 1
        if came > 1:
            raise KeyboardInterrupt

    async def ours() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def cancel(*_: object) -> None:
            note()
            loop.call_soon_threadsafe(task.cancel)  # not here: we are within a line of anybody's

        signal.signal(signal.SIGINT, cancel)
        if came:
            task.cancel()
        try:
            return await main(*args, **kwargs)
        finally:
            signal.signal(signal.SIGINT, note)

    signal.signal(signal.SIGINT, note)
    try:
        result = asyncio.run(ours())
    except asyncio.CancelledError:
        if not came:
            raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
    return result
