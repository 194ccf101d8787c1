"""A loop that Ctrl-C may meet anywhere: at each line of ours and of asyncio's, one after another."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, gc, os, signal, sys, warnings
from aios_dist.threads.interrupts import run

warnings.simplefilter("always")
said, ends = set(), []
sys.unraisablehook = lambda it: said.add(f"{it.exc_type.__name__}: {it.exc_value}")
warnings.showwarning = lambda message, *_: said.add(str(message))

async def main():
    where.append("begun")
    await asyncio.sleep(0.001)
    where.append("finished")

def each_line(frame, event, arg):
    global left
    if event == "line":
        left -= 1
        if left == 0:
            where.append("met")
            signal.raise_signal(signal.SIGINT)
    return each_line

def ours(frame, event, arg):
    file = frame.f_code.co_filename
    return each_line if os.sep + "asyncio" + os.sep in file or file.endswith("interrupts.py") else None

left = 0
while left <= 0:  # until a run had fewer lines
    left, where = len(ends) + 1, []
    sys.settrace(ours)
    try:
        HOW
        end = "done"
    except KeyboardInterrupt:
        end = "interrupted"
    sys.settrace(None)
    ends.append(end)
    gc.collect()
    if where[0] == "met" and "finished" in where:
        said.add("was not cancelled")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(len(ends) > 100, sorted(set(ends[:-1])), ends[-1], sorted(said))
"""


def met(how: str) -> str:
    program = PROGRAM.replace("HOW", how)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    return done.stdout.strip() + done.stderr


def test_ctrl_c_at_any_line_ends_a_run_and_leaves_nothing_half_done() -> None:
    assert met("run(main)") == "True ['interrupted'] done []"


def test_within_asyncios_own_run_it_does_not() -> None:
    """What the test above can see, and why there is a run of ours."""
    assert met("asyncio.run(main())") != "True ['interrupted'] done []"
