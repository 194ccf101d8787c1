"""What ``doctor --probe`` asks: whether somebody answers at each model's address."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator
from urllib import error, request
from urllib.parse import quote, urlsplit

from aios_dist.cli.checks import Finding, ok, problem
from aios_dist.config import Config
from aios_dist.text.lines import one_line
from aios_dist.text.masking import masked

PATIENCE_S = 5.0
"""Seconds to connect, and again for the answer."""


async def probe(config: Config) -> AsyncIterator[Finding]:
    """Each address once, without a key and without a call: any answer is one."""
    named: dict[str, list[str]] = {}
    for name, model in config.models.items():
        if model.base_url is not None:
            named.setdefault(model.base_url, []).append(name)
    if not named:
        yield ok("probe", "No model has a base_url of its own: nobody was asked.")
    said = await asyncio.gather(*(asyncio.to_thread(_ask, url) for url in named))
    for (url, names), wrong in zip(named.items(), said, strict=True):
        who = f"model {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        if wrong:
            yield problem(
                "probe",
                f"Nobody answers at {masked(url)} ({who}): {wrong}.",
                "Correct base_url in aios.toml, or start what should listen there.",
            )
        else:
            yield ok("probe", f"{masked(url)} answers ({who}).")


class _AsItIs(request.HTTPRedirectHandler):
    """An answer that points elsewhere is one."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Nobody is asked there."""


def _ask(url: str) -> str:
    """What is wrong; "" where there is an answer, whatever it says. By a proxy, where the environment names
    one: so do the workers' calls."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            return "it is no address that begins with http:// or https://"
        host = parts.netloc.rpartition("@")[2]  # an account is not sent, and not shown
        path = quote(parts.path.rstrip("/"), safe="/%~:@!$&'()*+,;=")
        asked = request.Request(f"{parts.scheme}://{host}{path}/models")
        between = request.getproxies()
        named = {
            kind: where for kind in ("http", "https") if (where := between.get(kind, between.get("all")))
        }
        with request.build_opener(_AsItIs, request.ProxyHandler(named)).open(
            asked, timeout=PATIENCE_S
        ) as said:
            said.read(1)
    except error.HTTPError as exc:
        exc.close()
        return f"the proxy answers {exc.code}" if asked.has_proxy() and exc.code in (502, 503, 504) else ""
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return _words(getattr(exc, "reason", None) or exc)
    return ""


def _words(why: object) -> str:
    if isinstance(why, TimeoutError):
        return f"no answer within {PATIENCE_S:g} s"
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"its certificate is refused ({one_line(why.verify_message, 200)})"
    return one_line(str(getattr(why, "strerror", None) or why) or type(why).__name__, 200)
