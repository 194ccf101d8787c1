"""The embedded Redis: it starts, it comes back, and it never outlives us."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import pytest
import redis

from aios_dist.errors import ConfigError
from aios_dist.local import folders
from aios_dist.local import redis_server as module
from aios_dist.local.owned_process import NOT_STARTED, start_owned
from aios_dist.local.redis_server import EmbeddedRedis, find_server

DEADLINE_S = 10.0

pytestmark = pytest.mark.redis

needs_pidfd = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="waits for strangers' ends by pidfd (Linux)"
)


@pytest.fixture(params=["redis", "valkey"])
def binary(request: pytest.FixtureRequest) -> Path:
    kind: Literal["redis", "valkey"] = request.param
    try:
        return find_server(kind)
    except ConfigError as error:
        if os.environ.get("CI") == "true" and kind == "valkey":  # a dependency of ours: it must be there
            pytest.fail(str(error))
        pytest.skip(str(error))


def client_of(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=5, decode_responses=True)


def wait_for_end(pid: int) -> None:
    """Return when the process, which need not be our child, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([handle], [], [], DEADLINE_S)
    finally:
        os.close(handle)
    assert ended, f"process {pid} still runs"


def run_owner(left_behind: Path, program: str, *args: str | Path) -> subprocess.Popen[str]:
    """Another Python, with this checkout on its path, that owns what it starts; it may leave files."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(left_behind)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_from(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


# -- start, stop ---------------------------------------------------------------------------------


def test_it_answers_on_loopback_only_and_never_evicts(binary: Path) -> None:
    with EmbeddedRedis(binary) as server, client_of(server) as client:
        settings = client.config_get("bind", "maxmemory-policy", "save", "appendonly")
        assert settings == {
            "bind": "127.0.0.1",
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
        }
        assert client.info("server")["process_id"] == server.pid
        assert server.kind.split()[0] == binary.name.removesuffix("-server")


def test_stop_ends_the_process_and_removes_its_temporary_directory(binary: Path) -> None:
    server = EmbeddedRedis(binary).start()
    pid, data = server.pid, server.log.parent
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not data.exists()


def test_a_directory_of_the_callers_stays(binary: Path, tmp_path: Path) -> None:
    with EmbeddedRedis(binary).start(dir=tmp_path / "data", appendonly=True):
        pass
    assert (tmp_path / "data" / "appendonlydir").is_dir()


def test_the_servers_own_settings_can_be_given() -> None:
    with EmbeddedRedis(settings={"maxmemory-policy": "allkeys-lru"}) as server, client_of(server) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


# -- faults --------------------------------------------------------------------------------------


def test_with_the_append_only_file_the_data_comes_back_after_a_kill(binary: Path) -> None:
    settings = {"appendfsync": "always"}
    with EmbeddedRedis(binary, settings).start(appendonly=True) as server, client_of(server) as client:
        client.set("kept", "yes")
        before = server.pid, server.port
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart()
        assert (server.pid != before[0], server.port) == (True, before[1])
        assert client.get("kept") == "yes"


def test_without_the_append_only_file_it_comes_back_empty() -> None:
    with EmbeddedRedis() as server, client_of(server) as client:
        client.set("kept", "no")
        server.restart()
        assert client.dbsize() == 0


def test_a_killed_server_says_that_it_does_not_run() -> None:
    with EmbeddedRedis() as server:
        server.kill()
        with pytest.raises(RuntimeError, match="does not run"):
            _ = server.pid


# -- ports ---------------------------------------------------------------------------------------


def test_a_taken_port_is_a_clear_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} on 127.0.0.1 is taken"):
            EmbeddedRedis().start(port=port)


def test_a_port_lost_between_the_look_and_the_start_is_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_is_free", lambda port: True)
    with EmbeddedRedis() as first:
        ports = [first.port, *range(first.port + 1, first.port + 20)]
        monkeypatch.setattr(random, "sample", lambda population, k: ports)
        with EmbeddedRedis() as second, client_of(second) as client:
            assert second.port > first.port
            assert client.info("server")["process_id"] == second.pid


# -- which server --------------------------------------------------------------------------------


def test_the_environment_can_name_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "some-server"
    program.write_text("#!/bin/sh\necho not today\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv(module.SERVER_ENV, str(program))
    assert find_server() == program
    with pytest.raises(ConfigError, match=r"did not start \(exit code 3\): not today"):
        EmbeddedRedis().start()


def test_a_named_server_that_is_not_there_is_a_clear_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.SERVER_ENV, "/nowhere/redis-server")
    with pytest.raises(ConfigError, match="AIOS_REDIS_SERVER='/nowhere/redis-server' is not a program"):
        find_server()


def test_an_installed_server_comes_before_the_packaged_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(module.SERVER_ENV, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_packaged_valkey", lambda: Path("/packaged"))
    assert find_server() == Path("/packaged")
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).touch(mode=0o755)
        assert find_server() == tmp_path / name


def test_without_any_server_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(module.SERVER_ENV, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_packaged_valkey", lambda: None)
    with pytest.raises(ConfigError, match=r"install redis-server or valkey-server, or .*AIOS_REDIS_URL"):
        EmbeddedRedis().start()


# -- its folder ----------------------------------------------------------------------------------


def test_a_second_server_on_a_folder_is_refused_with_the_owners_pid(binary: Path, tmp_path: Path) -> None:
    with EmbeddedRedis(binary).start(tmp_path, appendonly=True) as first, client_of(first) as client:
        client.set("kept", "yes")
        first.restart()  # the same owner: the folder is still its own
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()}: two servers on one"):
            EmbeddedRedis(binary).start(tmp_path, appendonly=True)
    with EmbeddedRedis(binary).start(tmp_path, appendonly=True) as next_one, client_of(next_one) as client:
        assert client.get("kept") == "yes"


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/below", "\0", "x" * 5000):
        with pytest.raises(ConfigError, match=r"^The folder '.*' cannot be used: .*\.$"):
            EmbeddedRedis().start(tmp_path / name)


AS_ANOTHER_USER = """
import os, sys
from aios_dist.errors import ConfigError
from aios_dist.local import folders
if os.geteuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    try:
        folders.take(name)
    except ConfigError as exc:
        print(exc)
