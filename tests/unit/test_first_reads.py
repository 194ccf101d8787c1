"""What many threads read for the first time at once: msgspec 0.22 ends the process there."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
sys.setswitchinterval(1e-6)
import msgspec
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.config import Config, FleetConfig
from aios_dist.model.jobs import JobRecord, Outcome, decode, encode
from aios_dist.journal import WorkerInfo

info = WorkerInfo(id="w", host="h", pid=1, pool="p", lanes=[], slots=1)
said = [
    (Outcome, encode(Outcome(response=LLMResponse("x")))),
    (JobRecord, encode(JobRecord("a", {}))),
    (LLMRequest, encode(LLMRequest(messages=[]))),
    (WorkerInfo, encode(info)),
]
meet = threading.Barrier(8)

def read():
    meet.wait()
    for kind, data in said:
        decode(data, kind)
    msgspec.convert({"name": "x"}, FleetConfig)

threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("time", range(4))
def test_threads_that_read_for_the_first_time_at_once_end_no_process(time: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
