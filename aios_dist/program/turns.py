"""A turn: running an agent's program from its journal, and putting what it asks for into the journal's words.

Turn 0 runs in the producer, all others in workers. No I/O here: in goes a history, out comes a decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from aios_dist import policies
from aios_dist.config import Config
from aios_dist.errors import (
    ConfigError,
    InvalidInput,
    ProgramChanged,
    UnknownName,
    UsageError,
    describe,
)
from aios_dist.journal.records import Decision, Parking, RankedStep
from aios_dist.journal.views import History
from aios_dist.model.calls import INPUT_COST, OUTPUT_COST
from aios_dist.model.chance import Known
from aios_dist.model.estimates import estimate
from aios_dist.model.jobs import (
    TURNS_LANE,
    JobRecord,
    JobState,
    Kind,
    NewStep,
    Outcome,
    as_record,
    encode,
    packed,
    plain_record,
)
from aios_dist.model.specs import Program
from aios_dist.program.agents import PromptsProgram, program_of
from aios_dist.program.commands import LLM, Leaf, Signal, Sleep, Tool
from aios_dist.program.replay import Replay
from aios_dist.program.requests import Asked
from aios_dist.program.templates import over_limit

MOST_STEPS = 20
MOST_BYTES = 384 * 1024
"""Steps of one job that are written at a time, and their bytes, but for one alone: milliseconds of Redis."""


class Catalog(msgspec.Struct, frozen=True):
    """What a turn must know of the fleet: which models there are, and what a request may weigh.

    Attributes:
        models: each model's lane; empty where nothing is known, then any name is let through.
        default: the model of calls that name none.
        prompt_limit, result_limit: bytes.
        lane_policies: the policy of each lane that has another than ``fifo``.
        pasts: what is known of earlier runs, by agent; kept where a policy looks at it.
    """

    models: Mapping[str, str]
    default: str | None
    prompt_limit: int
    result_limit: int
    lane_policies: Mapping[str, str] = {}
    pasts: Mapping[str, policies.Past] = {}

    @classmethod
    def of(cls, config: Config, registered: Mapping[str, str] | None = None) -> Catalog:
        """The catalogue of a configuration, and of what workers have registered."""
        models = {**(registered or {}), **{name: model.lane for name, model in config.models.items()}}
        default = config.default_model() or (next(iter(models)) if len(models) == 1 else None)
        return cls(
            models=models,
            default=default,
            prompt_limit=config.fleet.prompt_limit,
            result_limit=config.fleet.result_limit,
            lane_policies={name: lane.policy for name, lane in config.lanes.items()},
        )

    def under(self, lane_policies: Mapping[str, str], pasts: Mapping[str, policies.Past]) -> Catalog:
        """The same, where the lanes' policies (or what is known of agents) have changed."""
        return msgspec.structs.replace(self, lane_policies=lane_policies, pasts=pasts)

    @property
    def looks_back(self) -> bool:
        """A policy wants to know of agents' earlier runs."""
        known = map(policies.get, self.lane_policies.values())
        return any(policy is not None and policy.looks_back for policy in known)

    def model_of(self, command: LLM) -> str:
        """The model that a call goes to.

        Raises:
            UnknownName: none of that name, or none named and no default.
        """
        name = command.request.model or self.default
        known = ", ".join(sorted(self.models)) or "none"
        if name is None:
            raise UnknownName(
                f"The call names no model and the fleet has no default: llm(…, model=…), or default_model "
                f"in [fleet] (known models: {known})."
            )
        if self.models and name not in self.models:
            raise UnknownName(
                f"There is no model {name!r}; known are {known}. Add [models.{name}] to aios.toml."
            )
        return str.__str__(name)

    def admit(self, command: Leaf, data: bytes) -> None:
        """Refuse a request that can never be served.

        Raises:
            InvalidInput: it is over ``prompt_limit``.
            UnknownName: its model does not exist.
        """
        if len(data) > self.prompt_limit:
            raise InvalidInput(over_limit("The request", len(data), self.prompt_limit))
        if isinstance(command, LLM):
            self.model_of(command)

    def step(self, asked: Asked, request: bytes | None = None) -> NewStep:
        """A step of the program in the journal's words; ``request`` where it is JSON already."""
        step = self._step(asked, request)
        if not asked.rejected and not asked.once:
            return step
        return msgspec.structs.replace(step, rejected=asked.rejected, once=asked.once)

    def _step(self, asked: Asked, request: bytes | None) -> NewStep:
        command = asked.command
        assert command is not None, "it is written already"
        data = plain_record(command.request) if request is None else as_record(request)
        if isinstance(command, LLM):
            model = self.model_of(command)
            lane = self.models.get(model, "llm")
            prompt, output = estimate(command.request)
            cost = INPUT_COST * prompt + OUTPUT_COST * output
            return NewStep(asked.kind, lane, data, asked.digest, model, estimate=prompt + output, cost=cost)
        if isinstance(command, Sleep):
            seconds = command.request.seconds
            return NewStep(asked.kind, TURNS_LANE, data, asked.digest, f"{seconds:g} s", after=seconds)
        name = command.request.name if isinstance(command, (Tool, Signal)) else ""
        return NewStep(asked.kind, TURNS_LANE, data, asked.digest, name)


