"""The processes of a fleet on one machine: how each kind is started, and by which sign it is ready."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aios_dist.errors import ConfigError
from aios_dist.local.owned_process import After, start_owned

LAST_LINES = 12
SETTINGS = ("AIOS_CONFIG", "AIOS_FLEET", "AIOS_REDIS_URL")
"""What a configuration file stands in the place of."""
COMMAND = ("-m", "aios_dist.cli")
"""Workers and Flower are started as a user would: by ``aios-dist worker``, ``aios-dist flower``."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker process: its name in Flower and in logs, its pool, its slots (None: the pool's own number)."""

    name: str
    pool: str
    slots: int | None = None


@dataclass
class Member:
    """A process of the fleet and the file with all that it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    spec: WorkerSpec | None = None

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """The process is gone."""
        return self.process.poll() is not None

    def wrote(self, pattern: str) -> str | None:
        """The group of the first line that the pattern matches, once there is one."""
        found = re.search(pattern, self.log.read_text("utf-8", errors="replace"), re.MULTILINE)
        return found[1] if found else None

    @property
    def is_ready(self) -> bool:
        """A worker has said that it takes tickets from now on."""
        return self.wrote(rf"^({re.escape(self.name)}@\S+) is ready") is not None

    def last_words(self) -> str:
        """The last lines of its log, for an error message."""
        lines = [line for line in self.log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-LAST_LINES:]) or "(it wrote nothing)"

    def check(self) -> None:
        """It still runs.

        Raises:
            ConfigError: it has ended, with its last words; a sentence of ours comes without the rest.
        """
        if not self.ended:
            return
        words = self.last_words()
        ours = re.findall(r"^aios-dist: (.*)$", words, re.MULTILINE)
        if ours:
            raise ConfigError(ours[-1])
        raise ConfigError(f"{self.name} ended with exit code {self.process.returncode}:\n{words}")

    def kill(self) -> None:
        """SIGKILL, as a crash; returns when the process is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self, grace_s: float) -> bool:
        """After a SIGTERM: wait for the end, SIGKILL after ``grace_s``; True if it ended by itself."""
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True


@dataclass
class Launch:
    """Starts members: where their logs go, what their environment is, and where they look for modules.

    Where we are killed, workers end as told by SIGTERM, and what they need when they have ended.

    Attributes:
        keep: descriptors that all of them have (see ``start_owned``).
        at_work: one that workers alone have: the end of a pipe.
        after: what awaits the workers' end: that of the other end of the pipe.
        grace_s: seconds that workers have to end in.
    """

    dir: Path
    env: Mapping[str, str]
    cwd: Path | None = None
    count: int = field(default=0)
    keep: Sequence[int] = ()
    at_work: int | None = None
    after: After | None = None
    grace_s: float = 5.0

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        keep: Sequence[int] = (),
        after: After | None = None,
        grace_s: float = 5.0,
        **env: str,
    ) -> Member:
        """Start ``python argv…``; ends when we end, however we end: see ``start_owned``."""
        self.count += 1
        log = self.dir / f"{self.count}-{name}.log"
        with log.open("wb") as out:
            process = start_owned(
                [sys.executable, "-P", *argv],  # else `-m` looks in the current folder first
                env={**self.env, **env},
                cwd=self.cwd,
                stdout=out,
                stderr=subprocess.STDOUT,
                grace_s=grace_s,
                keep=[*self.keep, *keep],
                after=after,
            )
        return Member(name, process, log)

    def worker(self, spec: WorkerSpec) -> Member:
        """A worker; ready when it has said so."""
        slots = ["--slots", str(spec.slots)] if spec.slots else []
        member = self.start(
            spec.name,
            [*COMMAND, "worker", spec.pool, "--name", f"{spec.name}@%h", *slots],
            keep=[] if self.at_work is None else [self.at_work],
            grace_s=self.grace_s,
        )
        member.spec = spec
        return member

    def fake_llm(self, latency: str, key: str) -> Member:
        """The fake LLM; ready when it has written its address. It shows prompts to who knows the key only."""
        argv = ["-m", "aios_dist.testing", "--port", "0", "--latency", latency]
        return self.start("fake-llm", argv, after=self.after, AIOS_FAKE_LLM_KEY=key)

    def flower(self, port: int, login: str) -> Member:
        """Flower; ready when it has written its address. The login is no argument: all users see those."""
        return self.start("flower", [*COMMAND, "flower", "--port", str(port)], FLOWER_BASIC_AUTH=login)


def environment(
    config: Path, named: Collection[str | None] = (), modules: Path | None = None
) -> dict[str, str]:
    """Ours, with the configuration file in the place of all other settings of a fleet.

    Args:
        config: the file.
        named: variables that the configuration names: those go along also where they look like Flower's.
        modules: a folder where modules are to be looked for, whosever it is.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in SETTINGS and (name in named or not name.startswith("FLOWER_"))
    }
    if modules is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(modules), env.get("PYTHONPATH"))))
    # Whatever the terminal's encoding is: we read what they write.
    return {**env, "AIOS_CONFIG": str(config), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
