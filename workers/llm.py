"""The pool that calls the language models: ``celery -A workers.llm worker -n llm@%h``.

Its lanes, slots and models are in ``aios.toml`` (``[pools.llm]``, ``[models.*]``); ``-c N`` sets the slots.
Calls wait in asyncio, so hundreds of slots in one process are normal.
"""

from aios_dist.runtime import worker_app

app = worker_app("llm")
