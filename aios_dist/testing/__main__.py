"""The fake LLM as a process: ``python -m aios_dist.testing``. Prints one line, with its base URL."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from typing import Any, NoReturn

from aios_dist.testing.fake_llm import FakeLLM

CONTROL_KEY_ENV = "AIOS_FAKE_LLM_KEY"
"""The variable of the ``control_key``: all users of a machine see the arguments of a process."""


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, exit code 2."""
        self.exit(2, f"fake LLM: {message}\n")


def _arguments() -> argparse.ArgumentParser:
    parser = _Arguments(prog="python -m aios_dist.testing", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=int, default=0, help="port, 0 for a free one (0)")
    add(
        "--latency",
        default="0",
        help="seconds: 0.1, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA or tokens:FIRST,EACH (0)",
    )
    add("--output-tokens", default="uniform:8,24", help="how long replies are, as --latency (uniform:8,24)")
    add("--seed", type=int, default=0, help="of replies, latencies and faults (0)")
    add("--faults", default="", help="429:0.1,hang:0.01 (rates), 500@3 (call number); cut, garbage, odd, 200")
    add("--retry-after", type=float, default=1.0, help="seconds, told with 429, 503 and 529 (1)")
    add("--reply", help="JSON: a text, a list in order, or an object from prompt to reply (seeded words)")
    add("--api-key", help="refuse calls without this key")
    add("--models", default="", help="comma separated: refuse other models")
    add("--chunk-tokens", type=int, default=4, help="tokens in one piece of a stream (4)")
    add("--keep-calls", type=int, default=10_000, help="how many calls GET /calls remembers (10000)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit code: 0, or 2 for what cannot be done as asked."""
    parser = _arguments()
    options: dict[str, Any] = vars(parser.parse_args(argv))
    options["models"] = [name for name in options["models"].split(",") if name]
    if not 0 <= options["port"] <= 65535:
        parser.error(f"--port {options['port']} is not from 0 to 65535")
    if options["keep_calls"] < 0:
        parser.error("--keep-calls must not be negative")
    try:
        options["reply"] = json.loads(options["reply"]) if options["reply"] is not None else None
    except ValueError as wrong:
        parser.error(f"--reply is not JSON: {wrong}")
    try:
        llm = FakeLLM(**options, control_key=os.environ.get(CONTROL_KEY_ENV) or None)
    except ValueError as wrong:
        parser.error(str(wrong))
    _raise_file_limit()
    try:
        asyncio.run(_serve(llm))
    except OSError as wrong:
        parser.error(f"cannot listen on {llm.host} port {llm.port}: {wrong.strerror or wrong}")
    return 0


async def _serve(llm: FakeLLM) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await llm.start()
    if sys.stdout is not None:  # it is not closed
        with contextlib.suppress(OSError):  # nobody reads it, or it has no room: who knows the port can ask
            sys.stdout.write(f"fake LLM on {llm.url}\n")
            sys.stdout.flush()
    # Remembered calls are many and long-lived: looking through them for garbage again and again would cost
    # milliseconds in the middle of a measurement.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    await ended.wait()
    await llm.stop()


def _raise_file_limit() -> None:
    """Allow as many open connections as the system lets us have."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass  # macOS gives "unlimited" and refuses it: what we have must do


if __name__ == "__main__":
    sys.exit(main())
