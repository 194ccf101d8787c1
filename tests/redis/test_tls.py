"""Encrypted lines to a real Redis: what the journal's library refuses, Celery's refuses, and the other way.

Certificates are made by openssl as docs/deploy.md says.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from aios_dist import Fleet
from aios_dist.broker.app import make_app
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.errors import AiosError, ConfigError
from aios_dist.journal.connection import Connection
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.owned_process import start_owned
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from aios_dist.program.agents import prompts
from aios_dist.testing import FakeLLM

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
SECRET = "of-the-key"


class Authority:
    """Makes certificates in a folder: ``NAME.crt`` and ``NAME.key``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", *KEY, "-noenc", "-days", "30", "-subj", "/CN=authority",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                      "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(
            ["openssl", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if "Not" in done.stderr and done.returncode:
            pytest.skip(f"openssl cannot: {done.stderr}")
        assert done.returncode == 0, done.stderr

    def sign(self, name: str, *, names: str = "", days: int = 30, password: str = "") -> None:
        """A certificate for these ``names`` (of a server), or of a client."""
        secret = ["-passout", f"pass:{password}"] if password else ["-noenc"]
        self._openssl("req", *KEY, *secret, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "x.csr")
        kind = "serverAuth" if names else "clientAuth"
        san = f"subjectAltName={names}\n" if names else ""
        (self.folder / "x.ext").write_text(f"{san}extendedKeyUsage={kind}\nbasicConstraints=CA:FALSE\n")
        self._openssl("x509", "-req", "-in", "x.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", str(days), "-extfile", "x.ext", "-out", f"{name}.crt")  # fmt: skip


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl on this machine")
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.sign("right", names="DNS:localhost,IP:127.0.0.1")
    made.sign("elsewhere", names="DNS:redis.elsewhere.test")
    made.sign("over", names="DNS:localhost,IP:127.0.0.1", days=0)
    made.sign("client")
    made.sign("sealed", password=SECRET)
    return made


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Encrypted:
    """A Redis with an encrypted port beside the plain one."""

    def __init__(self, ours: Authority, certificate: str, clients: str = "no") -> None:
        self.port = a_free_port()
        files = {
            "cert-file": f"{certificate}.crt",
            "key-file": f"{certificate}.key",
            "ca-cert-file": "ca.crt",
        }
        settings = {f"tls-{name}": str(ours.folder / file) for name, file in files.items()}
        settings |= {"tls-port": str(self.port), "tls-auth-clients": clients}
        try:
            self.server = EmbeddedRedis(find_server("redis"), settings).start()
        except ConfigError as exc:
            pytest.skip(f"no Redis with TLS on this machine: {exc}")

    def url(self, query: str, host: str = "localhost") -> str:
        return f"rediss://{host}:{self.port}/0?{query}"


def started(ours: Authority, certificate: str, clients: str = "no") -> Iterator[Encrypted]:
    made = Encrypted(ours, certificate, clients)
    with made.server:
        yield made


@pytest.fixture(scope="module")
def right(ours: Authority) -> Iterator[Encrypted]:
    yield from started(ours, "right")


@pytest.fixture(scope="module")
def elsewhere(ours: Authority) -> Iterator[Encrypted]:
    yield from started(ours, "elsewhere")


@pytest.fixture(scope="module")
def over(ours: Authority) -> Iterator[Encrypted]:
    end = time.monotonic() + 60
    look = ["openssl", "x509", "-checkend", "0", "-noout", "-in", str(ours.folder / "over.crt")]
    while subprocess.run(look, check=False, capture_output=True).returncode == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    yield from started(ours, "over")


@pytest.fixture(scope="module")
def asking(ours: Authority) -> Iterator[Encrypted]:
    """It wants a certificate of its clients."""
    yield from started(ours, "right", clients="yes")


async def by_journal(url: str) -> str:
    """Why the journal's connection does not come about; "" where it does."""
    line = Connection(url, timeout=10.0)
    try:
        assert await line.command("PING") in (b"PONG", True)
        return ""
    except AiosError as exc:
        return str(exc)
    finally:
        await line.close()


def by_celery(url: str) -> str:
    """The same of Celery's."""
    with make_app(Config(fleet=FleetConfig(redis_url=url))).connection_for_read() as line:
        try:
            line.ensure_connection(max_retries=1, interval_start=0.0)
            assert line.default_channel.client.ping()
            return ""
        except OperationalError as exc:
            return str(exc)


async def both(url: str, why: str) -> None:
    for said in (await by_journal(url), by_celery(url)):
        assert (why in said) if why else not said, said


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("ssl_ca_certs=CA", ""),
        ("ssl_ca_certs=CA&ssl_cert_reqs=required", ""),
        ("ssl_ca_certs=CA&ssl_check_hostname=true", ""),
        ("ssl_cert_reqs=none", ""),
        ("", "CERTIFICATE_VERIFY_FAILED"),
        ("ssl_check_hostname=false", "CERTIFICATE_VERIFY_FAILED"),
        ("ssl_ca_certs=OTHER", "CERTIFICATE_VERIFY_FAILED"),
        ("ssl_ca_certs=/nothing/there", "No such file"),
    ],
)
async def test_the_authority_is_asked_by_both(
    right: Encrypted, ours: Authority, tmp_path: Path, query: str, why: str
) -> None:
    other = Authority(tmp_path).folder / "ca.crt"
    await both(right.url(query.replace("CA", str(ours.folder / "ca.crt")).replace("OTHER", str(other))), why)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "ostname mismatch"),
        ("&ssl_check_hostname=true", "ostname mismatch"),
        ("&ssl_check_hostname=false", ""),
    ],
)
async def test_a_wrong_name_is_refused_by_both_unless_it_is_not_to_be_looked_at(
    elsewhere: Encrypted, ours: Authority, query: str, why: str
) -> None:
    await both(elsewhere.url(f"ssl_ca_certs={ours.folder}/ca.crt{query}"), why)


