"""The fake LLM: a server that speaks OpenAI's two protocols, Anthropic's and Gemini's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from aios_dist.testing import control
from aios_dist.testing.answering import Answering
from aios_dist.testing.behaviour import Behaviour
from aios_dist.testing.calls import Call
from aios_dist.testing.faults import Faults
from aios_dist.testing.http_server import Connection
from aios_dist.testing.latency import Distribution, Latency


class FakeLLM:
    """``async with FakeLLM(...) as llm`` in the running loop, or ``with`` on a loop in a thread of its own.

    ``latency``: seconds, a text or a model (``latency.py``); ``faults``: a text or a record (``faults.py``);
    ``retry_after``: seconds, told with a 429; ``reply``: None for seeded words, or what ``Script`` takes;
    ``output_tokens``: how many, drawn from the seed; ``api_key``, ``models``: what is accepted, anything if
    not given; ``chunk_tokens``: tokens in one piece of a stream; ``port``: 0 takes a free one. Only the last
    ``keep_calls`` calls are remembered. ``control_key``: what those must know who ask over HTTP what was
    called, or change what is answered; nothing if not given.
    """

    def __init__(
        self,
        *,
        latency: str | float | Latency = 0.0,
        faults: str | Faults = "",
        retry_after: float = 1.0,
        reply: Any = None,
        output_tokens: str | float | Distribution = "uniform:8,24",
        seed: int = 0,
        api_key: str | None = None,
        models: Sequence[str] = (),
        chunk_tokens: int = 4,
        host: str = "127.0.0.1",
        port: int = 0,
        keep_calls: int = 10_000,
        control_key: str | None = None,
    ) -> None:
        behaviour = Behaviour().changed(
            {
                "latency": latency,
                "faults": faults,
                "retry_after": retry_after,
                "reply": reply,
                "output_tokens": output_tokens,
                "seed": seed,
                "api_key": api_key,
                "models": models,
                "chunk_tokens": chunk_tokens,
            }
        )
        self.host, self.port = host, port
        self._answering = Answering(behaviour, keep_calls, control.answer)
        self._answering.control_key = control_key
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[Connection] = set()

    # What a test asks

    @property
    def root(self) -> str:
        """The address without /v1: Anthropic's base URL, and where /calls and the like are."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """OpenAI's base URL."""
        return f"{self.root}/v1"

    @property
    def calls(self) -> list[Call]:
        """The calls since the start or the last reset, those in flight too, in the order they came in."""
        return [call.record() for call in list(self._answering.calls.values())]

    @property
    def count(self) -> int:
        """How many calls came since the start or the last reset, forgotten ones too."""
        return self._answering.count

    @property
    def in_flight(self) -> int:
        """How many calls are waiting for their answer now."""
        return self._answering.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most calls that were in flight together since the start or the last reset."""
        return self._answering.max_in_flight

    @property
    def behaviour(self) -> Behaviour:
        """The settings in force."""
        return self._answering.behaviour

    def reset(self) -> None:
        """Forget all calls; numbers, scripted lists and faults by number begin again. Settings stay."""
        self._in_loop(self._answering.reset)

    def script(self, **settings: Any) -> None:
        """Change settings from the next call on; the call numbers of new ``faults`` count from here."""
        self._in_loop(partial(self._answering.change, self.behaviour.changed(settings)))

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Return once ``condition()`` holds; TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - the condition is the caller's: nothing tells when it changes
                await asyncio.sleep(0.001)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """As ``until``, for tests without an event loop (``with FakeLLM() as llm``)."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(
                    f"the fake LLM did not get there in {timeout:g} s: {self.in_flight} in flight"
                )
            time.sleep(0.001)

    # Start and stop

    async def start(self) -> None:
        """Listen, in the running event loop. OSError if the port is taken."""
        self._loop = loop = asyncio.get_running_loop()
        self._answering.attach(loop)
        self._server = await loop.create_server(
            lambda: Connection(self._answering.serve, loop, self._connections),
            self.host,
            self.port,
            backlog=4096,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections and stop listening."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.abort()
            await self._server.wait_closed()
            await asyncio.sleep(0)  # the ends of the connections are told at the loop's next turn
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="fake-llm", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result(10)
        except BaseException:
            self._end_thread(loop)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result(10)
        self._end_thread(self._loop)

    def _end_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._thread is not None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(10)
        loop.close()
        self._thread = None

    def _in_loop(self, change: Callable[[], None]) -> None:
        """Run a change where the calls are served, so that no call sees half of it."""
        if self._thread is None or self._thread is threading.current_thread() or self._loop is None:
            change()
            return

        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)
