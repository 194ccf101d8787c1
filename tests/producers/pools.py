"""``python -m tests.producers.pools fork|spawn``: each line ``TAG COUNT`` is done in a pool of processes."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections import Counter

from tests.producers.work import fleet_of, part

if __name__ != "tests.producers.work":
    fleet_of("before")


def one(which: str, tag: str, count: int) -> dict[str, int]:
    """In a process of the pool."""
    return part(fleet_of(which), tag, count)


def main() -> None:
    """Until there are no more lines."""
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        for line in sys.stdin:
            tag, count = line.split()
            wanted = [(which, f"{tag}-{which}", int(count)) for which in ("before", "after")]
            tally: Counter[str] = Counter()
            for part_of_it in pool.starmap(one, wanted, chunksize=1):
                tally.update(part_of_it)
            tally.update(part(fleet_of("before"), f"{tag}-parent", int(count)))
            print(json.dumps(tally), flush=True)


if __name__ == "__main__":
    main()
