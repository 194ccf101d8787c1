"""An agent of ten lines: `aios-dist up --fake-llm` in this folder, then `python trip.py Lima Oslo`."""

from __future__ import annotations

import sys

from aios_dist import Fleet, agent, fixed, llm, tool


def find_hotel(city: str) -> str:
    """Stands for a search of your own; it may run again, so a booking needs an id of its own to look for."""
    return f"Hotel {city} Central"


@agent
async def trip(city: str) -> str:
    """Sights, a hotel, and a plan around both."""
    sights = await llm(f"Three sights in {city}?", model="small")
    hotel = await tool(find_hotel, city)  # its answer is journaled
    return (await llm(f"A day plan around {sights.text} from {hotel}")).text


def main(cities: list[str]) -> None:
    """One job, then a plan in fixed order."""
    with Fleet.from_env() as fleet:
        job = fleet.submit(trip, city=cities[0], id=f"{cities[0].lower()}-1")  # same id twice = same job
        print(f"{job.id}: {job.result(timeout=60)}")
        for job in fleet.submit_plan(fixed([trip.job(city=city) for city in cities])):
            print(f"{job.id}: {job.result(timeout=60)}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["Lima", "Oslo"])
