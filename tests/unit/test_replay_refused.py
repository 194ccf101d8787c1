"""A refusal that an agent goes on from is a fact of its job: the same at every replay, in every fleet."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aios_dist.errors import ProgramChanged, UnknownName, UsageError
from aios_dist.journal.records import Decision
from aios_dist.journal.views import History, JobView, head_to_step
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import MOST_REJECTED, JobRecord, JobState, Outcome, Step, StepState
from aios_dist.model.specs import Program
from aios_dist.program import turns
from aios_dist.program.agents import agent, prompts
from aios_dist.program.commands import gather, llm, tool
from aios_dist.program.replay import Replay
from aios_dist.program.turns import Catalog
from tests.heads import new_head

SMALL = Catalog({"small": "llm"}, "small", 1_000, 100_000)
BIG = Catalog({"small": "llm", "big": "gpu"}, "small", 100_000, 100_000)


@agent(name="refused-ask")
async def ask(question: str = "q") -> str:
    await llm("start")
    try:
        answer = await llm(question, model="big")
    except UsageError as error:
        answer = await llm(f"{question} ({error})")
    return (await llm(f"more of {answer.text}")).text


class Story:
    """A job whose turns run one by one, each from its journal alone, each in a fleet of its own."""

    def __init__(self, record: JobRecord, pick: Callable[[list[Step]], Step] = lambda open: open[0]) -> None:
        self.record = record
        self.pick = pick
        self.steps: list[Step] = []
        self.answered = 0

    @property
    def history(self) -> History:
        view = JobView(id="j", state=JobState.RUNNING, agent=self.record.agent)
        return History(view, self.record, self.steps)

    def replay(self, fleet: Catalog) -> Replay:
        return turns.rebuild(self.history, fleet)

    def turn(self, fleet: Catalog) -> Decision:
        """Run a turn, write what it asks for as the journal keeps it, and answer an open step."""
        decision = turns.decide(self.replay(fleet), self.record, fleet, first=len(self.steps))
        assert not decision.ends or decision.ends is JobState.DONE, decision.result
        for number, ranked in enumerate(decision.steps, len(self.steps)):
            plain = ranked.plain()
            head = new_head(plain["kind"], plain["lane"], plain["label"], digest=plain["digest"])
            head = msgspec.structs.replace(head, rejected=plain.get("rejected"))
            self.steps.append(head_to_step("j", number, head, None, None))
        if not decision.ends:
            step = self.pick([step for step in self.steps if step.outcome is None])
            said = Outcome(response=LLMResponse(text=f"{self.answered}"))
            self.answered += 1
            state, order = StepState.DONE, self.answered
            changed = msgspec.structs.replace(step, state=state, outcome=said, order=order)
            self.steps[step.number] = changed
        return decision


def to_its_end(record: JobRecord, *fleets: Catalog) -> Story:
    story = Story(record)
    for fleet in [*fleets, *[fleets[-1]] * 10]:
        if story.turn(fleet).ends:
            return story
    raise AssertionError("it does not end")


def test_a_model_that_is_added_changes_nothing_for_jobs_that_were_refused_it() -> None:
    story = Story(JobRecord("refused-ask", {}))
    story.turn(SMALL)
    story.turn(SMALL)
    assert [r.type for r in story.steps[1].rejected] == ["UnknownName"]
    while not story.turn(BIG).ends:
        pass
    assert [step.label for step in story.steps] == ["small"] * 3
    assert to_its_end(JobRecord("refused-ask", {}), BIG).steps[1].label == "big"


def test_a_limit_that_is_raised_or_lowered_changes_nothing_for_what_was_asked_under_another() -> None:
    @agent(name="refused-long")
    async def long() -> str:
        await llm("start")
        try:
            answer = await llm("x" * 5_000)
        except UsageError:
            answer = await llm("short")
        return (await llm(answer.text)).text

    for fleets in ((SMALL, SMALL, BIG), (BIG, BIG, SMALL)):
        story = Story(JobRecord("refused-long", {}))
        for fleet in fleets:
            story.turn(fleet)
        assert [len(step.rejected) for step in story.steps] == [0, fleets[0] is SMALL, 0]


def test_an_agent_sees_the_same_words_at_the_refusal_and_at_each_replay() -> None:
    seen: list[tuple[type, str]] = []

    @agent(name="refused-words")
    async def words() -> str:
        await llm("start")
        try:
            await llm("x", model="big" + "g" * 5_000)
        except UsageError as error:
            seen.append((type(error), str(error)))
        return (await llm("y")).text

    wide = msgspec.structs.replace(SMALL, prompt_limit=100_000)
    to_its_end(JobRecord("refused-words", {}), wide, wide, BIG)
    assert len(seen) == 2
    assert len({*seen}) == 1
    assert seen[0][0] is UnknownName


def test_several_refusals_before_a_step_and_in_branches_keep_their_places() -> None:
    @agent(name="refused-branches")
    async def branches() -> list[str]:
        async def one(name: str) -> str:
            for model in ("big", "bigger", "small"):
                try:
                    return (await llm(name, model=model)).text
                except UsageError:
                    name += "!"
            raise AssertionError

        await llm("start")
        return [*await gather(one("a"), one("b")), *await gather(one("c"), llm("d"))]

    story = Story(JobRecord("refused-branches", {}))
    for fleet in (SMALL, SMALL, BIG, BIG, BIG, BIG):
        last = story.turn(fleet)
    assert last.ends is JobState.DONE
    assert [len(step.rejected) for step in story.steps] == [0, 2, 2, 0, 0]
    assert [step.label for step in story.steps] == ["small", "small", "small", "big", "small"]


def test_a_refusal_at_the_end_is_not_kept_so_that_a_retry_asks_again() -> None:
    @agent(name="refused-last")
    async def last() -> str:
        await llm("start")
        return (await llm("x", model="big")).text

    story = Story(JobRecord("refused-last", {}))
    story.turn(SMALL)
    assert isinstance(story.replay(SMALL).error, UnknownName)
    assert turns.undone(story.history) == []
    assert to_its_end(JobRecord("refused-last", {}), SMALL, BIG).steps[1].label == "big"


def test_what_the_journal_holds_of_a_refusal_is_no_reason_to_ask_for_the_models_again() -> None:
    story = Story(JobRecord("refused-ask", {}))
    story.turn(SMALL)
    replay = story.replay(SMALL)
    assert isinstance(replay.refused, UnknownName)
    replay.written(2)
    assert replay.refused is None
    story.turn(SMALL)
    assert story.replay(BIG).refused is None


def test_a_live_program_that_was_refused_goes_on_beside_one_that_asked_elsewhere() -> None:
    story = Story(JobRecord("refused-ask", {}))
    story.turn(SMALL)
    live = story.replay(SMALL)
    story.turn(BIG)  # on another worker, which has the model by now
    live.told(story.steps[1])
    assert isinstance(live.error, ProgramChanged)  # … so this one is dropped, and the journal replayed
    assert story.turn(SMALL).steps[0].step.label == "small"


def test_a_live_program_that_was_refused_in_other_words_goes_on_with_those_of_the_journal() -> None:
    @agent(name="refused-told")
    async def told() -> str:
        await llm("start")

        async def tries() -> str:
            try:
                return (await llm("x", model="big")).text
            except UsageError as error:
                return str(error)

        words, _ = await gather(tries(), llm("beside"))
        await llm("between")
        return (await llm(words)).text

    other = msgspec.structs.replace(SMALL, models={"small": "llm", "tiny": "llm"})
    story = Story(JobRecord("refused-told", {}))
    for fleet in (SMALL, SMALL):
        story.turn(fleet)
    live = story.replay(other)  # before the step is written that says what it was refused
    assert live.asked[1].rejected == story.steps[1].rejected
    early = turns.rebuild(History(story.history.view, story.record, story.steps[:1]), other)
    early.told(story.steps[1])
    assert isinstance(early.error, ProgramChanged)


def test_a_request_that_was_no_json_is_refused_then_and_by_a_later_release() -> None:
    class Currency(float):
        pass

    given: list[Any] = [object()]

    @agent(name="refused-json")
    async def odd() -> str:
        await llm("start")
        try:
            await tool(print, given[0])
        except UsageError as error:
            await llm(str(error))
        return (await llm("y")).text

    story = Story(JobRecord("refused-json", {}))
    for _ in range(2):
        story.turn(SMALL)
    assert story.steps[1].rejected[0].digest == ""
    given[0] = Currency(2)  # it can be written by now
    story.turn(SMALL)
    assert story.turn(SMALL).ends is JobState.DONE


def test_a_program_that_no_longer_asks_for_what_it_was_refused_goes_on() -> None:
    models = ["big"]

    @agent(name="refused-mended")
    async def mended() -> str:
        await llm("start")
        for model in models:
            try:
                await llm("x", model=model)
            except UsageError:
                pass
        await llm("y")
        return (await llm("z")).text

    story = Story(JobRecord("refused-mended", {}))
    story.turn(SMALL)
    story.turn(SMALL)
    models.clear()
    story.turn(BIG)
    assert story.turn(BIG).ends is JobState.DONE


def test_of_endless_refusals_the_first_are_kept() -> None:
    @agent(name="refused-often")
    async def often() -> str:
        await llm("start")
        for number in range(MOST_REJECTED + 10):
            try:
                await llm(f"{number}", model="big")
            except UsageError:
                pass
        return (await llm("y")).text

    story = to_its_end(JobRecord("refused-often", {}), SMALL)
    assert len(story.steps[1].rejected) == MOST_REJECTED


@pytest.mark.parametrize("make", [lambda: prompts("d", ["a" * 500, "{previous}!", "b"])])
def test_a_limit_that_is_lowered_stops_no_agent_that_is_data(make: Callable[[], Any]) -> None:
    spec = make().job()
    record = JobRecord(spec.agent, spec.input, prompts=spec.prompts)
    lower = msgspec.structs.replace(SMALL, prompt_limit=200)
    assert [step.label for step in to_its_end(record, SMALL, lower).steps] == ["small"] * 3


def test_a_step_of_the_release_before_has_no_refusals() -> None:
    head = new_head("llm", "llm", "small", digest="digest")
    assert head_to_step("j", 0, head, None, None).rejected == ()
    program: Program = ask.program({})
    assert Replay(program).asked[0].rejected == ()


def test_a_program_that_was_refused_is_the_same_when_it_is_compared_with_itself() -> None:
    story = Story(JobRecord("refused-ask", {}))
    for _ in range(2):
        story.turn(SMALL)
    live = story.replay(SMALL)
    assert turns.repeats(live, story.record, story.history.outcomes(), BIG)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_models_come_and_go_every_turn_repeats_the_ones_before(seed: int) -> None:
    dice = random.Random(seed)
    tree = [[dice.choice("abc") for _ in range(dice.randint(1, 4))] for _ in range(dice.randint(1, 4))]
    again = [dice.random() < 0.5 for _ in tree]

    async def one(models: list[str], more: bool) -> str:
        said = ""
        for model in models:
            try:
                said += (await llm(said, model=model)).text
            except UsageError as error:
                said += str(error)
        return said if not more else (await gather(one(models[1:], False), llm("last")))[0]

    async def wild() -> Any:
        await llm("start")
        return await gather(*map(one, tree, again), llm(f"{len(tree)}"))

    agent(wild, name=f"refused-wild-{seed}")
    story = Story(JobRecord(f"refused-wild-{seed}", {}), pick=dice.choice)
    for _ in range(60):
        some = {"small": "llm", **{name: "llm" for name in "abc" if dice.random() < 0.5}}
        if story.turn(Catalog(some, "small", 100_000, 100_000)).ends:
            return
    raise AssertionError("it does not end")