"""


def test_a_folder_or_lock_of_another_user_is_one_sentence(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as ours:  # not in a folder that is all closed
        folder = Path(ours)
        (folder / folders.LOCK).touch(mode=0o000)
        folder.chmod(0o755)
        (folder / "below").mkdir(mode=0o555)
        names = [ours, f"{ours}/below", f"{ours}/below/new"]
        with run_owner(tmp_path, AS_ANOTHER_USER, *names) as run:
            said, _ = run.communicate(timeout=DEADLINE_S)
    assert said.splitlines() == [f"The folder {name!r} cannot be used: Permission denied." for name in names]


DYING = """
import os, sys
from pathlib import Path
from aios_dist.local.owned_process import After, start_owned
from aios_dist.local.redis_server import EmbeddedRedis

last_words = '''
import signal, sys, time, redis
def end(*_):
    time.sleep(0.5)
    redis.Redis(port=int(sys.argv[1])).set("last", "words")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
'''
ended, at_work = os.pipe()
server = EmbeddedRedis().start(sys.argv[1], appendonly=True, after=After(ended, 30.0))
user = start_owned([sys.executable, "-c", last_words, str(server.port)], keep=[at_work], grace_s=30.0)
sys.stdin.read()
"""


def test_what_needs_the_server_ends_first_and_the_folder_is_its_own_until_then(tmp_path: Path) -> None:
    with run_owner(tmp_path, DYING, tmp_path / "data") as owner:
        assert line_from(owner) == ["ready"]
        owner.kill()
        owner.wait(DEADLINE_S)
        # Its owner is dead, so the folder is waited for.
        with EmbeddedRedis().start(tmp_path / "data", appendonly=True) as server, client_of(server) as client:
            assert client.get("last") == "words"


@pytest.mark.parametrize("note", ["server", "none", "odd"])
def test_a_folder_whose_dead_owner_left_something_running_is_refused(
    note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LEFT_S", 0.2)
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock = os.open(tmp_path / folders.LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    owner = "9" * 30 if note == "odd" else str(dead.pid)
    os.write(lock, f"{owner}\n{'77' if note == 'server' else ''}\n".encode())
    said = "its server, process 77, has" if note == "server" else "what it started, has"
    with pytest.raises(ConfigError, match=f"its owner is gone, but {said}"):
        EmbeddedRedis().start(tmp_path)
    os.close(lock)
    with EmbeddedRedis().start(tmp_path):
        pass


def test_temporary_folders_of_the_dead_are_swept_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for folder in ("aios-fleet-dead", "aios-redis-dead", "aios-fleet-new", "aios-fleet-other", "unrelated"):
        (temporary / folder).mkdir(parents=True)
        (temporary / folder / folders.LOCK).write_text("" if folder == "aios-fleet-new" else "1\n")
    (temporary / "aios-fleet-other" / folders.LOCK).unlink()
    elsewhere.mkdir()
    (elsewhere / folders.LOCK).write_text("1\n")
    (temporary / "aios-fleet-link").symlink_to(elsewhere)
    with EmbeddedRedis() as server:
        living = server.log.parent.name
        folders.sweep()
        left = {path.name for path in temporary.iterdir()}
    assert left == {living, "aios-fleet-new", "aios-fleet-other", "aios-fleet-link", "unrelated"}
    assert (elsewhere / folders.LOCK).exists()


# -- it dies with us -----------------------------------------------------------------------------

OWNER = """
import os, resource, sys, threading
from pathlib import Path
from aios_dist.local.redis_server import EmbeddedRedis

