"""Flower's web application as a fleet needs it: what stands between it and who reaches it, and its numbers.

Flower asks for its login on every page but ``/metrics``, looks at where a request comes from only where
there is a login, and lets any page show it in a frame. What it hears: :mod:`aios_dist.cli.flower_events`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from flower.api.tasks import GetQueueLengths
from flower.app import Flower
from flower.command import apply_env_options, extract_settings
from flower.options import options
from flower.urls import settings as web_settings
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from redis.exceptions import ResponseError
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import ErrorHandler, OutputTransform, authenticated

from aios_dist.broker.app import depth_commands, make_app
from aios_dist.cli import flower_events
from aios_dist.cli.flower_buttons import REFUSED, Refused
from aios_dist.cli.worker import set_up_logging
from aios_dist.config import Config
from aios_dist.errors import FleetUnavailable
from aios_dist.journal import Journal
from aios_dist.text import masking
from aios_dist.text.masking import hide

logger = logging.getLogger("aios_dist.flower")

READING = ("GET", "HEAD", "OPTIONS")
TEXT = ("text/html", "text/plain", "application/json")

OWN_SCRIPTS = [f"\nvar autorefresh = {value};\n" for value in (0, 1)]
"""What Flower's list of workers has between its tags, as Tornado writes it: without a line's first blanks.
All its other scripts are files of its own."""


def _policy() -> str:
    """A page of Flower's is shown in no frame, runs Flower's own scripts and speaks to Flower alone."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in OWN_SCRIPTS)
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


POLICIES = {
    "Content-Security-Policy": _policy(),
    "X-Frame-Options": "DENY",  # for browsers that know no frame-ancestors
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # is_foreign() looks at it
}
"""With every answer."""


class GuardedFlower(Flower):  # type: ignore[misc]  # Flower has no types
    """Flower's web application, whose changing requests come from its own pages or from programs."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Tornado's choice of who answers; 403 for a browser that another site sends."""
        with_login = self.options.basic_auth or self.options.auth
        if (request.method not in READING and is_foreign(request.host, request.headers)) or not (
            with_login or is_local(request.host)
        ):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        if not is_ascii_login(request.headers.get("Authorization", "")):
            del request.headers["Authorization"]  # no login is such a one, and Flower's comparison raises
        return super().find_handler(request, **kwargs)


def is_local(host: str) -> bool:
    """The name is this machine's to itself. A site may give another name the address 127.0.0.1, and a browser
    then takes our pages for that site's own."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("127.0.0.1", "::1", "localhost") or name.endswith(".localhost")


def is_ascii_login(header: str) -> bool:
    """What is sent as a login has no signs that browsers send in one way or the other."""
    try:
        return base64.b64decode(header.partition(" ")[2]).isascii()
    except ValueError:
        return True  # none at all, as Flower says


def is_foreign(host: str, headers: Mapping[str, str]) -> bool:
    """A browser sends this request on behalf of a page that is not of this host. Programs say neither."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:  # no page can forge it, and it holds behind a proxy that changes the host's name
        return site not in ("same-origin", "none")
    source = headers.get("Origin") or headers.get("Referer")
    return source is not None and urlsplit(source).netloc.lower() != host.lower()


class GuardedMetrics(Metrics):  # type: ignore[misc]
    """``/metrics`` with the login of the other pages."""

    @authenticated
    async def get(self) -> None:
        """Prometheus' text."""
        await super().get()


class MaskedPages(OutputTransform):
    """Hides the passwords that this process has in what a page shows; says what a browser may do with it."""

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Tornado calls it with the whole page: Flower never flushes before the end."""
        for name, value in POLICIES.items():
            headers[name] = value
        if headers.get("Content-Type", "").startswith(TEXT):
            text = chunk.decode("utf-8", "surrogateescape")
            if (shown := hide(text)) != text:
                chunk = shown.encode("utf-8", "surrogateescape")
                if "Content-Length" in headers:
                    headers["Content-Length"] = str(len(chunk))
        return status_code, headers, chunk


# Lanes -----------------------------------------------------------------------------------------------


class LaneDepths:
    """Stands in for Flower's counter of queues. Every Redis URL that a worker can use will do.

    Flower's own reads neither TLS settings in a URL nor several Sentinels, names only the queues of workers
    that it has seen, and counts tickets. This one has the waiting steps of every lane, over the journal's
    connection.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.journal = Journal(config.fleet)

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Name and number of waiting steps of each lane.

        The journal's count is exact. An account that may only touch Celery's keys gets the number of
        tickets: the same but for a spare ticket now and then.

        Raises:
            FleetUnavailable: Redis cannot be reached.
        """
        lanes = list(names)
        try:
            waiting = await self.journal.waiting_steps(lanes)
            counts = [waiting[lane] for lane in lanes]
        except (FleetUnavailable, ResponseError):  # refused as a whole, or a command within the verb
            send = self.journal.connection.command
            counts = await asyncio.gather(*(send(*c) for c in depth_commands(self._config, lanes)))
        return [
            {"name": lane, "messages": count, "messages_ready": count}
            for lane, count in zip(lanes, counts, strict=True)
        ]


def application(config: Config, passwords: Iterable[str], **settings: Any) -> Any:
    """Flower's own web application, guarded, with our counter on its two pages of queues.

    Args:
        config: the fleet's.
        passwords: of its logins; no page and no log shows them.
        settings: options of Flower.
    """
    set_up_logging(logging.INFO)
    masking.learn(*passwords)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)  # four warnings while there is no worker
    apply_env_options()
    for name, value in settings.items():
        setattr(options, name, value)
    extract_settings()
    flower_events.install()
    web = GuardedFlower(capp=make_app(config), options=options, **web_settings)
    flower_events.look_after(web, config.fleet.lease)
    web.add_transform(MaskedPages)
    depths: LaneDepths = LaneDepths(config)

    class Lanes:
        """Both pages: our lanes, our counter."""

        def get_broker(self) -> LaneDepths:
            return depths

        def get_active_queue_names(self) -> list[str]:
            seen: list[str] = super().get_active_queue_names()  # type: ignore[misc]
            return sorted({*seen, *config.lane_names()})

    page = type("LanesPage", (Lanes, BrokerView), {})
    lengths = type("LaneLengths", (Lanes, GetQueueLengths), {})
    prefix = f"/{options.url_prefix.strip('/')}" if options.url_prefix else ""
    ours = {"/broker": page, "/api/queues/length": lengths, "/metrics": GuardedMetrics}
    web.add_handlers(".*", [(f"{prefix}{path}", handler) for path, handler in ours.items()])
    refused = [(f"{prefix}/api/task/{name}/(.+)", Refused, {"why": why}) for name, why in REFUSED.items()]
    web.add_handlers(".*", refused)
    return web