def start(program: Program, catalog: Catalog, known: Known | None = None) -> Replay:
    """Turn 0 of a new job.

    Args:
        program, catalog: the agent with its input, the fleet's models and limits.
        known: what it knows of time and chance.

    Raises:
        InvalidInput, UnknownName: the first requests cannot be served.
        KeyboardInterrupt: Ctrl-C in the meantime; the producer's thread is the user's.
    """
    if isinstance(program, PromptsProgram):
        program = program.within(catalog.prompt_limit)
    replay = Replay(program, admit=catalog.admit, passes=(KeyboardInterrupt,), known=known)
    if replay.refused is not None:
        replay.close()
        raise replay.refused
    return replay


def rebuild(history: History, catalog: Catalog, rested: Callable[[], None] = lambda: None) -> Replay:
    """A program brought to where its journal stands.

    Args:
        history: the journal of its job.
        catalog: the fleet's models and limits.
        rested: called whenever the program has come to an await.

    Raises:
        UnknownName: the agent's code is not in this process.
    """
    record = history.record
    program = _program(record, catalog, asked=len(history.steps))
    replay = Replay(program, history.steps, admit=catalog.admit, known=history.known())
    replay.basis = history.basis
    replay.follow(history.outcomes(), rested)
    replay.check_complete()
    if replay.changed is None:
        replay.written(len(history.steps))
    else:
        replay.held = len(history.steps)  # it decides all the same: that the job is parked
        changed, of_code = replay.changed.detail.get("step", 0), history.of_code
        nobodys = of_code is not None and changed >= of_code
        replay.ran = ("" if nobodys and not history.view.code else history.code, nobodys)
    return replay


def repeats(
    replay: Replay,
    record: JobRecord,
    outcomes: Sequence[tuple[int, Outcome]],
    catalog: Catalog,
    rested: Callable[[], None] = lambda: None,
) -> bool:
    """Whether a live program does the same again. Compared is what it has asked for and is written.

    One that has come to its end, where the other goes on (or the other way round), ends with ProgramChanged.

    Args:
        replay: the program.
        record: its job.
        outcomes: all that it was told.
        catalog: the fleet's models and limits.
        rested: called whenever the other has come to an await.

    Raises:
        UnknownName: the agent's code is not in this process.
    """
    told = dict(outcomes)
    written = [
        a.written(number, None, told.get(number)) for number, a in enumerate(replay.asked[: replay.held])
    ]
    program = _program(record, catalog, asked=len(written))
    other = Replay(program, written, admit=catalog.admit, known=Known(*replay.known.origin))
    other.follow(outcomes, rested)
    other.check_complete()
    if isinstance(other.error, ProgramChanged):
        return False  # it is closed where forgotten programs are
    other.check_end(replay)
    if isinstance(other.error, ProgramChanged):  # no replay would say so: the journal has nothing against it
        replay.end(other.error)
    return True


def _program(record: JobRecord, catalog: Catalog, asked: int) -> Program:
    """The program of a job with so many steps in its journal. Raises UnknownName."""
    program = program_of(record.agent, record.input, record.prompts, record.defaults)
    if isinstance(program, PromptsProgram):
        return program.within(catalog.prompt_limit, asked)
    return program


def undone(history: History) -> list[int] | None:
    """The steps that a retry runs again, as far as this process can say it: it runs the agent's program.

    Returns:
        Their numbers, or None where the agent's code is not here, or is another than the one that has run.
    """
    record = history.record
    try:
        program = program_of(record.agent, record.input, record.prompts, record.defaults)
    except UnknownName:
        return None
    replay = Replay(program, history.steps, known=history.known())
    replay.follow(history.outcomes())
    replay.check_complete()
    found = replay.undone()
    replay.close()
    return None if isinstance(replay.error, ProgramChanged) else found


