"""``make chaos``, or ``python -m tests.chaos``: real processes die, nothing may be lost, wrong or paid twice.

Everything runs on loopback, ends by itself, and leaves nothing behind. Exit code 1 when a bound breaks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.report import keep
from tests.chaos.run import Options, run
from tests.releases import NoHistory


def main() -> int:
    """One run, and its table."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--jobs", type=int, default=default.jobs, help="jobs of 3 to 8 steps (%(default)s)")
    add("--odd", type=int, default=default.odd, help="so many more of each odd kind (%(default)s)")
    add("--seconds", type=float, default=default.seconds, help="the most that it may take (%(default)s)")
    add("--kill-every", type=float, default=default.kill_every, help="seconds between kills (%(default)s)")
    add("--redis-restarts", type=int, default=default.redis_restarts, help="one a crash (%(default)s)")
    add("--put-back", type=int, default=default.put_back, help="Redis loses a second, so often (%(default)s)")
    add("--flushes", type=int, default=default.flushes, help="all rules are deleted, so often (%(default)s)")
    add("--rollouts", type=int, default=default.rollouts, help="other code comes and goes (%(default)s)")
    add(
        "--before", type=int, default=default.before, help="jobs of the release before; 0: none (%(default)s)"
    )
    add("--no-vandal", dest="vandal", action="store_false", help="no malformed tickets and messages")
    add(
        "--pause-every",
        type=float,
        default=default.pause_every,
        help="s between stops; 0: none (%(default)s)",
    )
    add("--forget-every", type=float, default=default.forget_every, help="s; lines swallow (%(default)s)")
    add("--loaded", action="store_true", help="a loop that computes on every core beside")
    add("--seed", type=int, default=default.seed, help="of jobs, faults and victims (%(default)s)")
    add("--json", action="store_true", help="numbers only, for programs")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    err = Console(stderr=True)
    try:
        report = run(Options(**given), say=lambda text: err.print(f"[dim]{text}[/]"))
    except NoHistory as error:
        err.print(
            f"There is no release before this one to run beside it: {error}. Without: --before 0.",
            markup=False,
        )
        return 2
    if as_json:
        print(json.dumps(report.numbers(), indent=2))
    else:
        numbers = report.numbers()
        console = Console(width=110)
        table = Table("check", "measured", "bound", "")
        for name, got, bound, ok, _ in report.checks():
            table.add_row(name, got, bound, "ok" if ok else "BROKEN")
        console.print(table)
        for name, value in numbers.items():
            if name != "checks":
                console.print(f"{name:>18}  {value}", highlight=False)
    if report.holds:
        return 0
    folder = Path(tempfile.mkdtemp(prefix="aios-chaos-logs-"))
    keep(report, folder)
    err.print(report.evidence(), markup=False)
    err.print(f"The logs of all processes are in {folder}.", markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
