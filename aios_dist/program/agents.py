"""The programming model: ``@agent``, ``llm()``, ``tool()``, ``gather()``.

An agent is a plain ``async def``. It needs no memory while it waits: after any outcome it may be run
again from its start, and what it had asked for before is answered from the journal (as Temporal and DBOS
do). So between its awaits an agent must do the same each time it is run; time and chance come from
``now()``, ``uuid()`` and ``random()``; files and the network belong in ``tool()``, whose outcome is journaled
once; the function itself runs at least once.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, overload

from aios_dist.config import PromptsConfig, odd_option
from aios_dist.errors import ContentRefused, InvalidInput, UnknownName, describe
from aios_dist.model.calls import LLMResponse
from aios_dist.model.given import given_json, short
from aios_dist.model.given import named as checked_name
from aios_dist.model.specs import JobSpec, Program
from aios_dist.program.arguments import Defaults
from aios_dist.program.codes import code_of
from aios_dist.program.commands import llm
from aios_dist.program.definitions import definition, same
from aios_dist.program.holdings import own
from aios_dist.program.templates import ANYTHING, PROMPT_BOUND, fill, pieces


def specs_of(what: str, jobs: Any) -> list[JobSpec]:
    """The jobs of a list of them.

    Args:
        what: begins the sentence, as "submit_many() takes".
        jobs: what was given; anything that can be gone through.

    Raises:
        InvalidInput: it is something else.
    """
    if isinstance(jobs, (JobSpec, str, Agent, PromptsAgent)) or not isinstance(jobs, Iterable):
        raise InvalidInput(f"{what} a list of jobs, [agent.job(…), …], not {short(jobs)}.")
    found = list(jobs)
    for job in found:
        if not isinstance(job, JobSpec):
            raise InvalidInput(f"{what} jobs, agent.job(…), not {short(job)}.")
    return found


class Agent:
    """An ``async def`` that a fleet can run. Made by :func:`agent`."""

    def __init__(
        self, function: Callable[..., Coroutine[Any, Any, Any]], name: str, version: str | None = None
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.version = version
        self.signature = inspect.signature(function)
        self.definition = definition(function)
        self._defaults = Defaults(self.signature)

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """The plain coroutine: an agent may await another agent as a part of itself.

        Each has its own copy of a default that it could change (``history: list = []``).
        """
        return self.function(*args, **self._defaults.fresh(args, kwargs))

    @functools.cached_property
    def code(self) -> str:
        """What its code is called: its version, or a digest, see :mod:`aios_dist.program.codes`."""
        return code_of(self.function) if self.version is None else self.version

    def __repr__(self) -> str:
        return f"<agent {self.name}{self.signature}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _agent_there, (self.name, self.function.__module__)

    def __copy__(self) -> Agent:
        return self

    def __deepcopy__(self, memo: object) -> Agent:
        return self

    def job(self, *, id: str | None = None, tenant: str = "default", **input: Any) -> JobSpec:
        """This agent with its input, checked.

        Args:
            id: the job's id; submitting the same id twice is one job.
            tenant: on whose behalf it runs.
            input: the agent's arguments, by name; JSON values.

        Raises:
            InvalidInput: the arguments do not fit the signature, or are not JSON.
        """
        try:
            bound = self.signature.bind(**input)
        except TypeError as exc:
            raise InvalidInput(f"Agent {self.name}{self.signature} cannot take this input: {exc}.") from None
        given = given_json(dict(bound.arguments), f"input of agent {self.name!r}")
        names = list(self.signature.parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in names):
            extra = next(p.name for p in names if p.kind is p.VAR_KEYWORD)
            given = {**{k: v for k, v in given.items() if k != extra}, **given.get(extra, {})}
        defaults = self._defaults.journaled(given)
        program = self.program(given, defaults)
        return JobSpec(agent=self.name, input=given, id=id, tenant=tenant, program=program, defaults=defaults)

    def program(self, input: dict[str, Any], defaults: dict[str, Any] | None = None) -> Program:
        """The agent with its input bound: each start has its own copy, since an agent may change it.

        Args:
            input: the arguments that were given.
            defaults: those that were not, as the job was submitted with them; what the agent's code has no
                parameter for any more is left out.
        """
        known = self.signature.parameters
        kept = {name: value for name, value in (defaults or {}).items() if name in known}
        return _Bound(self, {**kept, **input})


class _Bound:
    """An agent with its input."""

    __slots__ = ("_input", "agent")

    def __init__(self, agent: Agent, input: dict[str, Any]) -> None:
        self.agent = agent
        self._input = input

    def __call__(self) -> Coroutine[Any, Any, Any]:
        agent = self.agent
        try:
            return agent(**copy.deepcopy(self._input))
        except TypeError as exc:  # submitted by name, or by other code than this
            raise InvalidInput(
                f"Agent {agent.name}{agent.signature} cannot take this input: {exc}."
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _program_there, (self.agent.name, self.agent.function.__module__, self._input)


def _agent_there(name: str, module: str) -> Agent | PromptsAgent:
    """The agent of that name in another process, which may have to import its module first.

    Raises:
        UnknownName: it is not there.
    """
    why = ""
    if name not in _registry:
        try:
            importlib.import_module(module)
        except ImportError:
            pass
        except Exception as exc:  # users' code
            why = f", which cannot be imported: {describe(exc)}"
    if (found := _registry.get(name)) is None:
        raise UnknownName(f"There is no agent {name!r} in this process, nor in its module {module!r}{why}.")
    return found


def _program_there(name: str, module: str, input: dict[str, Any]) -> Program | None:
    """None where the agent's code is not: then its first turn runs on a worker, as of a job by name."""
    try:
        return _agent_there(name, module).program(input)
    except UnknownName:
        return None


