"""Workers of tests are forked: they are what a user starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from tests import forked
from tests.fleet.conftest import fleet_config

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.real_starts

TELLS = """
import json, os, resource, signal, sys, threading
names = ("SIGINT", "SIGPIPE", "SIGCHLD", "SIGHUP")
handlers = {name: str(signal.getsignal(getattr(signal, name))).partition(" at ")[0] for name in names}
told = {
    "argv": sys.argv[1:], "orig": sys.orig_argv[:5], "main": sys.modules["__main__"].__spec__.name,
    "path": sys.path, "cwd": os.getcwd(), "leads": (os.getsid(0), os.getpgid(0)) == (os.getpid(),) * 2,
    "environment": dict(os.environ), "flags": str(sys.flags), "handlers": handlers,
    "streams": [(s.encoding, s.write_through, s.fileno()) for s in (sys.stdout, sys.stderr)],
    "stdin": os.readlink("/proc/self/fd/0"), "threads": [t.name for t in threading.enumerate()],
    "inherited": sorted(
        os.readlink(f"/proc/self/fd/{n}").partition(":")[0].replace(str(os.getpid()), "")
        for n in map(int, os.listdir("/proc/self/fd")) if n > 2 and os.path.exists(f"/proc/self/fd/{n}")
        and os.get_inheritable(n)
    ),
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE), "umask": os.umask(0o22),
}
with open(f"told-{told['argv'][3].partition('@')[0]}.json", "w") as file:
    json.dump(told, file)
"""


@pytest.mark.skipif(not forked.possible(), reason="no pidfd here, or all workers are to start as a user's do")
def test_a_forked_worker_has_what_one_has_that_a_user_starts(
    redis_server: EmbeddedRedis, fleets: Any, tmp_path: Path
) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    config = Config(
        fleet=fleet_config(fleets.new_name(), redis_server.url),
        models={"small": ModelConfig(base_url="http://127.0.0.1:9/v1")},
        pools={"llm": PoolConfig(lanes=["llm"], slots=1)},
    )
    config.fleet.modules[:] = ["tells"]
    with LocalFleet(config, [WorkerSpec("begun", "llm")], embedded_redis=False, cwd=tmp_path) as fleet:
        with forked.workers():
            (made,) = fleet.start_workers([WorkerSpec("forked", "llm")])
        assert isinstance(made.process, forked.Forked)
        begun, told = (json.loads((tmp_path / f"told-{n}.json").read_text()) for n in ("begun", "forked"))
        assert told.pop("argv") == [word.replace("begun", "forked") for word in begun.pop("argv")]
        assert told == begun
        fleet.stop_workers(["forked"])
        assert made.process.returncode == 0
        with forked.workers():
            (made,) = fleet.start_workers([WorkerSpec("forked", "llm")])
        fleet.kill("forked")
        assert made.process.returncode == -9
