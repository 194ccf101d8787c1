"""``python -m tests.producers``: 1,000 jobs from each kind of program, Redis killed in the middle.

``--jobs N``, ``--only NAME …``. Exit code 1 when a job has not brought its own answer.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.producers.matrix import run
from tests.producers.programs import PROGRAMS

parser = argparse.ArgumentParser(prog="python -m tests.producers")
parser.add_argument("--jobs", type=int, default=1000)
parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
given = parser.parse_args()
begun = time.monotonic()
found = run(given.jobs, given.only)
for name, tally in found.items():
    print(f"{name:24} {dict(tally)}")
print(f"{time.monotonic() - begun:.0f} s")
sys.exit(any(set(tally) != {"ok"} for tally in found.values()))
