"""Machines of a network of our own: namespaces on a bridge, whose links a test may cut."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from aios_dist.local.config_file import write_config
from aios_dist.local.machine import LocalFleet
from aios_dist.local.members import COMMAND, Member, WorkerSpec, environment
from aios_dist.local.owned_process import start_owned

NETWORK = "198.19.0."
PREFIX = 29
"""Eight addresses a test: the bridge is the first, and room for five machines."""
READY_S = 60.0


class NotAllowed(Exception):
    """This machine lets us make no network; says why."""


def ip(*arguments: str) -> str:
    """Run ``ip``; gives what it printed.

    Raises:
        NotAllowed: it is not there, or refuses.
    """
    found = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise NotAllowed("there is no `ip` command (iproute2)")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise NotAllowed(f"`ip {' '.join(arguments)}`: {reason}")
    return done.stdout


@dataclass(frozen=True)
class Host:
    """A machine: a network namespace, and the cable from it to the bridge."""

    namespace: str
    cable: str
    address: str

    def cut(self) -> None:
        """Pull the cable out."""
        ip("link", "set", self.cable, "down")

    def join(self) -> None:
        """Put it in again."""
        ip("link", "set", self.cable, "up")

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """The cable is out for a while."""
        self.cut()
        try:
            yield
        finally:
            self.join()

    def start_worker(self, fleet: LocalFleet, spec: WorkerSpec) -> Member:
        """A worker of a started fleet on this machine; returns when it takes tickets.

        Raises:
            ConfigError: it ended before.
        """
        write_config(fleet.config, fleet.config_path)
        log = fleet.dir / f"{self.namespace}-{spec.name}.log"
        slots = ["--slots", str(spec.slots)] if spec.slots else []
        program = [sys.executable, *COMMAND, "worker", spec.pool, "--name", f"{spec.name}@%h", *slots]
        with log.open("wb") as out:
            process = start_owned(
                ["ip", "netns", "exec", self.namespace, *program],
                env=environment(fleet.config_path),
                cwd=os.getcwd(),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        member = Member(spec.name, process, log, spec)
        fleet.members.append(member)
        end = time.monotonic() + READY_S
        while not member.is_ready:
            member.check()
            assert time.monotonic() < end, f"{spec.name} was not ready in {READY_S:g} s"
            time.sleep(0.05)
        return member


@dataclass(frozen=True)
class Network:
    """The bridge, which this process is on too, and the machines."""

    address: str
    hosts: list[Host]


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """Machines on a network of their own; all of it is gone afterwards, also when we are killed.

    Raises:
        NotAllowed: this machine lets us make none.
    """
    mark = f"aios{secrets.token_hex(3)}"  # names of interfaces have 15 letters at the most
    first = _free_addresses()
    hosts = [Host(f"{mark}-{n}", f"{mark}c{n}", f"{NETWORK}{first + 2 + n}") for n in range(count)]
    undo = "; ".join([*(f"ip netns del {host.namespace}" for host in hosts), f"ip link del {mark}"])
    # The broom is a process that ends with us, however we end, and sweeps when it does.
    broom = start_owned(
        ["sh", "-c", f"trap '{undo}; exit 0' TERM; echo; while :; do sleep 1 & wait; done"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert broom.stdout is not None
    broom.stdout.readline()  # from here on it hears
    try:
        ip("link", "add", mark, "type", "bridge")
        ip("address", "add", f"{NETWORK}{first + 1}/{PREFIX}", "dev", mark)
        ip("link", "set", mark, "up")
        for host in hosts:
            ip("netns", "add", host.namespace)
            ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            ip("link", "set", host.cable, "master", mark, "up")
            ip("-n", host.namespace, "address", "add", f"{host.address}/{PREFIX}", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "lo", "up")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
        yield Network(f"{NETWORK}{first + 1}", hosts)
    finally:
        broom.terminate()
        broom.wait(timeout=10)
        broom.stdout.close()


def _free_addresses() -> int:
    """The last part of the first of eight addresses that nobody here uses."""
    used = ip("-4", "-oneline", "address")
    for block in secrets.SystemRandom().sample(range(32), 32):
        if not any(f" {NETWORK}{8 * block + n}/" in used for n in range(8)):
            return 8 * block
    raise NotAllowed(f"all of {NETWORK}0/24 is in use")
