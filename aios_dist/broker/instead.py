"""What there is here in the place of some of Celery's and Flower's buttons, in a sentence each.

Celery would answer them with a success, and nothing would come of it: workers and Flower refuse them.
"""

from __future__ import annotations

RATE = (
    "A rate is a limit of a model, over the whole fleet: aios-dist model set NAME --requests-per-minute N "
    "(or --max-in-flight)."
)
TIME = (
    "Times are limited by `timeout` of [models.NAME], and by tool_timeout and turn_timeout of [fleet]; "
    "that of one call is llm(…, timeout=5)."
)
CANCEL = "A ticket is no step, and is not revoked: aios-dist job cancel ID ends a job and its calls"
REFUSED = {
    "rate_limit": RATE,
    "time_limit": TIME,
    "pool_restart": (
        "The pool of a worker is not restarted by itself: end the worker with SIGTERM, as a supervisor "
        "(systemd, Compose) starts it again."
    ),
    "autoscale": (
        "Slots that wait cost next to nothing, so nothing scales them: `slots` of [pools.NAME], or "
        "`celery control pool_grow N` for as long as this worker runs."
    ),
    "revoke_by_stamped_headers": f"{CANCEL}.",
}
"""What has no effect here, and what to use instead."""


def revoked(job: str = "") -> str:
    """Why a ticket is not revoked; with the job that it serves, where that is known."""
    return f"{CANCEL}{f'; this one serves job {job}' if job else ''}."
