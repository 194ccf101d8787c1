"""``python -m tests.driver``: the journal's verbs in any order, against the design, for as long as you like."""

from __future__ import annotations

import argparse
import random
import sys
import time

from aios_dist.local.redis_server import EmbeddedRedis, find_server
from tests.driver.driver import Broken, Driver, Fleet


def main() -> int:
    """Runs until the time is over; 1 when something is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.driver", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="how long (%(default)s)")
    add("--seed", type=int, default=0, help="of the first run (%(default)s); each further one has the next")
    add("--moves", type=int, default=400, help="of one run, before it drains (%(default)s)")
    add("--runs", type=int, default=0, help="so many runs, whatever the time")
    add("--server", choices=["redis", "valkey"], help="which (what there is)")
    add("--no-reuse", action="store_true")
    add("--mends", action="store_true")
    given = parser.parse_args()
    changes = []
    if given.mends:
        sys.path.insert(0, "/tmp")
        from mends import MENDS

        changes = MENDS
    began, runs, moves, broken = time.monotonic(), 0, 0, 0
    with EmbeddedRedis(find_server(given.server)) as server:
        print(f"{server.kind}", flush=True)
        while (runs < given.runs) if given.runs else time.monotonic() - began < given.seconds:
            fleet = Fleet(server.url, f"d{runs}", changes)
            driver = Driver(fleet, random.Random(given.seed + runs))
            driver.reuse = driver.rollback = not given.no_reuse
            try:
                for _ in range(given.moves):
                    driver.move()
                driver.drain()
            except Broken as exc:
                broken += 1
                print(f"BROKEN, seed {given.seed + runs}: {exc}\n", flush=True)
            finally:
                fleet.close()
            runs, moves = runs + 1, moves + len(driver.said)
    print(f"{runs} runs, {moves} moves in {time.monotonic() - began:.0f} s, {broken} broken")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
