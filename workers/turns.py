"""The pool with the agents' code, for tools and turns: ``celery -A workers.turns worker -n turns@%h``.

It imports the modules named in ``[fleet] modules`` of ``aios.toml``. Tools run in threads here.
"""

from aios_dist.runtime import worker_app

app = worker_app("turns")