_registry: dict[str, Agent | PromptsAgent] = {}


@overload
def agent(
    function: Callable[..., Coroutine[Any, Any, Any]],
    *,
    name: str | None = None,
    version: str | int | None = None,
) -> Agent: ...


@overload
def agent(
    function: None = None, *, name: str | None = None, version: str | int | None = None
) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], Agent]: ...


def agent(
    function: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    *,
    name: str | None = None,
    version: str | int | None = None,
) -> Any:
    """Make an ``async def`` an agent: ``@agent`` or ``@agent(name="trip")``.

    Args:
        name: what the agent is called on the wire, on every machine; the function's name when left out.
        version: what its code is called; a digest of it when left out. While workers with code of several
            names run side by side, a job goes on with that which it began with.

    Raises:
        InvalidInput: not an ``async def``; or the name is taken by another agent, which only its module,
            executed again, can replace.
    """
    if function is None:
        return functools.partial(agent, name=name, version=version)
    function = _as_function(function, name)
    if not inspect.iscoroutinefunction(function):
        raise InvalidInput(f"An agent must be an async def, not {short(function)}.")
    label = getattr(function, "__name__", "") if name is None else name
    label = checked_name("Agent name", label)
    parameters = inspect.signature(function).parameters
    if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in parameters.values()):
        raise InvalidInput(f"Agent {label!r} has positional-only parameters; its input is given by name.")
    for reserved in ("id", "tenant", "self"):
        if reserved in parameters:
            raise InvalidInput(
                f"Agent {label!r} has a parameter {reserved!r}, a name that submitting it needs itself; "
                "give it another."
            )
    if version is not None:
        version = checked_name("Agent version", str(version) if type(version) is int else version)
    made = Agent(function, label, version)
    known = _registry.get(label)
    if isinstance(known, PromptsAgent) or (known is not None and not same(known.definition, made.definition)):
        raise InvalidInput(two_of(label, place_of(known), made.definition.place))
    _registry[label] = made
    return made


def _as_function(function: Any, name: str | None) -> Any:
    """A partial, or an object whose ``__call__`` is an async def, as a function; others as they are.

    Raises:
        InvalidInput: it has no name of its own, and is given none.
    """
    partial = isinstance(function, functools.partial)
    inner = function.func if partial else getattr(type(function), "__call__", None)  # noqa: B004
    inner = inner.function if isinstance(inner, Agent) else inner
    if inspect.isroutine(function) or isinstance(function, type) or not inspect.iscoroutinefunction(inner):
        return function
    if name is None:
        kind = "partial" if partial else type(function).__name__
        raise InvalidInput(f"A {kind} has no name of its own; give it one: agent({kind}(…), name=…).")

    code = {
        id(one): one for one in (inner, getattr(function, "func", None))
    }  # it may be a partial of an agent

    async def called(*args: Any, **kwargs: Any) -> Any:
        fresh = own(function, code)[0] if partial else function
        return await fresh(*args, **kwargs)

    functools.update_wrapper(called, inner)
    called.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return called


def register(made: Agent | PromptsAgent, place: str = "") -> None:
    """Let jobs name the agent on the wire; ``@agent`` does it by itself.

    Args:
        made: the agent.
        place: where a list of prompts is defined, for people; it replaces what was read from there before.

    Raises:
        InvalidInput: another agent has its name.
    """
    known = _registry.get(made.name)
    if isinstance(made, PromptsAgent):
        made.place = place or made.place
        if isinstance(known, PromptsAgent) and (made.config == known.config or place == known.place):
            known = None
    if known is not None and known is not made:
        raise InvalidInput(two_of(made.name, place_of(known), place_of(made)))
    _registry[made.name] = made


def place_of(made: Agent | PromptsAgent) -> str:
    """Where an agent is defined, for people."""
    return made.place if isinstance(made, PromptsAgent) else made.definition.place


def two_of(name: str, one: str, other: str) -> str:
    """The sentence that refuses two agents of one name. ``one``, ``other``: where they are defined."""
    if one == other:
        return (
            f"Two agents are called {name!r}: {one} makes both, with other values around them; "
            "give each a name of its own: @agent(name=…)."
        )
    return f"Two agents are called {name!r}: {one} and {other}; give one of them another name."


def registered() -> dict[str, Agent | PromptsAgent]:
    """The agents that this process can run, by name: imported code, and ``[agents.*]`` of aios.toml."""
    return dict(_registry)


