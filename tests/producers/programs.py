"""The kinds of programs that jobs are submitted from, each as the real thing, in processes of its own.

Each does its jobs in two halves; between the two all wait for each other, and Redis is killed in the second.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from jupyter_client import KernelManager

ROOT = Path(__file__).parents[2]
START_S = 90.0
REQUEST_S = 300.0
"""For what one program does of a thousand jobs on a busy machine."""
AT_ONCE = 8

Tally = Counter[str]


@dataclass
class Scene:
    """Where the programs run.

    Attributes:
        dir: for sockets and logs.
        env: with ``AIOS_CONFIG`` and ``PRODUCERS_CELERY``; not changed, as the programs start beside each
            other.
        celery: a Redis that is not the fleet's and stays.
        jobs: of each program.
        half: call it between the halves.
    """

    dir: Path
    env: Mapping[str, str]
    celery: str
    jobs: int
    half: Callable[[], None]


@contextlib.contextmanager
def process(scene: Scene, name: str, *command: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, which ends with it."""
    log = (scene.dir / f"{name}.log").open("ab")
    with log:
        made = subprocess.Popen(
            [sys.executable, "-m", *command]
            if command[0] != "uwsgi"
            else [_beside_python("uwsgi"), *command[1:]],
            cwd=ROOT,
            env=scene.env,
            stderr=log,
            text=True,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": log, **more},
        )
        try:
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGTERM)
            try:
                made.wait(10)
            except subprocess.TimeoutExpired:
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)
            made.wait()


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