def parking(changed: ProgramChanged, was: str, now: str, nobodys: bool = False) -> Parking:
    """The sentences for a job whose program does not repeat what the journal holds.

    Args:
        changed: where it does not.
        was: what the code was called that the job ran with; "" where that is not known.
        now: what the code is called that was run.
        nobodys: the step was asked for since, by a worker that names no code.
    """
    step = f"step {changed.detail.get('step', '?')}"
    what = f"{step} was {changed.was}, is now {changed.now}"
    if was and was != now:
        which = f"the agent's code changed since this job began ({was} → {now})"
        return Parking(f"{which}: {what}", f"{which}, at {step}")
    if nobodys and was in ("", now):
        which = (
            f"{step} was asked for by other code than {now}, whose name is not known "
            "(by a worker of a release from before codes had names)"
        )
        return Parking(f"{which}: it was {changed.was}, is now {changed.now}", which)
    if was and re.fullmatch(r"[0-9a-f]{8}", now) is None:
        which = f"same version ({now}): changed without another one, or not deterministic"
    elif was:
        which = f"same code ({now}): not deterministic"
    else:
        which = (
            f"the agent does not repeat its own steps (code {now}; the one that it began with is not known)"
        )
    more = (
        "Between its awaits an agent must do the same each time it runs: take time and chance from now(), "
        "uuid() and random(), and put input/output into tool()."
    )
    here = f" Here:\n{changed.place}" if changed.place else ""
    return Parking(f"{which}: {what}. {more}{here}", f"{which}, at {step}")


def decide(
    replay: Replay,
    record: JobRecord,
    catalog: Catalog,
    first: int,
    served: float = 0.0,
    checked: bool = False,
    code: str = "",
    began: str = "",
) -> Decision:
    """What the turn came to. What the program asked for and cannot be written fails the job, in a sentence.
    One that does not repeat what the journal holds parks it.

    Args:
        replay: the program, run until it waits or has ended.
        record: the job.
        catalog: the fleet's models and limits.
        first: how many of its steps the journal holds already.
        served: seconds that the job has spent in calls.
        checked: all that it asks for is, and not only what is written now.
        code: what the agent's code is called that was run; "" where the agent is data.
        began: … and that which the job has run with before.

    Raises:
        ConfigError: a lane has a policy that this process does not know.
    """
    if replay.changed is not None:
        was, nobodys = replay.ran or (began, False)
        parks = parking(replay.changed, was, code, nobodys)
        return Decision(replay.version, first, basis=replay.basis, code=code, parks=parks)
    if not replay.finished:
        try:
            steps: list[RankedStep] = []
            size, more = 0, False
            for number in range(first, len(replay.asked)):
                step = catalog.step(replay.asked[number], replay.encoded.get(number))
                size += len(step.request)
                more = more or bool(steps and (len(steps) == MOST_STEPS or size > MOST_BYTES))
                if not more:
                    steps.append(_ranked(step, number, record, catalog, served))
                elif not checked:
                    break
            return Decision(replay.version, first, steps, basis=replay.basis, more=more, code=code)
        except ConfigError:
            raise  # the fleet's, not the program's
        except UsageError as error:
            replay.end(error)
        except Exception as error:
            replay.end(InvalidInput(f"What the agent asked for cannot be written: {describe(error)}."))
    state, result = JobState.DONE, Outcome(value=replay.result)
    if replay.error is not None:
        state, result = JobState.FAILED, Outcome.failed(replay.error)
    try:
        data = msgspec.json.encode(result)  # measured as it is read, not as it is kept
        if len(data) <= catalog.result_limit:
            data = packed(data)
            return Decision(version=replay.version, first=first, basis=replay.basis, ends=state, result=data)
        why = f"has {len(data):,} bytes, more than result_limit ({catalog.result_limit:,})"
    except Exception as error:
        why = f"cannot be written: {describe(error)}"
    data = encode(Outcome.failed(InvalidInput(f"The agent's result {why}.")))
    return Decision(
        version=replay.version, first=first, basis=replay.basis, ends=JobState.FAILED, result=data
    )


def rank(kind: Kind, lane: str, step: policies.Waiting, catalog: Catalog) -> tuple[policies.Rank, str]:
    """What the lane's policy says of a step, and the policy's name; tools and turns are always ``fifo``.

    Args:
        kind, lane: of the step.
        step: what policies want to know of it, but for the agent's past.
        catalog: the lanes' policies, and what is known of agents.
    """
    if kind is not Kind.LLM:
        return policies.Rank(), ""
    policy = policies.get(catalog.lane_policies.get(lane, "fifo"))
    if policy is None:  # of a newer version; without a policy's name nobody asks us to rank it anew
        return policies.Rank(), ""
    return policy.of(step, catalog.pasts.get(step.agent)), policy.name


def _ranked(step: NewStep, number: int, record: JobRecord, catalog: Catalog, served: float) -> RankedStep:
    waiting = policies.Waiting(
        agent=record.agent,
        tenant=record.tenant,
        number=number,
        served=served,
        expected_steps=record.expected_steps,
        deadline=record.deadline,
        cost=step.cost,
    )
    return RankedStep(step, *rank(step.kind, step.lane, waiting, catalog))
