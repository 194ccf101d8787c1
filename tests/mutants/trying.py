"""Trying mutants: each in a copy of the checkout, so nothing here is touched, in a process of its own.

Starting Python, pytest and what the tests import would take longer than most of the tests. So that is loaded
once, here, and each try is a fork; of ours nothing is, since that is what changes.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutants.entries import ROOT, Mutant

COPIED = ("aios_dist", "tests", "workers", "examples", "docs", "deploy", "benchmarks")
LOADED = (
    "asyncio",
    "aiohttp",
    "celery",
    "click",
    "hypothesis",
    "kombu",
    "msgspec",
    "pytest_asyncio",
    "redis",
)
MOST_S = 180.0
"""For the tests of one mutant; then it counts as noticed: something hangs."""


class Tried(NamedTuple):
    """What became of one.

    Attributes:
        by: the test that noticed it; "" where none did.
        fault: why it could not be tried.
    """

    mutant: Mutant
    by: str = ""
    fault: str = ""
    seconds: float = 0.0

    @property
    def noticed(self) -> bool:
        """Whether a test failed."""
        return bool(self.by)

    @property
    def wrong(self) -> str:
        """In a sentence; empty where all is as it should be."""
        if self.fault:
            return self.fault
        if self.noticed and self.mutant.survives:
            return f"is said to survive, and {self.by} notices it"
        if not self.noticed and not self.mutant.survives:
            return f"none of its tests notices it: {', '.join(self.mutant.tests)}"
        return ""

    @property
    def line(self) -> str:
        """For people."""
        word = "WRONG" if self.wrong else "noticed" if self.noticed else "lives"
        return f"{word:8}{self.seconds:5.1f} s {self.mutant}"


class _Job(NamedTuple):
    """Tests to run in a copy, with a mutant or without any."""

    tests: Sequence[str]
    mutant: Mutant | None = None


class _Failed:
    """A plugin of pytest: the tests that failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.names.append(report.nodeid or "the collection")


def _child(copy: Path, job: _Job, answer: Path) -> None:
    """Run the tests of a copy in this process, and leave behind which failed; never returns."""
    os.setsid()
    said = os.open(f"{answer}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(copy)
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(place for place in sys.path if place not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("aios_dist", "tests", "workers")]:
        del sys.modules[name]
    failed, how = _Failed(), ["-x"] if job.mutant is not None else []
    code = pytest.main([*how, "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *job.tests], plugins=[failed])
    answer.write_text(json.dumps([int(code), failed.names]))
    sys.stdout.flush()
    os._exit(0)


class _Run:
    """One run of tests in a copy, in a child."""

    def __init__(self, copy: Path, job: _Job) -> None:
        self.copy, self._job = copy, job
        self._answer = copy.with_suffix(".answer")
        self._answer.unlink(missing_ok=True)
        self._begun = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _child(copy, job, self._answer)
            finally:
                os._exit(1)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def over(self) -> bool:
        """Whether it has ended; what it leaves running is ended with it."""
        done, _ = os.waitpid(self.pid, os.WNOHANG)
        if not done and (self._job.mutant is None or self.seconds < MOST_S):
            return False
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if not done:
            os.waitpid(self.pid, 0)
        return True

    def outcome(self) -> tuple[list[str], str]:
        """The tests that failed, and why nothing can be said of them."""
        if not self._answer.is_file():
            return ["the run: it did not come to its end"], ""
        code, failed = json.loads(self._answer.read_text())
        if failed or code == pytest.ExitCode.OK:
            return failed, ""
        said = (self._answer.with_name(f"{self._answer.name}.log").read_text().strip().splitlines() or [""])[
            -1
        ]
        return [], f"its tests cannot be run: {said}"


def _copy_to(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, folder)
    # The history is the checkout's: some tests run the release before beside this one.
    asked = subprocess.run(
        ["git", "rev-parse", "--absolute-git-dir"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if asked.returncode == 0:
        (folder / ".git").write_text(f"gitdir: {asked.stdout}", encoding="utf-8")


def _in_turn(jobs: Sequence[_Job], copies: Sequence[Path]) -> Iterator[tuple[_Job, list[str], str, float]]:
    """Run them, one in each copy at a time: each with the tests that failed, a fault, and its seconds."""
    waiting, free, running = list(jobs), list(copies), dict[_Run, _Job]()
    try:
        while waiting or running:
            while waiting and free:
                job, copy = waiting.pop(0), free.pop()
                _change(copy, job.mutant, there=True)
                running[_Run(copy, job)] = job
            time.sleep(0.02)
            for run in [run for run in running if run.over()]:
                job = running.pop(run)
                _change(run.copy, job.mutant, there=False)
                free.append(run.copy)
                yield job, *run.outcome(), run.seconds
    finally:
        for run in running:
            os.killpg(run.pid, signal.SIGKILL)


def _change(copy: Path, mutant: Mutant | None, *, there: bool) -> None:
    """Put a mutant into a copy, or take it out."""
    if mutant is not None:
        path = copy / "aios_dist" / mutant.file
        text = (ROOT / "aios_dist" / mutant.file).read_text(encoding="utf-8")
        path.write_text(text.replace(mutant.old, mutant.new) if there else text, encoding="utf-8")


def try_all(mutants: Sequence[Mutant], processes: int) -> Iterator[Tried]:
    """All of them, some at a time; first their tests without any, which then must pass."""
    for name in LOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Path(folder, str(number)) for number in range(processes)]
        for copy in copies:
            copy.mkdir()
            _copy_to(copy)
        faults = {mutant.number: mutant.fault() for mutant in mutants}
        tests = sorted({test for m in mutants if not faults[m.number] for test in m.tests})
        for _, failed, fault, _ in _in_turn(
            [_Job(tests[n::processes]) for n in range(processes) if tests[n:]], copies
        ):
            names = [name.partition("[")[0] for name in failed]
            for mutant in mutants:
                own = [
                    name for name in names if name in mutant.tests or name.partition("::")[0] in mutant.tests
                ]
                if fault or own:
                    faults[mutant.number] = (
                        faults[mutant.number] or fault or f"without it, too, {own[0]} fails"
                    )
        yield from (Tried(m, fault=faults[m.number]) for m in mutants if faults[m.number])
        sound = [mutant for mutant in mutants if not faults[mutant.number]]
        for job, failed, fault, seconds in _in_turn([_Job(m.tests, m) for m in sound], copies):
            assert job.mutant is not None
            yield Tried(job.mutant, next(iter(failed), ""), fault, seconds)
