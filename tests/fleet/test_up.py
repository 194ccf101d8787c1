"""``aios-dist up`` as a user has it: in a terminal that closes, killed, twice, and with a Redis that dies."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import redis
from rich.console import Console

from aios_dist import Fleet, prompts
from aios_dist.cli.up import end
from aios_dist.cli.up_news import important, kept_up
from aios_dist.config import Config, FleetConfig, load
from aios_dist.journal import Journal
from aios_dist.local import folders
from aios_dist.local.machine import LocalFleet
from aios_dist.local.members import Member, WorkerSpec
from aios_dist.local.owned_process import start_owned
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.testing import FakeLLM

pytestmark = pytest.mark.timeout(200)  # more than what is waited for: else nobody reads what did not come
WITHIN_S = 50.0
"""For what takes a second or two where nobody else is on the machine."""
REPLY_S = 1.5
JOBS = [f"j{number}" for number in range(4)]
IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.{hang_up})
os.execv(sys.executable, [sys.executable, "-m", "aios_dist.cli", *sys.argv[1:]])
"""
TOML = """
[fleet]
shutdown_grace = 20.0
default_model = "small"
[models.small]
model = "fake"
base_url = "{url}"
api_key_env = "AIOS_GATEWAY_KEY"
[models.other]
api_key_env = "FLOWER_SHOP_KEY"
"""


class Up:
    """The command in a terminal of its own, and what it has written there so far."""

    def __init__(self, folder: Path, my_tmp: Path, *args: str, nohup: bool = False) -> None:
        self.terminal, slave = os.openpty()
        os.set_blocking(self.terminal, False)
        self.wrote = ""
        self.argv = ["up", "--no-flower", *args]
        self._folder, self._tmp = folder, my_tmp
        in_terminal = IN_TERMINAL.format(hang_up="SIG_IGN" if nohup else "SIG_DFL")
        self.process = self.start(stdin=slave, stdout=slave, stderr=slave, argv=["-c", in_terminal])
        os.close(slave)

    def start(self, argv: list[str], **streams: Any) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
        env |= {
            "AIOS_GATEWAY_KEY": "sk-1",
            "FLOWER_SHOP_KEY": "sk-2",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(self._tmp),
        }
        command = [sys.executable, *argv, *self.argv]
        return subprocess.Popen(
            command, cwd=self._folder, env=env, start_new_session=True, text=True, **streams
        )

    def says(self, pattern: str) -> str:
        """Wait until it has said that; gives the group."""
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end:
            try:
                self.wrote += os.read(self.terminal, 65536).decode(errors="replace")
            except (BlockingIOError, OSError):
                time.sleep(0.02)
            if found := re.search(pattern, self.wrote):
                return found[1]
            if self.process.poll() is not None and time.monotonic() < end - 1:
                end = time.monotonic() + 1  # for its last words
        pytest.fail(f"`up` did not say {pattern!r}, but: {self.wrote}")

    def config(self) -> Config:
        """What the line for another terminal leads to, as a shell would read it."""
        (path,) = shlex.split(self.says(r"export AIOS_CONFIG=([^\r\n]*aios\.toml'?)"))
        return load(path, env={})

    def close(self) -> None:
        """Close the window."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1


@pytest.fixture
def my_tmp() -> Iterator[Path]:
    """With a short path, which a socket needs."""
    with tempfile.TemporaryDirectory(prefix="my tmp ", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as /tmp is to others
        yield Path(folder)


@pytest.fixture
def up(tmp_path: Path, my_tmp: Path, llm: FakeLLM) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []
    (tmp_path / "aios.toml").write_text(TOML.format(url=llm.url), encoding="utf-8")

    def start(*args: str, nohup: bool = False) -> Up:
        started.append(Up(tmp_path, my_tmp, *args, nohup=nohup))
        return started[-1]

    yield start
    for one in started:
        one.close()
        one.process.kill()  # what it started ends by itself
        one.process.wait()


def put_in_flight(config: Config, llm: FakeLLM) -> None:
    llm.script(latency=REPLY_S)
    submit_jobs(config)
    llm.wait_until(lambda: llm.in_flight == len(JOBS), WITHIN_S)


def submit_jobs(config: Config) -> None:
    asked = prompts("asked", ["one call"])
    with Fleet(config) as fleet:
        fleet.submit_many([asked.job(id=id) for id in JOBS])


def leased(config: Config) -> int:
    async def count() -> int:
        journal = Journal(config.fleet)
        counts = await journal.counts([])
        await journal.close()
        return counts["leased"]

    return asyncio.run(count())


def kill_redis(config: Config) -> None:
    with redis.Redis.from_url(config.fleet.redis_url) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)


def check_nothing_was_cut(data: Path, llm: FakeLLM | None = None) -> None:
    """Every call was answered, ``llm``'s once, and every answer is in the data that the fleet leaves."""

    async def committed(url: str) -> list[int]:
        journal = Journal(FleetConfig(redis_url=url))
        views = await journal.views(JOBS)
        await journal.close()
        return [view.outcomes for view in views if view is not None]

    with EmbeddedRedis().start(data, appendonly=True) as server:
        assert asyncio.run(committed(server.url)) == [1] * len(JOBS)
    assert llm is None or [call.status for call in llm.calls] == [200] * len(JOBS)