class _Line(http.client.HTTPConnection):
    """HTTP over a Unix socket: nobody needs a port."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=REQUEST_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(path: Path, url: str) -> str:
    """The body of an answer."""
    line = _Line(path)
    try:
        line.request("GET", url)
        answer = line.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"HTTP {answer.status}")
        return body
    finally:
        line.close()


def served(path: Path, site: subprocess.Popen[str]) -> None:
    """Return when the site takes connections."""
    end = time.monotonic() + START_S
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(path))
            return
        except OSError:
            if site.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


def site(name: str, *command: str) -> Callable[[Scene], Tally]:
    """A web server whose first requests come all at once; ``SOCKET`` in the command is where it listens."""

    def run(scene: Scene) -> Tally:
        path = scene.dir / f"{name}.sock"
        with process(scene, name, *(word.replace("SOCKET", str(path)) for word in command)) as server:
            served(path, server)
            tally = Tally()
            with ThreadPoolExecutor(AT_ONCE) as threads:
                for half in (1, 2):
                    urls = [
                        f"/{which}/{name}-{half}-{which}-{n}/{-(-scene.jobs // (2 * AT_ONCE))}"
                        for n in range(AT_ONCE // 2)
                        for which in ("before", "after")
                    ]
                    for body in threads.map(lambda url: _counted(path, url), urls):
                        tally.update(body)
                    if half == 1:
                        scene.half()
            return tally

    return run


def _counted(path: Path, url: str) -> Tally:
    try:
        return Tally(json.loads(get(path, url)))
    except Exception as error:
        return Tally([f"request: {type(error).__name__}: {error}"])


def celery_prefork(scene: Scene) -> Tally:
    """Tasks of Celery's prefork pool."""
    words = ("-A", "tests.producers.celery_app", "worker", "-P", "prefork", "-c", "2", "-l", "WARNING")
    with process(scene, "celery", "celery", *words):
        app = Celery("asks", broker=scene.celery, backend=scene.celery, set_as_current=False)
        tally = Tally()
        for half in (1, 2):
            tasks = [
                app.send_task("part", (which, f"celery-{half}-{which}-{n}", -(-scene.jobs // 8)))
                for n in range(2)
                for which in ("before", "after")
            ]
            for sent in tasks:
                tally.update(sent.get(timeout=REQUEST_S))
            if half == 1:
                scene.half()
        app.close()
        return tally


def pool_of(method: str) -> Callable[[Scene], Tally]:
    """A multiprocessing pool of that start method, and its parent."""

    def run(scene: Scene) -> Tally:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with process(scene, method, "tests.producers.pools", method, **pipes) as pool:
            assert pool.stdin is not None
            assert pool.stdout is not None
            tally = Tally()
            for half in (1, 2):
                pool.stdin.write(f"{method}-{half} {-(-scene.jobs // 6)}\n")
                pool.stdin.flush()
                tally.update(json.loads(pool.stdout.readline() or '{"ended": 1}'))
                if half == 1:
                    scene.half()
            pool.stdin.close()
            if (code := pool.wait(30)) != 0:
                tally[f"ended with {code}"] += 1
            pool.stdout.close()
            return tally

    return run


def notebook(scene: Scene) -> Tally:
    """A kernel: the fleet without asyncio in one cell, the other awaited at the top level of the next."""
    kernel = KernelManager(kernel_name="python3", transport="ipc", ip=str(scene.dir / "kernel"))
    with (scene.dir / "notebook.log").open("ab") as log:
        kernel.start_kernel(cwd=str(ROOT), env=scene.env, stdout=log, stderr=log)
    client = kernel.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=START_S)

        def cell(code: str) -> str:
            said: list[str] = []

            def hear(message: dict[str, Any]) -> None:
                content = message["content"]
                said.append(content.get("text") or "\n".join(content.get("traceback", ())))

            client.execute_interactive(code, output_hook=hear, timeout=REQUEST_S)
            return "".join(said)

        cell(
            "import json\nfrom aios_dist import AsyncFleet\nfrom tests.producers.work import *\n"
            "one = fleet_of('before')\nother = AsyncFleet.from_env()"
        )
        tally = Tally()
        for half in (1, 2):
            count = -(-scene.jobs // 4)
            for code in (
                f"print(json.dumps(part(one, 'notebook-{half}', {count})))",
                f"print(json.dumps(await part_async(other, 'notebook-{half}-async', {count})))",
            ):
                text = cell(code)
                found = re.search(r"^\{.*\}$", text, re.MULTILINE)
                tally.update(json.loads(found[0]) if found else [text[-300:]])
            if half == 1:
                scene.half()
        return tally
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


PROGRAMS: dict[str, Callable[[Scene], Tally]] = {
    "gunicorn-sync": site(
        *("sync", "gunicorn", "--preload", "-w", "2", "--timeout", "300", "-b", "unix:SOCKET"),
        "tests.producers.site_app:app",
    ),
    "gunicorn-gthread": site(
        *(
            "threads",
            "gunicorn",
            "--preload",
            "-w",
            "1",
            "--threads",
            "8",
            "--timeout",
            "100",
            "-b",
            "unix:SOCKET",
        ),
        "tests.producers.site_app:app",
    ),
    "gunicorn-gevent": site(
        *(
            "gevent",
            "gunicorn",
            "--preload",
            "-k",
            "gevent",
            "-w",
            "2",
            "--timeout",
            "100",
            "-b",
            "unix:SOCKET",
        ),
        "tests.producers.site_app:app",
    ),
    "uwsgi-threads": site(
        *("uwsgi", "uwsgi", "--http-socket", "SOCKET", "--master", "--die-on-term", "--enable-threads"),
        *("--processes", "2", "--threads", "4", "--home", sys.prefix, "--pythonpath", str(ROOT)),
        *("--need-app", "--wsgi", "tests.producers.site_app:app"),
    ),
    "uvicorn-uvloop": site(
        "uvicorn", "uvicorn", "--loop", "uvloop", "--uds", "SOCKET", "tests.producers.site_app:asgi"
    ),
    "celery-prefork": celery_prefork,
    "multiprocessing-fork": pool_of("fork"),
    "multiprocessing-spawn": pool_of("spawn"),
    "notebook": notebook,
}


def meeting(parties: int, then: Callable[[], None]) -> Callable[[], None]:
    """Where the programs wait for each other; the last to come does ``then``."""
    barrier = threading.Barrier(parties, then)

    def meet() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(REQUEST_S)

    return meet
