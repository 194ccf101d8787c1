"""A draft that waits for a human's word, for days if need be.

In this folder `aios-dist up --fake-llm`, then `python approval.py`. While the job waits it is a few fields in
Redis: no process, no slot. This program and the workers may be stopped and started meanwhile: the same id is
the same job. The word may also come from elsewhere:

    aios-dist job signal letter-1 review --value '{"ok": true}'
"""

from __future__ import annotations

import sys
from typing import Any

from aios_dist import Budget, Fleet, Job, agent, llm, signal, tool

WEEK = 7 * 24 * 3600.0
ROUNDS = 3


def send(to: str, text: str) -> str:
    """Stands for sending a mail: what must not be done twice belongs in a tool."""
    return f"sent to {to}: {text}"


@agent
async def letter(to: str, about: str) -> str:
    """Drafts until somebody is content, then sends."""
    draft = await llm(f"A short letter to {to} about {about}.", model="small")
    for _ in range(ROUNDS):
        review: dict[str, Any] = await signal("review")  # {"ok": true}, or {"ok": false, "wish": "…"}
        if review["ok"]:
            return str(await tool(send, to, draft.text))
        draft = await llm(f"Rewrite this letter, {review['wish']}: {draft.text}", model="small")
    return "given up: nobody was content"


def ask(job: Job, step: int) -> None:
    """Show the draft before the step that waits, and send the job what the reader says to it."""
    drafts = [s.outcome.response.text for s in job.steps()[:step] if s.outcome and s.outcome.response]
    print(f"\n{drafts[-1]}\n")
    wish = input("Enter sends it; or what shall be different? ")
    job.signal("review", {"ok": not wish, "wish": wish})


def main(id: str) -> None:
    """Submit, or take up again, and let the reader be the human."""
    spec = letter.job(id=id, to="Ada", about="the engine")
    with Fleet.from_env() as fleet:
        job = fleet.submit(spec.within(deadline=WEEK, budget=Budget(tokens=20_000)))
        for event in job.events(timeout=WEEK):
            step = event.step if event.what == "waiting" else None
            if step is not None and job.steps()[step].state == "waiting":  # not one answered long ago
                ask(job, step)
        print(job.result(timeout=60))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "letter-1")
