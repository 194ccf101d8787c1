"""``python -m tests.driver``: the journal's verbs in any order, against the design, for as long as you like.

Without more it drives the journal, a run after the other, each with the next seed. ``--planted`` looks
whether each planted bug is found, ``--injected`` breaks verbs behind each of their writes. Exit code 1 when
something is broken.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter

from aios_dist.local.redis_server import EmbeddedRedis, find_server
from tests.driver.core import Broken
from tests.driver.driver import Driver
from tests.driver.fleet import Fleet
from tests.driver.injected import Injector, inject
from tests.driver.known import cut
from tests.driver.patched import Outdated
from tests.driver.planted import BUGS, WHEN_BROKEN, WHEN_PARKED, WHEN_WIDE, find
from tests.driver.scheduling import Scheduling

ALL = (*BUGS, *WHEN_BROKEN, *WHEN_WIDE, *WHEN_PARKED)


def main() -> int:
    """Runs, says what was done and what is broken; 1 when something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.driver", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="how long (%(default)s)")
    add("--seed", type=int, default=0, help="of the first run (%(default)s); each further one has the next")
    add("--moves", type=int, default=400, help="of one run, before it drains (%(default)s)")
    add("--runs", type=int, default=0, help="so many runs, whatever the time")
    add("--server", choices=["redis", "valkey"], help="which (what there is)")
    add("--deploys", action="store_true", help="agents' code changes in each run, and not in every other one")
    add("--plain", action="store_true", help="the Lua as it is, also where faults of it are known")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--planted", action="store_true", help="is every planted bug found?")
    what.add_argument(
        "--scheduling", action="store_true", help="orders, limits, shares, and nothing that is lost"
    )
    what.add_argument("--injected", action="store_true", help="errors behind every write of every verb")
    given = parser.parse_args()
    with EmbeddedRedis(find_server(given.server)) as server:
        print(server.kind, flush=True)
        if given.planted:
            return planted(server.url)
        return (injected if given.injected else drive)(server.url, given)


def more(given: argparse.Namespace, began: float, runs: int) -> bool:
    """Whether another run fits."""
    return runs < given.runs if given.runs else time.monotonic() - began < given.seconds


def drive(url: str, given: argparse.Namespace) -> int:
    """Runs of the driver until the time is over."""
    began, runs, broken, moves = time.monotonic(), 0, 0, Counter[str]()
    while more(given, began, runs):
        seed = given.seed + runs
        fleet = Fleet(url, f"d{runs}", () if given.plain else cut(seed), functions=seed % 3 != 0)
        driver = (
            Scheduling(fleet, random.Random(seed))
            if given.scheduling
            else Driver(fleet, random.Random(seed), deploys=bool(given.deploys or seed // 2 % 2))
        )
        try:
            for _ in range(given.moves):
                driver.move()
            driver.drain()
        except Broken as exc:
            broken += 1
            print(f"BROKEN, seed {given.seed + runs}: {exc}\n", flush=True)
        finally:
            fleet.close()
        runs, moves = runs + 1, moves + driver.moves
    seconds = time.monotonic() - began
    print(" ".join(f"{name} {count}" for name, count in moves.most_common()))
    print(f"{runs} runs, {moves.total()} moves in {seconds:.0f} s, {broken} broken")
    return int(broken > 0)


def planted(url: str) -> int:
    """Each planted bug, and what found it."""
    missed, seeds = 0, {}
    for number, bug in enumerate(ALL):
        began = time.monotonic()
        try:
            found = find(url, f"b{number}", bug)
        except Outdated as exc:
            print(f"OUTDATED  {exc}", flush=True)
            missed += 1
            continue
        missed += found is None
        if found is not None and found.seed:
            seeds[bug.name] = found.seed
        how = f"{found.moves} moves, seed {found.seed}: {found.broken}" if found else "NOT FOUND"
        print(f"{time.monotonic() - began:5.1f} s  {bug.name}: {how[:200]}", flush=True)
    print("FOUND_BY =", seeds)
    print(f"{len(ALL)} bugs, {missed} not found")
    return int(missed > 0)


def injected(url: str, given: argparse.Namespace) -> int:
    """Verbs that end half-way, until the time is over."""
    began, runs, tried, broken = time.monotonic(), 0, Counter[str](), Counter[str]()
    while more(given, began, runs):
        mends = () if given.plain else cut(given.seed + runs)
        fleet, injector = Fleet(url, f"i{runs}", mends), Injector(url, f"i{runs}copy", mends)
        seed = given.seed + runs
        driver = Driver(fleet, random.Random(seed), most_open=5, deploys=bool(given.deploys or seed // 2 % 2))
        for case in inject(driver, injector, moves=given.moves, cases=2):
            tried[case.move] += 1
            if case.broken:
                broken[case.move] += 1
                if broken[case.move] <= 5:
                    print(f"BROKEN, seed {given.seed + runs}: {case}", flush=True)
            if not more(given, began, runs):
                break
        fleet.close()
        injector.close()
        runs += 1
    print(" ".join(f"{name} {broken[name]}/{count}" for name, count in tried.most_common()))
    print(f"{tried.total()} verbs ended half-way, {broken.total()} were not put right")
    return int(broken.total() > 0)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have an order: a seed is the same run again
        command = [sys.executable, "-m", "tests.driver", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
