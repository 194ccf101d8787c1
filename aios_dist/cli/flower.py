"""``aios-dist flower``: the real Flower for this fleet, with a login, and with lane depths that are right."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from typing import Any, NoReturn

import click

from aios_dist.config import load
from aios_dist.errors import ConfigError, InvalidInput

COLUMNS = "name,state,args,kwargs,result,runtime,worker,received,started,uuid"
LOGIN_ENV = "FLOWER_BASIC_AUTH"


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5555, show_default=True, help="0 picks a free one."
)
@click.option("--address", default="127.0.0.1", show_default=True, help="0.0.0.0 listens on all.")
@click.option("--read-only", is_flag=True, help="Only look: no revoking, no shutting down of workers.")
@click.option("--no-login", is_flag=True, help="Without a login; with --address 127.0.0.1 only.")
@click.option(
    "--max-tasks",
    "--max_tasks",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Rows kept.",
)
@click.option(
    "--purge-offline-workers",
    "--purge_offline_workers",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Seconds after which a worker that is gone is not shown any more.",
)
def flower(
    port: int, address: str, read_only: bool, no_login: bool, max_tasks: int, purge_offline_workers: int
) -> None:
    """Each row is a step, with agent, job, model, state and run time.

    Its login is in the environment: FLOWER_BASIC_AUTH=user:password (several: comma separated). Other
    FLOWER_… variables hold too.
    """
    config = load()
    login = os.environ.get(LOGIN_ENV, "")
    check_login(login, no_login, address)
    if importlib.util.find_spec("flower") is None:
        raise ConfigError("Flower is an extra: pip install 'aios-dist[flower]'.")
    from aios_dist.cli.flower_app import application

    web = application(
        config,
        (account.partition(":")[2] for account in login.split(",")),
        port=port,
        address=address,
        read_only=read_only,
        max_tasks=max_tasks,
        purge_offline_workers=purge_offline_workers,
        tasks_columns=COLUMNS,
    )
    try:
        bound = web.start_http_server()
    except OSError as exc:
        raise InvalidInput(
            f"Flower cannot listen on {address} port {port}: {exc.strerror or exc}; choose another port."
        ) from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with_login = "without a login" if no_login else f"login from {LOGIN_ENV}"
    print(f"Flower of fleet {config.fleet.name}: http://{_host(address)}:{bound} ({with_login})", flush=True)
    _serve(web)


def _serve(web: Any) -> NoReturn:
    """Until SIGTERM (exit code 0) or Ctrl-C (130)."""
    code = 130
    try:
        web.start()
    except SystemExit:
        code = 0
    except KeyboardInterrupt:
        pass
    web.stop()
    sys.stdout.flush()
    # Not sys.exit: Python would wait for Flower's threads, and they for a Redis that may be away for hours.
    os._exit(code)


def check_login(login: str, no_login: bool, address: str) -> None:
    """Flower without a login shows its pages, and its buttons, to everyone.

    Raises:
        InvalidInput: there is none, or it is none.
    """
    if no_login:
        if address != "127.0.0.1":
            raise InvalidInput(
                f"--no-login is for --address 127.0.0.1 only, not {address!r}: set {LOGIN_ENV}=user:password."
            )
        if login:
            raise InvalidInput(f"--no-login and {LOGIN_ENV} contradict each other: leave one out.")
        return
    if not login:
        raise InvalidInput(f"Flower needs a login: set {LOGIN_ENV}=user:password in the environment.")
    for account in login.split(","):
        user, _, password = account.partition(":")
        if not user.strip() or not password.strip():
            raise InvalidInput(f"{LOGIN_ENV} must be user:password (several: comma separated).")
    if not login.isascii():
        raise InvalidInput(f"{LOGIN_ENV} may have ASCII signs only: browsers differ in how they send others.")


def _host(address: str) -> str:
    return "127.0.0.1" if address in ("", "0.0.0.0") else f"[{address}]" if ":" in address else address