async def test_a_certificate_that_is_over_is_refused_by_both(over: Encrypted, ours: Authority) -> None:
    await both(over.url(f"ssl_ca_certs={ours.folder}/ca.crt"), "certificate has expired")


CLIENT = "&ssl_certfile=FOLDER/client.crt&ssl_keyfile=FOLDER/client.key"
SEALED = "&ssl_certfile=FOLDER/sealed.crt&ssl_keyfile=FOLDER/sealed.key"


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        (CLIENT, False),
        (f"{SEALED}&ssl_password={SECRET}", False),
        ("", True),
        (SEALED, True),
        (f"{SEALED}&ssl_password=wrong", True),
    ],
)
async def test_a_certificate_of_a_client_is_shown_by_both(
    asking: Encrypted, ours: Authority, query: str, refused: bool
) -> None:
    url = asking.url(f"ssl_ca_certs={ours.folder}/ca.crt{query.replace('FOLDER', str(ours.folder))}")
    for said in (await by_journal(url), by_celery(url)):
        assert bool(said) is refused, said
        assert SECRET not in said


def test_a_fleet_runs_on_encrypted_lines_with_certificates_of_its_own(
    asking: Encrypted, ours: Authority, fleets: Any
) -> None:
    folder = ours.folder
    url = asking.url(f"ssl_ca_certs={folder}/ca.crt{CLIENT.replace('FOLDER', str(folder))}")
    with FakeLLM() as llm:
        config = Config(
            fleet=FleetConfig(name=fleets.new_name(), redis_url=url),
            models={"small": ModelConfig(base_url=llm.url)},
            pools={"all": PoolConfig(lanes=["llm", "turns"], slots=4)},
        )
        with (
            LocalFleet(config, [WorkerSpec("tls", "all")], embedded_redis=False) as machine,
            Fleet(machine.config) as fleet,
        ):
            jobs = [fleet.submit(prompts("two", ["a", "b"]).job()) for _ in range(3)]
            for job in jobs:
                job.result(timeout=60)
        assert llm.count == 6


# Sentinels ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with a password, and a Sentinel with another; gives the Sentinel's address."""
    try:
        binary = find_server("redis")
    except ConfigError as exc:
        pytest.skip(str(exc))
    folder, port = tmp_path_factory.mktemp("sentinel"), a_free_port()
    with EmbeddedRedis(binary) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "of-redis-1")
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass of-sentinel-1\n"
            f"sentinel monitor mine 127.0.0.1 {server.port} 1\nsentinel auth-pass mine of-redis-1\n"
        )
        process = start_owned([binary, folder / "sentinel.conf", "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 30
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert time.monotonic() < end
                time.sleep(0.05)
            yield f"sentinel://:of-redis-1@127.0.0.1:{port}/0?master=mine"
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("password", "refused"), [("of-sentinel-1", False), ("wrong-one", True), ("", True)])
async def test_the_sentinels_own_password_reaches_them_from_both(
    watched: str, password: str, refused: bool
) -> None:
    url = watched + (f"&sentinel_password={password}" if password else "")
    for said in (await by_journal(url), by_celery(url)):
        assert bool(said) is refused, said
        assert "of-redis-1" not in said
