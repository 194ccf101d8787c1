"""An agent whose code changes while its jobs are open. Who has none of it leaves them to others."""

from __future__ import annotations

import os

from aios_dist import agent, llm, signal

RELEASE = int(os.environ.get("AIOS_CHAOS_RELEASE", "1"))
"""Which one this worker has. The second has another word in a prompt, the third is the first once more."""


@agent
async def deployed(name: str, model: str, calls: int) -> str:
    """A draft, and more when somebody says so, which is when the release has changed."""
    draft = "a draught" if RELEASE == 2 else "a draft"
    text = (await llm(f"{name}: {draft}", model=model)).text
    await signal("go")
    for number in range(calls):
        text = (await llm(f"{name}: {draft} {number} after {text}", model=model)).text
    return text
