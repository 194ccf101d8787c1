"""What ``doctor --probe`` asks: whether somebody answers at each model's address."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

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


def _ask(url: str) -> str:
    """What is wrong; "" where there is an answer, whatever it says."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        line = kind(parts.hostname or "", parts.port, timeout=PATIENCE_S)
        try:
            line.request("GET", f"{parts.path.rstrip('/')}/models")
            line.getresponse().read(1)
        finally:
            line.close()
    except TimeoutError:
        return f"no answer within {PATIENCE_S:g} s"
    except ssl.SSLCertVerificationError as exc:
        return f"its certificate is refused ({one_line(exc.verify_message, 200)})"
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return one_line(str(getattr(exc, "strerror", None) or exc) or type(exc).__name__, 200)
    return ""
