"""What the environment says of the way to a provider: proxies, certificates; and what it has no say in."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import ConfigError, ConnectionBroken
from aios_dist.worker.providers import open_provider
from aios_dist.worker.providers.surroundings import proxy_of
from tests.contracts.asking import outcome
from tests.contracts.test_lines import whole
from tests.redis.test_tls import Authority

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.lower, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def server(
    answer: bytes, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers each request so and hangs up; gives its port, and the heads that came."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heads


async def ask(base_url: str) -> Any:
    return await outcome("m", ModelConfig(base_url=base_url, api_key_env="K"), {"K": "sk-0123456789"})


async def test_a_call_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(whole()) as (port, heads):
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:s%40fe@127.0.0.1:{port}")
        assert (await ask("http://provider.invalid/v1")).text == "x"
        assert heads[0].startswith(b"POST http://provider.invalid/v1/chat/completions HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic YW5uOnNAZmU=\r\n" in heads[0]
        monkeypatch.setenv("NO_PROXY", "provider.invalid")
        assert type(await ask("http://provider.invalid/v1")) is ConnectionBroken
        assert len(heads) == 1


async def test_a_proxy_that_refuses_has_let_nothing_through_so_the_call_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with server(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as (port, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
        error = await ask("https://provider.invalid/v1")
    assert (type(error), "Bad Gateway" in str(error)) == (ConnectionBroken, True)
    assert heads[0].startswith(b"CONNECT provider.invalid:443 HTTP/1.1\r\n")


URL = "https://api.example.org/v1"


@pytest.mark.parametrize(
    ("said", "url", "goes_through"),
    [
        ({}, URL, None),
        ({"HTTP_PROXY": "http://p"}, URL, None),
        ({"ALL_PROXY": "http://p"}, URL, "http://p"),
        ({"HTTPS_PROXY": "http://p", "ALL_PROXY": "http://q"}, URL, "http://p"),
        ({"https_proxy": "p:3128"}, URL, "http://p:3128"),
        *(
            ({"ALL_PROXY": "http://p", "NO_PROXY": no}, url, None)
            for no, url in (
                ("*", URL),
                ("other.org, example.org", URL),
                (".example.org", URL),
                ("*.example.org", URL),
                ("API.example.org", URL),
                ("api.example.org:443", URL),
                ("https://api.example.org", URL),
                ("localhost", "http://localhost:11434/v1"),
                ("127.0.0.1", "http://127.0.0.1:8000"),
                ("10.0.0.0/8", "http://10.1.2.3:8000"),
                ("::1", "http://[::1]:8000"),
                ("[::1]:8000", "http://[::1]:8000"),
                ("fd00::/8", "http://[fd12::1]"),
            )
        ),
        *(
            ({"ALL_PROXY": "http://p", "NO_PROXY": no}, url, "http://p")
            for no, url in (
                ("example.com", URL),
                ("ample.org", URL),
                (".api.example.org", URL),
                ("api.example.org:80", URL),
                ("http://api.example.org", URL),
                ("10.0.0.0/8", "http://11.1.2.3"),
                ("local", "http://localhost"),
                (",  ,[,::1/x, a:b:c", URL),
            )
        ),
    ],
    ids=str,
)
def test_which_proxy_is_for_whom(
    said: dict[str, str], url: str, goes_through: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == goes_through


def test_a_proxy_of_another_kind_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://u:secret-1@p:1080")
    with pytest.raises(ConfigError, match=r"ALL_PROXY is socks5://u:\*\*\*@p:1080: .* NO_PROXY"):
        open_provider("m", ModelConfig(base_url=URL), {})


async def test_no_netrc_has_a_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login planted password planted\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with server(whole()) as (port, heads):
        assert (await ask(f"http://127.0.0.1:{port}/v1")).text == "x"
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        assert (await ask("http://provider.invalid/v1")).text == "x"
    assert b"authorization: Bearer sk-0123456789\r\n" in heads[0]
    assert b"proxy-authorization" not in heads[1].lower()


async def test_who_cannot_be_verified_gets_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl on this machine")
    authority = Authority(tmp_path)
    authority.sign("right", names="DNS:localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "right.crt", tmp_path / "right.key")
    async with server(whole(), context) as (port, heads):
        base = f"https://localhost:{port}/v1"
        assert "CERTIFICATE_VERIFY_FAILED" in str(await ask(base)).upper().replace(" ", "_")
        assert heads == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        assert (await ask(base)).text == "x"
        assert type(await ask(f"https://127.0.0.1:{port}/v1")) is ConnectionBroken, "of another name"
        assert len(heads) == 1
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "not there"))
        with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: the certificates at .*there cannot be read"):
            await ask(base)
