"""A job that asks for more at its start than is written at a time: a worker goes on with it, at once."""

from __future__ import annotations

import msgspec

from aios_dist import Fleet, agent, gather, llm
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.journal import NewJob
from aios_dist.program.turns import MOST_STEPS
from tests.redis.conftest import Hand, decides, starts


@agent(name="first-steps-wide")
async def wide(count: int) -> int:
    return len(await gather(*(llm(f"branch {n}") for n in range(count))))


def unfinished(id: str) -> NewJob:
    job = starts(id, f"{id} first")
    assert job.decision is not None
    return msgspec.structs.replace(job, decision=msgspec.structs.replace(job.decision, more=True))


def test_what_a_producer_writes_of_a_wide_gather_is_bounded_and_the_rest_is_asked_for_at_once(
    config: FleetConfig,
) -> None:
    known = Config(
        fleet=msgspec.structs.replace(config, default_model="small"),
        models={"small": ModelConfig("openai")},
    )
    with Fleet(known) as fleet:
        job = fleet.submit(wide, count=3 * MOST_STEPS)
        assert (job.view().steps, job.view().state.value) == (MOST_STEPS, "running")
        few = fleet.submit(wide, count=MOST_STEPS)
        assert few.view().steps == MOST_STEPS
        assert [lane.ready for lane in fleet.lanes() if lane.name == "turns"] == [1]


async def test_a_members_rest_is_asked_for_when_it_is_admitted(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"), [unfinished("b")])
    assert await hand.names("turns") == []
    await hand.finish(await hand.claim())
    assert await hand.names("turns") == ["b/t"]
    turn = await hand.claim("turns")
    step = msgspec.structs.replace(decides(0, 1, "b second"), basis=turn.basis)
    assert (await hand.journal.advance("b", step, token=turn.token)).status == "advanced"
    assert await hand.names() == ["b/0", "b/1"]
    assert await hand.states("a", "b") == ["done", "running"]
