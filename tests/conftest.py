"""What every test may ask for: a Redis of this test run, a fleet name of its own, and a look at what it left.

``AIOS_TEST_REDIS=redis|valkey`` chooses the server. Without one, tests that need it are skipped. With
``CI=true`` a skip is a failure, but for what that machine itself may lack (``LACKING``): what nobody ran is
not proven. Nothing of the caller's own configuration (``AIOS_…``) reaches a test.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import os
import secrets
import signal
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytest
from hypothesis import HealthCheck, settings

from aios_dist.errors import ConfigError
from tests import forked

if TYPE_CHECKING:
    import redis

    from aios_dist.local.redis_server import EmbeddedRedis

FOR_TESTS = {"AIOS_TEST_REDIS", "AIOS_TEST_REAL_STARTS", "AIOS_REDIS_SERVER"}
HERE = Path(__file__).parent
MARKED_FOLDERS = ("redis", "fleet")
SLOW_FOLDERS = ("fleet", "chaos", "producers", "redis")
"""Slowest first: several processes (`make test`) that end with many small files end together, and the fleet
that a process has for all of ``fleet`` runs no longer than it is needed."""
LACKING = ("faketime", "network namespaces", "systemd-analyze", "no git", "/proc", "pidfd")
"""In the reasons of skips: of the kernel or the system, which a container has from its host."""


# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    for name in [name for name in os.environ if name.startswith("AIOS_") and name not in FOR_TESTS]:
        del os.environ[name]
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # begun by a shell's "&"; what tests start inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Folder(pytest.Package):
    """A folder whose fixtures of the scope ``package`` end behind its last test, as in a package."""

    def setup(self) -> None:
        """There is no ``__init__.py`` to import."""


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return Folder.from_parent(parent, path=path) if path == HERE / "fleet" else None


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _folder(item) in MARKED_FOLDERS:
            item.add_marker(_folder(item))
    if hasattr(config, "workerinput"):  # one of several processes
        places = {folder: place for place, folder in enumerate(SLOW_FOLDERS)}
        items.sort(key=lambda item: places.get(_folder(item), len(places)))


def pytest_collection_finish() -> None:
    """What is there before the first test is there to the last, and some hundred thousand objects: what looks
    for garbage (a worker at its start, tests that wait for the end of something) need not look at those."""
    gc.collect()
    gc.freeze()


def _may_be_skipped(report: pytest.TestReport | pytest.CollectReport) -> bool:
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return os.environ.get("CI") != "true" or any(word in why for word in LACKING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and not _may_be_skipped(report):
        report.outcome, report.longrepr = "failed", f"skipped, and CI is to run it: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and not _may_be_skipped(report):
        report.outcome, report.longrepr = "failed", f"skipped, and CI is to run it: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """One embedded server for the whole run. A test that kills or restarts one starts its own."""
    from aios_dist.local.redis_server import EmbeddedRedis, find_server

    asked = os.environ.get("AIOS_TEST_REDIS")
    if asked not in (None, "", "redis", "valkey"):
        pytest.fail(f"AIOS_TEST_REDIS is {asked!r}: it takes 'redis' or 'valkey'")
    try:
        binary = find_server(cast('Literal["redis", "valkey"] | None', asked or None))
    except ConfigError as error:
        pytest.skip(str(error))
    with EmbeddedRedis(binary) as server:
        yield server


@pytest.fixture(scope="session")
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A connection to look at Redis with; answers are bytes."""
    import redis

    with redis.Redis.from_url(redis_server.url, socket_timeout=10) as client:
        yield client


@pytest.fixture(autouse=True)
def _others_garbage(request: pytest.FixtureRequest) -> None:
    """A test that takes a warning for an error does not answer for what others have left to the collector."""
    if any(str(mark.args[0]).startswith("error") for mark in request.node.iter_markers("filterwarnings")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()


@pytest.fixture(autouse=True, scope="module")
def workers_are_forked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a file is not marked as ``real_starts``: see ``tests/forked.py``."""
    with contextlib.nullcontext() if request.node.get_closest_marker("real_starts") else forked.workers():
        yield


class Fleets:
    """The fleet names of this test run that may hold keys now."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def new_name(self) -> str:
        """A name that nobody had before, for a fleet that several tests share; see ``fleet_name``."""
        name = f"t{secrets.token_hex(4)}"
        self.names.add(name)
        return name

    def owner_of(self, key: str) -> str | None:
        """The fleet whose prefix the key has, ours or kombu's; None for a key that leaked."""
        name = (
            key.removeprefix("aios:{").partition("}")[0]
            if key.startswith("aios:{")
            else key.partition(".")[0]
        )
        return name if name in self.names and key.startswith((_our_prefix(name), f"{name}.")) else None


@pytest.fixture(scope="session")
def fleets() -> Fleets:
    return Fleets()


@pytest.fixture
def fleet_name(fleets: Fleets) -> Iterator[str]:
    """A fleet of this test's own."""
    name = fleets.new_name()
    yield name
    fleets.names.discard(name)


@pytest.fixture
def redis_url(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, fleets: Fleets, fleet_name: str
) -> Iterator[str]:
    """The server's address. Afterwards the fleet's keys are looked at and removed.

    The test fails if it left a key outside all fleets' prefixes, or one of ours without a time to live that
    is not on the list of permanent keys (``aios_dist.journal.keys.PERMANENT``). Jobs that have not ended may
    have none.
    """
    yield redis_server.url
    keys = [key.decode(errors="backslashreplace") for key in redis_client.scan_iter(count=1000)]
    stray = [key for key in keys if fleets.owner_of(key) is None]
    ours = [key for key in keys if key.startswith(_our_prefix(fleet_name))]
    immortal = _without_time_to_live(redis_client, ours, _our_prefix(fleet_name))
    gone = [*stray, *(key for key in keys if fleets.owner_of(key) == fleet_name)]
    if gone:
        redis_client.unlink(*gone)
    assert not stray, f"keys outside the prefix of any fleet: {sorted(stray)}"
    assert not immortal, (
        f"keys with no time to live that are not on the list of permanent keys: {sorted(immortal)}"
    )


def _our_prefix(fleet: str) -> str:
    from aios_dist.journal.keys import prefix

    return prefix(fleet)


def _without_time_to_live(client: redis.Redis, keys: list[str], prefix: str) -> list[str]:
    if not keys:
        return []
    from aios_dist.journal.keys import PERMANENT

    open_jobs = [member.decode() for member in cast("list[bytes]", client.zrange(f"{prefix}open", 0, -1))]
    permanent = [*PERMANENT, *(["plan:*"] if open_jobs else [])]
    of_open_jobs = {f"{part}:{job}" for job in open_jobs for part in ("job", "ev")}
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.ttl(key)
    immortal = [
        key.removeprefix(prefix) for key, ttl in zip(keys, pipeline.execute(), strict=True) if ttl == -1
    ]
    return [
        prefix + key
        for key in immortal
        if key not in of_open_jobs and not any(fnmatch.fnmatchcase(key, pattern) for pattern in permanent)
    ]
