"""Real ``celery -A workers.POOL …`` processes on a configuration of a test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aios_dist.broker.app import make_app
from aios_dist.config import Config
from aios_dist.local.config_file import write_config
from aios_dist.local.owned_process import start_owned
from tests.fleet.reading import wait_for

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
POOLS = """
import sys
from aios_dist.runtime import worker_app
app = worker_app("{pool}")
"""

BESIDE = """
import json, os, sys
import celery.__main__, celery.bin.worker, aios_dist.worker.app
for number, words in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        for stream in (1, 2):
            os.dup2(os.open(f"{number}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
        sys.argv[:] = sys.orig_argv[:] = ["celery", *words]
        sys.exit(celery.__main__.main())
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
"""``celery WORDS`` of several, each in a process of its own, forked from one that has imported Celery."""


class Celery:
    """The command line of Celery, for the pools of one configuration."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        write_config(config, folder / "aios.toml")
        for pool in config.pools:
            (folder / f"{pool}_app.py").write_text(POOLS.format(pool=pool), encoding="utf-8")

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIOS_", "CELERY_"))}
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        return {**clean, "AIOS_CONFIG": str(self.folder / "aios.toml"), "PYTHONPATH": path, **more}

    def worker(self, pool: str, name: str, *options: str, **env: str) -> Worker:
        """``celery -A … worker -n NAME@…``, from its first line on."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = start_owned(
                [sys.executable, "-m", "celery", "-A", f"{pool}_app", "worker", "-n", f"{name}@here",
                 "-l", "info", *options],
                env=self._env(env),
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        return Worker(pool, f"{name}@here", process, log)

    def run(self, pool: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """``celery -A … WORDS``, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", f"{pool}_app", *words],
            env=self._env(env),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def each(self, pool: str, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
        """``celery -A … WORDS`` of several, to their ends, one behind the other."""
        if os.environ.get("AIOS_TEST_REAL_STARTS"):
            return [self.run(pool, *words) for words in commands]
        given = json.dumps([["-A", f"{pool}_app", *words] for words in commands])
        done = subprocess.run(
            [sys.executable, "-c", BESIDE, given],
            env=self._env({}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=2 * WITHIN_S,
            check=True,
        )

        def wrote(number: int, stream: int) -> str:
            return (self.folder / f"{number}.{stream}").read_text("utf-8")

        return [
            subprocess.CompletedProcess(words, int(code), wrote(number, 1), wrote(number, 2))
            for number, (words, code) in enumerate(zip(commands, done.stdout.split(), strict=True))
        ]

    def control(self, worker: Worker, *words: str) -> tuple[str, str]:
        """``celery control``: ``ok`` or ``error``, and the sentence."""
        done = self.run(worker.pool, "control", "-j", "-t", "30", "-d", worker.name, *words)
        assert done.stdout, done.stderr
        ((kind, said),) = json.loads(done.stdout.splitlines()[-1])[0][worker.name].items()
        return kind, said

    def ask(self, worker: Worker, command: str, **arguments: Any) -> tuple[str, str]:
        """The same from a program."""
        app = make_app(self.config)
        try:
            (answer,) = app.control.broadcast(
                command, arguments=arguments, destination=[worker.name], reply=True, timeout=WITHIN_S
            )
        finally:
            app.close()
        ((kind, said),) = answer[worker.name].items()
        return kind, said


class Worker:
    """A process and all that it wrote."""

    def __init__(self, pool: str, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pool = pool
        self.name = name
        self.process = process
        self._log = log

    @property
    def wrote(self) -> str:
        """Until now."""
        return self._log.read_text("utf-8", errors="replace")

    def is_ready(self) -> bool:
        """It takes tickets from now on."""
        assert self.process.poll() is None, self.wrote
        return f"{self.name} ready." in self.wrote

    def ready(self) -> Worker:
        """Wait for it."""
        wait_for(self.is_ready, WITHIN_S)
        return self

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def ended(self, within_s: float = WITHIN_S) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(within_s)

    def stop(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.wait()


__all__ = ["Celery", "Worker"]