def test_its_redis_comes_back_a_second_one_is_refused_and_a_closed_window_cuts_nothing(
    up: Callable[..., Up], llm: FakeLLM, tmp_path: Path, my_tmp: Path
) -> None:
    first = up("--data", "data")
    config = first.config()
    for log in my_tmp.glob("aios-fleet-*/*.log"):
        log.unlink()  # as whatever tidies up /tmp does after some days
    kill_redis(config)
    first.says("(has ended by SIGKILL .*; it runs again, with its data)")

    put_in_flight(config, llm)
    second = first.start(["-m", "aios_dist.cli"], stderr=subprocess.PIPE)
    _, said = second.communicate(timeout=WITHIN_S)
    assert second.returncode == 2
    assert re.fullmatch(
        rf"aios-dist: The folder '.*/data' is in use by process {first.process.pid}: .*\n", said
    )

    first.close()
    while first.process.poll() is None:
        os.kill(first.process.pid, signal.SIGHUP)  # the shell sends it, and so does the kernel, in any order
        time.sleep(0.05)
    assert first.process.returncode == 130
    check_nothing_was_cut(tmp_path / "data", llm)
    assert not list(my_tmp.iterdir())


def test_killed_it_cuts_nothing_and_the_next_one_sweeps_what_is_left(
    up: Callable[..., Up], tmp_path: Path, my_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(my_tmp))
    killed = up("--data", "data", "--fake-llm", "--latency", str(REPLY_S))  # which is needed to the last, too
    submit_jobs(config := killed.config())
    while leased(config) < len(JOBS):
        time.sleep(0.02)
    killed.process.kill()
    killed.process.wait()
    folders.sweep()
    assert list(my_tmp.glob("aios-fleet-*"))  # its workers are still at work
    check_nothing_was_cut(tmp_path / "data")  # waits for what it left
    with LocalFleet(Config(), embedded_redis=False):
        pass
    assert not list(my_tmp.iterdir())


def test_a_redis_that_dies_while_calls_are_finished_runs_again_for_them(
    up: Callable[..., Up], llm: FakeLLM, tmp_path: Path
) -> None:
    ending = up("--data", "data")
    config = ending.config()
    put_in_flight(config, llm)
    ending.process.send_signal(signal.SIGINT)
    ending.says("(Finishing 4 steps in flight)")
    kill_redis(config)
    ending.says("(it runs again, with its data)")
    ending.close()  # it ends already: no other end is wanted
    os.kill(ending.process.pid, signal.SIGHUP)
    assert ending.process.wait(WITHIN_S) == 130
    check_nothing_was_cut(tmp_path / "data", llm)


def test_under_nohup_a_closed_window_ends_nothing_and_sigterm_does_at_any_time(
    up: Callable[..., Up], llm: FakeLLM, tmp_path: Path
) -> None:
    starting = up("--data", "other")
    starting.says("(Starting)")
    starting.process.terminate()
    assert starting.process.wait(WITHIN_S) == 0

    lasting = up("--data", "data", nohup=True)
    config = lasting.config()
    lasting.close()
    os.kill(lasting.process.pid, signal.SIGHUP)
    put_in_flight(config, llm)
    llm.wait_until(lambda: len(llm.calls) == len(JOBS), WITHIN_S)
    assert lasting.process.poll() is None
    lasting.process.terminate()
    assert lasting.process.wait(WITHIN_S) == 0
    check_nothing_was_cut(tmp_path / "data", llm)


