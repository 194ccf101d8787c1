"""``make mutants``: small faults put into the code one at a time; the tests that are named must notice each.

The list is ``*.toml`` beside this file; see :mod:`.entries`. ARGS choose: a number, or a word that stands in
an entry (``make mutants ARGS='claim.lua 17'``), ``--tenth`` for today's tenth. Exit 1 where one survives
without a reason; 3 where one that is said to survive is noticed, or an entry cannot be tried: that may
be the machine's.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.mutants.entries import Mutant, all_of_them
from tests.mutants.trying import Tried, try_all


def chosen(mutants: Sequence[Mutant], words: Sequence[str], tenth: int | None) -> list[Mutant]:
    """Those that are asked for: by number or by a word, all where nothing is said; of these every tenth."""
    found = [
        mutant
        for mutant in mutants
        if not words
        or any(w == str(mutant.number) or (not w.isdigit() and w in mutant.all_text) for w in words)
    ]
    return found if tenth is None else found[tenth % 10 :: 10]


def table(tried: Sequence[Tried]) -> str:
    """How many of each list were noticed."""
    killed = Counter(one.mutant.area for one in tried if one.noticed)
    reasons = Counter(one.mutant.area for one in tried if not one.noticed and one.mutant.survives)
    all_ = Counter(one.mutant.area for one in tried)
    lines = [f"{'':16} {'tried':>6} {'noticed':>8} {'with a reason':>14} {'missed':>7}"]
    for area in [*sorted(all_), ""]:
        n, k, r = (c[area] if area else c.total() for c in (all_, killed, reasons))
        lines.append(f"{area or 'all':16} {n:6} {k:8} {r:14} {n - k - r:7}")
    return "\n".join(lines)


def main() -> int:
    """Try those that are chosen, say what became of each, and count."""
    today = datetime.datetime.now(datetime.UTC).toordinal()
    parser = argparse.ArgumentParser(
        prog="make mutants ARGS=…", description="Small faults that tests must notice."
    )
    parser.add_argument("which", nargs="*", help="numbers, or words of entries; nothing: all")
    parser.add_argument(
        "--tenth",
        nargs="?",
        type=int,
        const=today,
        metavar="N",
        help="every tenth, from the N-th; without N by the day",
    )
    parser.add_argument("--processes", type=int, default=2, help="so many at a time  [default: 2]")
    options = parser.parse_args()
    mutants = chosen(all_of_them(), options.which, options.tenth)
    if not mutants:
        print("No entry is meant by this.")
        return 1
    begun, tried = time.monotonic(), []
    for one in try_all(mutants, options.processes):
        tried.append(one)
        print(one.line, flush=True)
    wrong = [one for one in tried if one.wrong]
    print(f"\n{table(tried)}\n{time.monotonic() - begun:.0f} s")
    for one in wrong:
        print(f"\nWRONG {one.mutant}\n      {one.wrong}")
    missed = any(not one.fault and not one.noticed for one in wrong)
    return 1 if missed else 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