if sys.argv[2] == "files":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files = [open(os.devnull) for _ in range(1100)]  # more than select() knows
server = EmbeddedRedis(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
forked = 0
if sys.argv[2] == "fork":
    forked = os.fork()
    if forked == 0:
        threading.Event().wait()  # outlives its parent, with copies of all its descriptors
print(server.pid, server.port, forked, flush=True)
sys.stdin.read()
"""


@needs_pidfd
@pytest.mark.parametrize("also", ["nothing", "fork", "files"])
def test_it_dies_with_its_owner_even_when_that_is_killed(binary: Path, also: str, tmp_path: Path) -> None:
    with run_owner(tmp_path, OWNER, binary, also) as owner:
        pid, port, forked = map(int, line_from(owner))
        try:
            # The thread that started it has ended: the parent-death signal alone would have killed it by now.
            assert redis.Redis(port=port, socket_timeout=5).ping()
            owner.kill()
            owner.wait(DEADLINE_S)
            wait_for_end(pid)
        finally:
            owner.kill()
            if forked:
                os.kill(forked, signal.SIGKILL)


@needs_pidfd
def test_it_dies_with_an_owner_that_forgot_to_stop_it(binary: Path, tmp_path: Path) -> None:
    with run_owner(tmp_path, OWNER, binary, "nothing") as owner:
        pid, _, _ = map(int, line_from(owner))
        owner.communicate(timeout=DEADLINE_S)
        assert owner.returncode == 0
        wait_for_end(pid)


@needs_pidfd
def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    program = """
import sys
from aios_dist.local.owned_process import start_owned
child = start_owned(["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 60 & wait; done"], grace_s=0.1)
sys.stdin.read()
"""
    with run_owner(tmp_path, program) as owner:
        (pid,) = map(int, line_from(owner))
        owner.kill()
        wait_for_end(pid)


def test_on_a_socket_it_has_no_port_also_when_it_is_started_again(tmp_path: Path, binary: Path) -> None:
    place = tmp_path / "a b%.sock"
    with EmbeddedRedis(binary).start(tmp_path / "data", appendonly=True, socket_path=place) as server:
        for _ in range(2):
            with client_of(server) as client:
                assert client.config_get("port") == {"port": "0"}
                client.incr("starts")
            assert place.stat().st_mode & 0o777 == 0o700
            server.kill()
            server.restart()
        assert server.url == f"unix://{tmp_path}/a%20b%25.sock"
        assert client_of(server).get("starts") == "2"


def test_a_path_that_is_too_long_for_a_socket_is_a_clear_refusal(tmp_path: Path) -> None:
    place = tmp_path / ("x" * module.LONGEST_SOCKET)
    with pytest.raises(ConfigError, match=r"longer than 103 bytes: set TMPDIR to a folder with a shorter"):
        EmbeddedRedis().start(socket_path=place)


def test_a_folder_of_data_is_closed_to_all_others(tmp_path: Path, binary: Path) -> None:
    older = tmp_path / "older"
    (older / "appendonlydir").mkdir(parents=True)
    older.chmod(0o755)
    for folder in (tmp_path / "new" / "below", older):
        with EmbeddedRedis(binary).start(folder, appendonly=True):
            assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_look_into_and_that_is_not_ours_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    tmp_path.chmod(0o711)
    with pytest.raises(ConfigError, match=r"there is more in it \('photos'\): take a folder of its own"):
        folders.take(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o711
    tmp_path.chmod(0o700)
    folders.take(tmp_path).release(remove=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(0o700)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to another user"):
        folders.take(theirs)


@pytest.mark.parametrize("what", ["link", "hard link", "of another user", "below"])
def test_nothing_that_others_have_put_into_a_folder_is_written_through_or_served(
    tmp_path: Path, what: str
) -> None:
    precious, data = tmp_path / "precious", tmp_path / "data"
    precious.write_text("of mine")
    (data / "appendonlydir").mkdir(parents=True)
    if what == "link":
        (data / folders.LOCK).symlink_to(precious)
    elif what == "hard link":
        (data / folders.LOCK).hardlink_to(precious)
    elif os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    else:
        planted = data / "appendonlydir" / ("x.aof" if what == "below" else "")
        planted.touch()
        os.chown(planted, 65534, 65534)
    for mode in (0o777, 0o700):  # closed by hand it is no better
        data.chmod(mode)
        with pytest.raises(ConfigError, match=r"is a link|belongs to another user \(uid 65534\)"):
            folders.take(data)
    assert precious.read_text() == "of mine"


def test_an_owned_program_sees_no_ctrl_c_of_ours_and_has_its_own_pid_and_exit_code() -> None:
    process = start_owned(["sh", "-c", "echo $$; exit 7"], stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert (int(output), process.returncode) == (process.pid, 7)
    process = start_owned(["sleep", "60"])
    try:
        assert os.getpgid(process.pid) != os.getpgrp()
    finally:
        process.kill()
        process.wait()


def test_the_output_of_an_owned_program_ends_with_the_program() -> None:
    process = start_owned(["echo", "done"], stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=DEADLINE_S)  # the end of the output: the watcher holds no copy
    assert output == b"done\n"


def test_a_program_that_cannot_be_executed_says_why() -> None:
    process = start_owned(["/nowhere/program"], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (NOT_STARTED, b"/nowhere/program: No such file or directory\n")
