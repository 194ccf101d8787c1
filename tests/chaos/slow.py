"""How slow the machine is, and what makes it so: bounds of time are about our code, not about the machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Self

from aios_dist.local.owned_process import start_owned

BUSY = "while True: pass"
PROBE = """
import time
while True:
    began, cpu, x = time.monotonic(), time.thread_time(), 0
    while time.thread_time() - cpu < 0.02:
        x += 1
    print(f"{(time.monotonic() - began) / (time.thread_time() - cpu):.3f}", flush=True)
    time.sleep(0.2)
"""
MOST = 4.0
"""No bound is widened beyond: what takes longer on such a machine is a fault to look into."""
WINDOW = 20
"""Looks of a quarter of a second, about: five seconds."""


@contextlib.contextmanager
def busy(cores: int | None = None) -> Iterator[None]:
    """A loop that computes on every core (or on so many) beside what runs here; they end with us."""
    count = os.cpu_count() or 1 if cores is None else cores
    loops = [start_owned([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Slowness:
    """A process that computes for 20 ms, again and again, and says how much longer it took by the clock.

    1 on a machine with nothing else to do, 2 where each core is shared with another process.
    """

    def __enter__(self) -> Self:
        self._seen: list[float] = []
        self._process = start_owned([sys.executable, "-c", PROBE], stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float:
        """End it; gives the mean of the slowest five seconds, from 1 to ``MOST``."""
        if self._process.poll() is None:
            self._process.kill()
            out, _ = self._process.communicate()
            lines = out.decode().splitlines()
            self._seen = [float(line) for line in lines[: len(lines) - (not out.endswith(b"\n"))]]
        windows = range(max(1, len(self._seen) - WINDOW + 1))
        means = [_mean(self._seen[at : at + WINDOW]) for at in windows]
        return min(MOST, max(1.0, *means))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 1.0