def codes() -> dict[str, str]:
    """What the code of each of them is called; those that are data have none."""
    return {name: known.code for name, known in _registry.items() if isinstance(known, Agent)}


def find(name: str) -> Agent | PromptsAgent | None:
    """The agent of that name, if this process can run it."""
    return _registry.get(name)


def prompts(
    name: str,
    prompts: Sequence[str],
    *,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> PromptsAgent:
    """An agent that is data: prompts asked one after another; workers need no code for it.

    ``{input}`` is the job's input (``{input[key]}`` one entry of it), ``{previous}`` the answer before,
    ``{steps[0]}`` the answer of step 0. Braces are doubled to stand for themselves.

    Raises:
        InvalidInput: no prompts, a bad name, or a placeholder that can never be filled.
    """
    if not isinstance(prompts, (list, tuple)):
        raise InvalidInput(f"Agent {short(name)} needs a list of at least one prompt, not {short(prompts)}.")
    config = PromptsConfig(
        prompts=list(prompts), model=model, system=system, temperature=temperature, max_tokens=max_tokens
    )
    return PromptsAgent(name, config)


class PromptsAgent:
    """An agent that is data. Made by :func:`prompts` or by ``[agents.NAME]`` in aios.toml."""

    def __init__(self, name: str, config: PromptsConfig) -> None:
        name = checked_name("Agent name", name)
        if not config.prompts:
            raise InvalidInput(f"Agent {name!r} needs a list of at least one prompt.")
        if odd := odd_option(config.max_tokens, config.temperature):
            raise InvalidInput(f"Agent {name!r}: {odd}")
        self.name = name
        self.config = config
        self.place = f"prompts({name!r}, …)"
        for number, prompt in enumerate(config.prompts):
            pieces(name, number, prompt, ANYTHING, ["x"] * number)

    def __repr__(self) -> str:
        return f"<agent {self.name}: {len(self.config.prompts)} prompts>"

    def job(
        self, input: Any = None, *, id: str | None = None, tenant: str = "default", **named: Any
    ) -> JobSpec:
        """This agent with its input: one JSON value, or named ones that become ``{input[name]}``.

        Raises:
            InvalidInput: the input is not JSON, or a prompt needs what it does not have.
        """
        if named and input is not None:
            raise InvalidInput(f"Give agent {self.name!r} one input or named ones, not both.")
        value = given_json(named or input, f"input of agent {self.name!r}")
        for number, prompt in enumerate(self.config.prompts):
            pieces(self.name, number, prompt, value, [""] * number)
        return JobSpec(
            agent=self.name,
            input={"input": value},
            id=id,
            tenant=tenant,
            prompts=self.config,
            program=PromptsProgram(self.name, self.config, value),
        )

    def program(self, input: dict[str, Any], defaults: dict[str, Any] | None = None) -> Program:
        """The agent with the input of a job: ``{"input": value}``; there are no defaults."""
        return PromptsProgram(self.name, self.config, input.get("input"))


class PromptsProgram:
    """The program of an agent that is data; ``limit``: the bytes that a filled-in prompt may have."""

    __slots__ = ("_asked", "_config", "_limit", "_name", "_value")

    def __init__(
        self, name: str, config: PromptsConfig, value: Any, limit: int = PROMPT_BOUND, asked: int = 0
    ) -> None:
        self._name = name
        self._config = config
        self._value = value
        self._limit = limit
        self._asked = asked

    def __repr__(self) -> str:
        return f"<program of {self._name!r}>"

    def within(self, limit: int, asked: int = 0) -> PromptsProgram:
        """The same where a filled-in prompt may have ``limit`` bytes, but for the first ``asked`` of them.

        Those are in the journal: they were within the limit that held when they were asked.
        """
        return PromptsProgram(self._name, self._config, self._value, limit, asked)

    async def __call__(self) -> str:
        """Ask the prompts one after another; gives the last answer."""
        answers: list[str] = []
        config = self._config
        for number, prompt in enumerate(config.prompts):
            limit = max(self._limit, PROMPT_BOUND) if number < self._asked else self._limit
            answer: LLMResponse = await llm(
                fill(self._name, number, prompt, self._value, answers, limit),
                system=config.system,
                model=config.model,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
            )
            if answer.refusal and not answer.text:  # which an agent may look at, and a list of prompts cannot
                raise ContentRefused(f"the model did not answer: {answer.refusal[:500]}")
            answers.append(answer.text)
        return answers[-1]


def program_code(program: Program) -> str:
    """What the code of a job's program is called; "" where its agent is data."""
    return program.agent.code if isinstance(program, _Bound) else ""


def program_of(
    name: str,
    input: dict[str, Any],
    definition: PromptsConfig | None,
    defaults: dict[str, Any] | None = None,
) -> Program:
    """The program of a journaled job.

    Args:
        name, input, definition, defaults: as it was submitted.

    Raises:
        UnknownName: its code is not in this process.
    """
    if definition is not None:
        return PromptsProgram(name, definition, input.get("input"))
    known = find(name)
    if known is None:
        raise UnknownName(f"Agent {name!r} is not in this process; import its module.")
    return known.program(input, defaults)
