"""A draft that waits for a human's word, for days if need be.

In this folder `aios-dist up --fake-llm`, then `python approval.py`. While the job waits it is a few fields in
Redis: no process, no slot. This program and the workers may be stopped and started meanwhile: the same id is
the same job. The word may also come from elsewhere:

    aios-dist job signal letter-1 review-1 --value '{"ok": true}'

Each draft has a signal of its own, so nobody lets go a letter that he has not seen: not with a word that was
meant for the draft before it.
"""

from __future__ import annotations

import sys
from typing import Any

from aios_dist import Budget, Fleet, Job, agent, llm, signal, tool

WEEK = 7 * 24 * 3600.0
ROUNDS = 3


def send(to: str, text: str, id: str) -> str:
    """Stands for sending a mail. It may run again if its worker is lost: the mail's own id tells."""
    return f"sent to {to} as {id}: {text}"


@agent
async def letter(to: str, about: str) -> str:
    """Drafts until somebody is content, then sends."""
    draft = await llm(f"A short letter to {to} about {about}.", model="small")
    for number in range(1, ROUNDS + 1):
        review: dict[str, Any] = await signal(
            f"review-{number}"
        )  # {"ok": true}, or {"ok": false, "wish": "…"}
        if review["ok"]:
            return str(await tool(send, to, draft.text, id=f"{to}/{about}/{number}"))
        draft = await llm(f"Rewrite this letter, {review['wish']}: {draft.text}", model="small")
    return "given up: nobody was content"


def ask(job: Job, step: int) -> None:
    """Show the draft before the step that waits, and send the job what the reader says to this one."""
    steps = job.steps()
    drafts = [s.outcome.response.text for s in steps[:step] if s.outcome and s.outcome.response]
    print(f"\n{drafts[-1]}\n")
    wish = input("Enter sends it; or what shall be different? ")
    job.signal(steps[step].label, {"ok": not wish, "wish": wish})


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
