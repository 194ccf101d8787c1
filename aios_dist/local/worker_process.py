"""A worker as a child of ours: ``python -m aios_dist.local.worker_process POOL NAME [SLOTS]``.

It is the worker that ``celery -A workers.POOL worker`` starts. Celery's own command line imports the commands
of every plugin first (Flower's among them), which doubles the CPU that a start costs: 1.9 s instead of 0.9 s.
"""

from __future__ import annotations

import os
import sys

from aios_dist.runtime import worker_app


def main(pool: str, name: str, slots: str | None = None) -> int:
    """Work until SIGTERM; gives the exit code."""
    sys.path.insert(0, os.getcwd())  # as `celery -A` does: agents' modules are looked for here
    app = worker_app(pool, slots=int(slots) if slots else None)
    worker = app.Worker(
        hostname=name,
        concurrency=app.conf.worker_concurrency,
        loglevel="INFO",
        optimization="fair",
        quiet=True,
        no_color=True,
        # Nobody to synchronise with: ready one second earlier. Heartbeats stay, Flower lists workers by them.
        without_mingle=True,
        without_gossip=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
