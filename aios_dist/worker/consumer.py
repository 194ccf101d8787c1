"""Celery's consumer, which waits where it would end its worker."""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import Any

from celery.worker.consumer import Consumer as OfCelery
from celery.worker.state import maybe_shutdown

from aios_dist.worker.shortages import OF_MACHINE, shortage

logger = logging.getLogger("aios_dist.consumer")

AGAIN_S = 0.2
"""So often it looks whether a file can be opened again."""

_NO_FILE = (errno.EMFILE, errno.ENFILE)


class Consumer(OfCelery):
    """It connects again also where it has lost its connection while no file can be opened.

    Celery ends its worker then ("Too many open files. Aborting…", or an OperationalError, by where it meets
    it), and with it calls that are paid for. It waits here until a call that ends, or somebody who raises the
    limit, makes room.
    """

    class Blueprint(OfCelery.Blueprint):
        """What it starts, once for each connection."""

        def start(self, parent: Any) -> None:
            """Until the connection is lost.

            Raises:
                ConnectionError: it was lost, and no file could be opened; one can be now.
                Exception: what Celery's raises, else.
            """
            try:
                super().start(parent)
            except Exception as exc:
                why = shortage(exc)
                if why not in _NO_FILE:
                    raise
                logger.warning("The connection to Redis waits for a file: %s.", OF_MACHINE[why])
                while not _opens():
                    maybe_shutdown()
                    time.sleep(AGAIN_S)
                raise ConnectionError(OF_MACHINE[why]) from exc


def _opens() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno not in _NO_FILE
    return True
