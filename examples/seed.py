"""The seed's three agents, A with three calls, B and C with two, under both schedulers: `python seed.py`.

With one slot (`aios-dist up --fake-llm --slots 1`) fifo gives A1 B1 C1 A2 B2 C2 A3; fixed gives
A1 A2 A3 B1 B2 C1 C2 on any number of slots and machines.
"""

from __future__ import annotations

from aios_dist import Fleet, Job, agent, fifo, fixed, llm


@agent
async def thinker(name: str, calls: int) -> None:
    """Calls the model, one call after another."""
    for number in range(1, calls + 1):
        await llm(f"{name}'s question {number}")


def order(jobs: dict[str, Job]) -> str:
    """The calls in the order in which they started, on Redis' clock."""
    started = [(s.started_at, f"{name}{s.number + 1}") for name, job in jobs.items() for s in job.steps()]
    return " ".join(label for _, label in sorted(started))


def main() -> None:
    """Run both and print the orders."""
    with Fleet.from_env() as fleet:
        for make in (fifo, fixed):
            specs = [thinker.job(name=name, calls=calls) for name, calls in (("A", 3), ("B", 2), ("C", 2))]
            jobs = dict(zip("ABC", fleet.submit_plan(make(specs)), strict=True))
            for job in jobs.values():
                job.result(timeout=60)
            print(f"{make.__name__:>6}: {order(jobs)}")


if __name__ == "__main__":
    main()
