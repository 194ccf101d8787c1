"""Half a minute of chaos: the short form of ``make chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios_dist.errors import ConfigError
from aios_dist.local.redis_server import find_server
from tests.chaos.report import keep
from tests.chaos.run import Options, run
from tests.releases import NoHistory

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


@pytest.mark.timeout(360)  # it takes 60 s, and on a machine that is busy with else, much more
def test_nothing_is_lost_or_wrong_and_nothing_paid_twice_while_machines_die_and_people_err(
    tmp_path: Path,
) -> None:
    try:
        find_server()
    except ConfigError as error:
        pytest.skip(str(error))
    options = Options(
        jobs=35, odd=7, before=10, seconds=280.0, kill_every=4.0, redis_restarts=1, forget_every=6.0, seed=1
    )
    try:
        report = run(options, say=print)
    except NoHistory as error:
        pytest.skip(str(error))
    print(report.numbers())
    if not report.holds:
        keep(report, tmp_path)
        pytest.fail(f"{report.evidence()}\nThe logs of all processes are in {tmp_path}.")
    assert report.kills >= 2
    assert (len(report.outages_s), report.put_back) == (2, 1)
    assert report.parked > 0
    assert report.before > 10
    idle = {name for name, done in report.people.items() if not done}
    assert idle <= {"ids cut"}  # each did what it is for; a call in flight may be missed
