"""When a failed call is tried again: a pure decision, taken the same on every worker.

Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015): the pause is drawn evenly between nothing and a ceiling that doubles from try to try, so that the
calls that one fault threw together do not come back together.
"""

from __future__ import annotations

from typing import NamedTuple

from aios_dist.errors import RetryableLLMError


class Patience(NamedTuple):
    """How long a model's failed calls are tried again.

    Attributes:
        attempts: calls of one step at the most, the first one included.
        backoff: seconds; the ceiling of the first pause.
        backoff_max: seconds; no ceiling is higher. A provider's own ``Retry-After`` may be.
    """

    attempts: int = 6
    backoff: float = 1.0
    backoff_max: float = 60.0


def pause(error: Exception, tries: int, patience: Patience, draw: float) -> float | None:
    """Seconds until the step is tried again, or None when its error is final.

    Args:
        error: what the call raised.
        tries: calls of this step that were made, the failed one included.
        patience: the model's setting.
        draw: a random number in [0, 1).
    """
    if not isinstance(error, RetryableLLMError) or tries >= patience.attempts:
        return None
    return backoff(error, tries, patience, draw)


def backoff(error: RetryableLLMError, tries: int, patience: Patience, draw: float) -> float:
    """Seconds for which the model is better left in peace, whatever becomes of the step: see ``pause``."""
    ceiling = min(patience.backoff_max, patience.backoff * 2.0 ** min(tries - 1, 60))
    jittered = ceiling * draw
    asked = float(error.detail.get("retry_after_s") or 0.0)
    # Where the provider said when: a little later, so that not all held calls come in the same instant.
    return asked + jittered * (0.1 if asked else 1.0)
