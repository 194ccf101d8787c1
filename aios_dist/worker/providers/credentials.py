"""Headers that a function of the user's gives: a cloud's token until it expires, or a signature of each call.

A codec knows no clock and no line, so neither tokens (Entra's, Vertex') nor signatures (AWS') can be its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from aios_dist import errors
from aios_dist.config import ModelConfig
from aios_dist.errors import ConfigError, ConnectionBroken, LLMError
from aios_dist.model.options import odd
from aios_dist.program.imports import importing
from aios_dist.text.masking import hide, learn
from aios_dist.threads.real import start
from aios_dist.worker.providers.codec import Asked

logger = logging.getLogger("aios_dist.providers")

PATIENCE_S = 30.0
"""Seconds that the function may take."""

MOST_EARLY_S = 60.0
"""It is asked anew so long before its headers expire, or a tenth of their time where that is less."""

FORM = "must give a dict of headers (names and ASCII texts), or (headers, seconds for which they hold)"

_SECRET = re.compile(r"(?:bearer|basic) \S", re.IGNORECASE)
_OF_A_SECRET = re.compile(r"key|secret|token", re.IGNORECASE)

Headers = Mapping[str, str]


def load(label: str, place: str) -> Callable[[Asked], Any]:
    """The function at ``module:function``.

    Raises:
        ConfigError: there is none.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ConfigError(
            f"Model {label!r}: credentials {place!r} is no place of a function; "
            'name it as "my_pkg.my_module:function".'
        )
    with importing(f"Model {label!r}: the credentials {place!r}"):
        found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise ConfigError(f"Model {label!r}: what stands at credentials {place!r} is no function.")
    function: Callable[[Asked], Any] = found
    return function


class Credentials:
    """What a model's calls are sent with, from its function.

    Args:
        label: the model's name in ``aios.toml``.
        model: its table, with ``credentials``.
        provider: the adapter's name, for errors.
    """

    def __init__(self, label: str, model: ModelConfig, provider: str) -> None:
        self._place = str(model.credentials)
        self._function = load(label, self._place)
        self._label, self._provider = label, provider
        self._kept: Headers = {}
        self._got = self._until = -math.inf
        self._each = False  # they are another call's: nothing of them is kept
        self._asking: asyncio.Task[Headers] | None = None
        self._said = ""

    async def headers(self, asked: Asked) -> Headers:
        """The headers for a request, by their names in lower case. Of many calls one asks for a token.

        Raises:
            ConnectionBroken: the function broke, took too long, or gave no headers. The provider was not
                asked, and this says nothing of the model (``detail["own"]``).
        """
        while not self._each:
            if time.monotonic() < self._until:
                return self._kept
            mine = self._asking is None
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(asked))
                self._asking.add_done_callback(self._asked)
            found = await asyncio.shield(self._asking)
            if mine:
                return found
        return await self._ask(asked)

    def forget(self, refused: Headers, since: float) -> bool:
        """The provider has refused these headers; True where others can be had.

        Args:
            refused: the headers.
            since: when they were asked for, by the monotonic clock: they may have been kept for long by then.
        """
        if self._each or self._got >= since:
            return False
        if self._kept is refused:
            self._until = -math.inf
        return True

    def _asked(self, task: asyncio.Task[Headers]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # whoever asked has heard it, or has left

    async def _ask(self, asked: Asked) -> Headers:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                given = await self._run(asked)
        except TimeoutError as exc:
            slow = time.monotonic() - begun >= PATIENCE_S
            raise self._broke(
                f"took more than {PATIENCE_S:g} s" if slow else errors.describe(exc), exc
            ) from exc
        except asyncio.CancelledError as exc:
            if (mine := asyncio.current_task()) is None or mine.cancelling():
                raise
            raise self._broke(errors.describe(exc), exc) from exc
        except BaseException as exc:  # also one that ends a process: this is not its own
            raise self._broke(errors.describe(exc), exc) from exc
        headers, seconds = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        fine = isinstance(seconds, int | float | None) and not isinstance(seconds, bool)
        if not isinstance(headers, Mapping) or not fine or odd({"extra_headers": headers}):
            raise self._broke(FORM)
        found = {name.lower(): value for name, value in headers.items()}
        learn(*(word for name in found for word in _secrets(name, found[name])))
        self._each = seconds is None
        if seconds is not None:
            self._kept, self._got = found, begun
            self._until = begun + seconds - min(MOST_EARLY_S, seconds / 10)
        return found

    async def _run(self, asked: Asked) -> Any:
        """What the function gives; a plain one has a thread for itself, which may hang."""
        if inspect.iscoroutinefunction(self._function):
            return await self._function(asked)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            given: Any = None
            error: BaseException | None = None
            try:
                given = self._function(asked)
            except BaseException as exc:
                error = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, done, given, error)

        start(work, "aios-credentials")
        given, error = await done
        if error is not None:
            raise error
        return await given if inspect.isawaitable(given) else given

    def _broke(self, why: str, exc: BaseException | None = None) -> LLMError:
        text = hide(f"The credentials {self._place!r} of model {self._label!r} gave none: {why}.")
        if text != self._said:  # once, with its place in the user's code
            self._said = text
            logger.warning("%s", text, exc_info=exc)
        return ConnectionBroken(text, provider=self._provider, own=True)

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()


def _settle(done: asyncio.Future[Any], given: Any, error: BaseException | None) -> None:
    if not done.done():  # nobody waits any more
        done.set_result((given, error))


def _secrets(name: str, value: str) -> tuple[str, ...]:
    """What of a header is one, for longer than a call: a signature is not."""
    if _SECRET.match(value):
        return (value, value.partition(" ")[2])
    return (value,) if _OF_A_SECRET.search(name) else ()
