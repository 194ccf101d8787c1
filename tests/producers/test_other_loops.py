"""gevent's threads, uvloop's loop; and where there can be no thread, one sentence."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvloop

from aios_dist import AsyncFleet
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import UnknownName
from tests.fleet.wire import Wire
from tests.producers.agents import echo
from tests.producers.conftest import Scripts
from tests.producers.programs import Scene, get, process, served

ROUNDS = 5

pytestmark = pytest.mark.timeout(120)


def test_greenlets_share_fleets_that_run_beside_each_other_and_beside_asyncio(scripts: Scripts) -> None:
    [(code, text)] = scripts(
        """
import gevent
where = config.fleet.redis_url.replace("127.0.0.1", "localhost")  # looked up in a thread
config = Config(fleet=FleetConfig(name=config.fleet.name, redis_url=where), models=config.models)
one = Fleet(config)
both = [gevent.spawn(lambda n: one.submit(echo, value=n).result(10), n) for n in range(30)]
gevent.joinall(both, 20)
assert sorted(g.value for g in both) == list(range(30))

async def own():
    return "asyncio"
print(gevent.spawn(lambda: asyncio.run(own())).get(timeout=5))

def request():
    with Fleet(config) as fleet:
        return fleet.submit(echo, value="second").result(10)
print(gevent.spawn(request).get(timeout=20))
before = len(os.listdir("/proc/self/fd"))
for _ in range(5):
    request()
end = time.monotonic() + 10
while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < end:
    gevent.sleep(0.02)
print("descriptors", len(os.listdir("/proc/self/fd")) - before)

turns = []
waiting = gevent.spawn(lambda: one.submit(ask, text="x").result(60))
gevent.spawn(lambda: [turns.append(gevent.sleep(0.01)) for _ in range(10)]).get(timeout=10)
print(len(turns), "others meanwhile")
waiting.kill(timeout=5)
if os.fork() == 0:
    print(one.submit(echo, value="child").result(10), flush=True)
    os._exit(0)
os.wait()
one.close()
""",
        first="from gevent import monkey; monkey.patch_all()\n",
    )
    assert (code, text.split("\n")[:-1]) == (
        0,
        ["asyncio", "second", "descriptors 0", "10 others meanwhile", "child"],
    ), text


@pytest.fixture
def wire(redis_url: str) -> Iterator[Wire]:
    with Wire(urlsplit(redis_url).port or 0) as made:
        yield made


@pytest.mark.parametrize("make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_a_line_that_breaks_between_two_calls_is_made_anew_on_every_kind_of_loop(
    wire: Wire, fleet_name: str, make_loop: type[asyncio.AbstractEventLoop]
) -> None:
    config = Config(fleet=FleetConfig(name=fleet_name, redis_url=wire.url), models={"small": ModelConfig()})

    async def use() -> None:
        async with AsyncFleet(config) as fleet:
            for n in range(ROUNDS):
                job = await fleet.submit(echo, value=n)
                wire.cut()
                with pytest.raises(UnknownName):
                    await fleet.job("none").cancel()
                wire.cut()
                assert await job.result(10) == n
                wire.cut()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(use())


SITE = """
from aios_dist import Fleet
from aios_dist.config import Config, FleetConfig
def app(environ, start):
    start("200 OK", [])
    try:
        Fleet(Config(fleet=FleetConfig(redis_url="redis://127.0.0.1:1/0"), models={})).close()
        return [b"made"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}".encode()]
"""


def test_uwsgi_without_threads_and_eventlet_are_refused(tmp_path: Path, scripts: Scripts) -> None:
    (tmp_path / "small_site.py").write_text(SITE)
    scene = Scene(tmp_path, {}, "", 0, lambda: None)
    path = tmp_path / "s"
    words = ("uwsgi", "--http-socket", str(path), "--die-on-term", "--need-app", "--wsgi", "small_site:app")
    with process(scene, "uwsgi", *words, "--home", sys.prefix, "--pythonpath", str(tmp_path)) as site:
        served(path, site)
        [(_, text)] = scripts(
            "try: Fleet(config)\nexcept Exception as error: print(type(error).__name__, error)",
            first="import eventlet; eventlet.monkey_patch()\n",
        )
        assert get(path, "/").startswith("UsageError: A Fleet needs a thread, and uWSGI runs none")
    assert text.splitlines()[-1].startswith("UsageError A Fleet needs real threads, and eventlet")


SHARED = """
import asyncio
from aios_dist import AsyncFleet
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import JobCancelled
from tests.producers.agents import ask
config = Config(fleet=FleetConfig(name={name!r}, redis_url={url!r}), models={{"small": ModelConfig()}})
fleet, loop = AsyncFleet(config), asyncio.new_event_loop()

async def listen():
    job = await fleet.submit(ask, text="never answered")
    waiting = asyncio.create_task(job.result())
    await asyncio.sleep(0.2)
    return waiting
inherited = loop.run_until_complete(listen())

async def use():
    waiting = await listen()
    jobs = await fleet.jobs()
    await asyncio.gather(*(fleet.job(job.id).cancel() for job in jobs))
    try:
        return await asyncio.wait_for(waiting, 5)
    except JobCancelled:
        return "heard"

def app(environ, start):
    start("200 OK", [])
    try:
        return [asyncio.run(use()).encode()]
    except BaseException as error:
        return [f"{{type(error).__name__}}: {{error}}".encode()]
"""


def test_an_async_fleet_is_its_own_in_each_child_of_a_uwsgi_that_tells_python_of_no_fork(
    tmp_path: Path, redis_url: str, fleet_name: str
) -> None:
    (tmp_path / "shared_site.py").write_text(SHARED.format(name=fleet_name, url=redis_url))
    path, root = tmp_path / "s", Path(__file__).parents[2]
    words = ("uwsgi", "--http-socket", str(path), "--die-on-term", "--need-app", "--wsgi", "shared_site:app")
    more = ("--master", "--processes", "2", "--enable-threads", "--pythonpath", str(root))
    with process(
        Scene(tmp_path, {}, "", 0, lambda: None),
        *("uwsgi", *words, *more, "--home", sys.prefix, "--pythonpath", str(tmp_path)),
    ) as site:
        served(path, site)
        assert [get(path, "/") for _ in range(3)] == 3 * ["heard"]