def test_a_redis_that_kept_nothing_and_dies_is_one_sentence_and_exit_1(up: Callable[..., Up]) -> None:
    lost = up()
    kill_redis(lost.config())
    lost.says(
        r"(aios-dist: The embedded Redis has ended by SIGKILL .*, and with it all jobs: .* --data DIR\.)"
    )
    assert lost.process.wait(WITHIN_S) == 1


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_redis_that_cannot_stay_up_is_not_started_for_ever(spoilt: bool, tmp_path: Path) -> None:
    machine = LocalFleet(Config(), data=tmp_path)
    server = machine.redis
    assert server is not None
    out = Console(file=io.StringIO(), width=200)

    async def killed_whenever_it_runs() -> str:
        kept = asyncio.create_task(kept_up(out, machine))
        while not kept.done():
            if server.ended_with is None:
                if spoilt:
                    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("odd\n")
                with contextlib.suppress(RuntimeError):  # just between two
                    os.kill(server.pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        return kept.result()

    with server.start(tmp_path, appendonly=True):
        said = asyncio.run(killed_whenever_it_runs())
    if spoilt:
        assert re.fullmatch(r".* by SIGKILL .*, and does not start again: .* did not start \(.*\): .*", said)
    else:
        assert said.endswith(f"3 times within 60 s: see {str(server.log)!r}.")


def test_the_end_needs_no_redis_that_answers() -> None:
    nobody = FleetConfig(redis_url="redis://127.0.0.1:1/0")
    machine = LocalFleet(Config(fleet=nobody), embedded_redis=False)
    out = io.StringIO()
    last = end(Console(file=out, width=200), machine, lost=False)
    assert last == "Stopped; Redis does not say what is open: it cannot be reached."
    assert out.getvalue().startswith("Finishing what is in flight, at most 30 s")


STUBBORN = "trap 'touch told' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.mark.parametrize("when", ["Redis is asked", "workers end", "without a last line"])
def test_ctrl_c_once_more_ends_it_at_once(when: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = start_owned(["sh", "-c", STUBBORN], cwd=tmp_path, stdout=out)
    while "ready" not in log.read_text():
        time.sleep(0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if when == "Redis is asked" else 1
        redis_url = f"redis://127.0.0.1:{port}/0"
        machine = LocalFleet(Config(fleet=FleetConfig(redis_url=redis_url)), embedded_redis=False)
        machine.members.append(Member("stubborn", process, log, WorkerSpec("stubborn", "llm")))

        def press() -> None:
            if when == "Redis is asked":
                silent.accept()
            else:
                while not (tmp_path / "told").exists():
                    time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        if when == "without a last line":
            with pytest.raises(KeyboardInterrupt):
                machine.stop()
        else:
            end(Console(file=io.StringIO()), machine, lost=False)
        assert process.poll() == -signal.SIGKILL


def test_what_it_shows_of_the_logs_cannot_command_a_terminal() -> None:
    lines = ["2026-01-01 10:00:00,000 WARNING mine: \x1b]0;owned\x07\x1b[2J", "more \x9b2J"]
    assert important(lines) == ["mine: \ufffd]0;owned\ufffd\ufffd[2J", "more \ufffd2J"]


INTRUDER = r"""
import json, os, socket, sys, urllib.error, urllib.request
from pathlib import Path
place, llm, data, config = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
"a".encode("idna")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def tried(what):
    try:
        return what()
    except (OSError, urllib.error.URLError) as exc:
        return f"{type(exc).__name__}: {exc}"
def redis(do):
    with socket.socket(socket.AF_UNIX) as line:
        do(line)(place)
def asked(path, data=None):
    with urllib.request.urlopen(f"{llm}/{path}", data, timeout=10) as answer:
        return answer.read().decode()
print(json.dumps({
    "redis": tried(lambda: redis(lambda line: line.connect)),
    "in its place": tried(lambda: redis(lambda line: line.bind)),
    "data": tried(lambda: os.listdir(data)),
    "file": tried(lambda: (data / "server.log").read_text()),
    "config": tried(config.read_text),
    "calls": tried(lambda: asked("calls")),
    "script": tried(lambda: asked("script", b"{}")),
}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_reads_nothing_and_runs_nothing(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    """All folders above are open to all, as a home often is; the user's umask is the usual one."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.geteuid() and above != Path(above.root):
            above.chmod(above.stat().st_mode | 0o055)
    one = up("--data", "data", "--fake-llm")
    config = one.config()
    (place,) = shlex.split(one.says(r"export AIOS_CONFIG=([^\r\n]*aios\.toml'?)"))
    url = urlsplit(config.fleet.redis_url)
    assert url.scheme == "unix"
    with Fleet(config) as fleet:
        fleet.submit(prompts("secret", ["the prompt of the owner"]).job()).result(timeout=WITHIN_S)
    llm = one.says(r"a fake LLM at (http://\S+?)/v1")
    assert b"the prompt of the owner" in b"".join(
        file.read_bytes() for file in (tmp_path / "data").rglob("*.aof")
    )
    done = subprocess.run(
        [sys.executable, "-c", INTRUDER, unquote(url.path), llm, str(tmp_path / "data"), place],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("calls", "script"):
        assert "401" in found.pop(name)
    assert set(found) == {"redis", "in its place", "data", "file", "config"}
    assert all(said.startswith("PermissionError") for said in found.values()), found
