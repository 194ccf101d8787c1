"""What agents await: ``llm()``, ``tool()``, ``sleep()``, ``signal()``, ``gather()``."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextvars import Context, ContextVar
from typing import Any, ClassVar

from aios_dist.errors import InvalidInput
from aios_dist.model.calls import LLMRequest, LLMResponse, Request, SignalRequest, SleepRequest, ToolRequest
from aios_dist.model.given import named
from aios_dist.program.holdings import Taken
from aios_dist.program.reached import ById


class Refused(InvalidInput):
    """What an agent asks for can never be: in turn 0 whoever submits it hears so, and nothing is written.

    Raised inside of programs; what comes out of them is the InvalidInput of the same words.
    """


class _InTurn(threading.local):
    """A flag of the thread: a turn runs without a break, so nothing else can see it.

    Attributes:
        begun_in: in a thread that a turn has started: tells that turn what was awaited here.
    """

    value = False
    begun_in: Callable[[str], None] | None = None

    def get(self) -> bool:
        """Whether a turn runs on this thread."""
        return self.value


in_turn = _InTurn()
"""True while an agent's program runs in a turn: the only place where its awaits mean anything."""


in_tool: ContextVar[bool] = ContextVar("aios_in_tool", default=False)
"""True while a tool runs, in its threads and tasks that take their context along."""


class Command:
    """What an agent awaits. Created freely; asked for only when awaited.

    Attributes:
        called: the function that made it, where the class has not its name.
    """

    __slots__ = ()
    called: ClassVar[str] = ""

    def __await__(self) -> Generator[Command, Any, Any]:
        if not in_turn.value:
            what = self.called or type(self).__name__.lower()
            if in_turn.begun_in is not None:
                in_turn.begun_in(what)
            raise RuntimeError(
                f"{what}() can only be awaited inside an agent that a fleet runs: submit the agent instead."
            )
        return (yield self)


class Leaf(Command):
    """What becomes a step: all but ``gather``. ``kind`` is the step's."""

    __slots__ = ("request",)
    kind: ClassVar[str]
    request: Request

    def __init__(self, request: Request) -> None:
        self.request = request


class LLM(Leaf):
    """A step of kind ``llm``."""

    __slots__ = ()
    kind = "llm"
    request: LLMRequest

    def __await__(self) -> Generator[Command, Any, LLMResponse]:
        return super().__await__()


class Sleep(Leaf):
    """A step of kind ``sleep``."""

    __slots__ = ()
    kind = "sleep"
    request: SleepRequest


class Signal(Leaf):
    """A step of kind ``signal``."""

    __slots__ = ()
    kind = "signal"
    request: SignalRequest


class Tool(Leaf):
    """A step of kind ``tool``: the function stays with the program, its name and arguments are journaled.

    Attributes:
        call: runs the function, in a copy of ``context`` each time; ``call.func`` is the function itself.
        context: the context variables of the branch that asked, as they were then; None before that. What an
            ``async`` function does after its first await runs where its coroutine is awaited: make a task of
            it, ``create_task(tool.call(), context=tool.context.copy())``.
        timeout: seconds, 0 for no limit; None: the fleet's ``tool_timeout``. Not journaled.
    """

    __slots__ = ("call", "context", "timeout")
    kind = "tool"
    request: ToolRequest

    def __init__(
        self,
        request: ToolRequest,
        call: Callable[[], Any],
        context: Context | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(request)
        self.call = call
        self.context = context
        self.timeout = timeout

    def taken(self, data: bytes, context: Context, outside: Callable[[], ById] | None = None) -> Tool:
        """The same tool as it is now, which is what its function gets, whatever becomes of the arguments.

        Args:
            data: its request in JSON, as the journal has it.
            context: the context variables of the branch that asks for it.
            outside: gives what is the module's and not the program's; None: it is not going to run.
        """
        context.run(in_tool.set, True)
        assert isinstance(self.call, functools.partial), "it was taken before"
        taken = Taken(self.call, self.request, data, outside)
        return Tool(self.request, _InContext(taken, context), context, self.timeout)

    def kept(self) -> str:
        """After a run: what it has kept for an agent that will not see it, in a sentence; "": nothing."""
        try:
            changed = self.call.call.changed() if isinstance(self.call, _InContext) else []
        except Exception:  # objects of the user's that cannot be compared
            changed = []
        if not changed:
            return ""
        return (
            f"It has changed {' and '.join(changed)}, of which a tool gets a copy: the agent does not see "
            "that, here or on another worker. Let the tool return what the agent is to know; what is the "
            "tool's own affair (a cache, a counter) begins with _, or is the module's."
        )


class _InContext:
    """A call in a copy of a context: a context is entered once at a time, and a tool may be run again."""

    __slots__ = ("_context", "call", "func")

    def __init__(self, call: Taken, context: Context) -> None:
        self.call = call
        self._context = context
        self.func = call.func

    def __call__(self) -> Any:
        return self._context.copy().run(self.call)


def is_async(call: Any) -> bool:
    """By what it is, and not by what it wraps: a plain function around an async one may run a loop itself."""
    try:
        return inspect.iscoroutinefunction(getattr(call, "func", call))
    except Exception:  # an object of the user's
        return False


def wants_a_loop(call: Any, error: BaseException) -> bool:
    """A plain function around an async one has asked for the running loop (to make a task of it, say)."""
    try:
        return (
            isinstance(error, RuntimeError)
            and str(error).startswith(("no running event loop", "There is no current event loop"))
            and inspect.iscoroutinefunction(inspect.unwrap(getattr(call, "func", call)))
        )
    except Exception:  # an object of the user's
        return False


class Gather(Command):
    """Several awaitables at once, ``limit`` of them at a time."""

    __slots__ = ("branches", "limit", "return_exceptions")

    def __init__(
        self, branches: Sequence[Awaitable[Any]], return_exceptions: bool, limit: int | None = None
    ) -> None:
        self.branches = branches
        self.return_exceptions = return_exceptions
        self.limit = limit


def llm(
    prompt: str | None = None,
    *,
    messages: Iterable[dict[str, Any]] | None = None,
    system: str | None = None,
    model: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    response_format: dict[str, Any] | None = None,
    timeout: float | None = None,
    **extra: Any,
) -> LLM:
    """Ask a language model; await the result inside an agent.

    Args:
        prompt: the user's message; or give ``messages``.
        messages: a whole conversation in OpenAI's form, passed on untouched.
        system: a system message put before ``prompt``.
        model: a name from ``[models.*]`` in aios.toml; the fleet's default model when left out.
        temperature, max_tokens, tools, response_format: passed on where given.
        timeout: seconds that one try of the call may take, where that is less than its model's ``timeout``.
        extra: any other provider option, passed on; those that are widely known are checked at the await.

    Returns:
        Something to await: an :class:`LLMResponse`. Which messages and tools there are is taken here, what
        stands in them when it is awaited.

    Raises:
        InvalidInput: neither or both of ``prompt`` and ``messages``; from the await, what cannot be asked.
        LLMError: from the await, when the call brought no answer.
    """
    if (prompt is None) == (messages is None):
        raise InvalidInput("llm() takes either a prompt or messages, one of the two.")
    if messages is not None:
        given = _listed(messages, "messages")
        # Also text: it is a sequence of texts. (An abstract class is slow to ask, of 1,000 messages.)
        if not all(type(m) is dict or isinstance(m, Mapping) for m in given):
            whole = any(isinstance(m, LLMResponse) for m in given)
            instead = "; append reply.message, not reply" if whole else ""
            raise InvalidInput(f"llm(messages=…) takes a list of {{'role': …, 'content': …}} dicts{instead}.")
        conversation = [dict(m) for m in given]
        if system is not None:
            raise InvalidInput("llm(messages=…) holds its system message itself; leave system= out.")
    else:
        if not isinstance(prompt, str):
            raise InvalidInput(f"llm() takes its prompt as text, not {type(prompt).__name__}.")
        conversation = [{"role": "system", "content": system}] if system is not None else []
        conversation.append({"role": "user", "content": prompt})
    if timeout is not None:
        extra["timeout"] = timeout  # where journals of before have it
    return LLM(
        LLMRequest(
            messages=conversation,
            model=model,
            temperature=temperature,
            max_tokens=max_tokens,
            tools=_listed(tools, "tools") if tools is not None else None,
            response_format=response_format,
            extra=extra,
        )
    )


def _listed(values: Iterable[Any], name: str) -> list[Any]:
    """The values of any iterable, taken out once."""
    if not isinstance(values, Iterable):
        raise InvalidInput(f"llm({name}=…) takes a list of dicts, not {type(values).__name__}.")
    return list(values)


class ToolMaker:
    """What ``tool`` is: a function, and ``tool.options(…)``, which is one with options."""

    def __init__(self, make: Callable[..., Tool], timeout: float | None = None) -> None:
        functools.update_wrapper(self, make)
        self._make = make
        self._timeout = timeout

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Tool:
        """See ``tool``."""
        made = self._make(function, *args, **kwargs)
        made.timeout = self._timeout
        return made

    def options(self, *, timeout: float | None = None) -> ToolMaker:
        """``await tool.options(timeout=60)(function, x)``: each keyword of the call is the function's.

        Args:
            timeout: seconds, after which the await raises a ToolError; 0: no limit; None: the fleet's
                ``tool_timeout``. A thread cannot be ended: a plain function that hangs keeps its slot.

        Raises:
            InvalidInput: not a number of seconds from 0 to ten years.
        """
        number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if timeout is not None and not (number and 0 <= timeout <= 3.2e8):
            raise InvalidInput(f"A tool's timeout is seconds, from 0 to ten years, not {timeout!r}.")
        return ToolMaker(self._make, timeout)


@ToolMaker
def tool(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Tool:
    """Run ``function(*args, **kwargs)`` and journal once what it returned; await the result in an agent.

    Args:
        function: plain or ``async``; a plain one runs in a thread. It may be run again when its worker
            is lost before the outcome is written: give what it does an id of your own, and look there first.
        args, kwargs: JSON values, as they are when the tool is awaited; the function gets its own copies.

    Returns:
        Something to await: what the function returned, as JSON gives it back (tuples become lists).

    Raises:
        ToolError: from the await, when the function raised.
    """
    if not callable(function):
        raise InvalidInput("tool() takes a function and its arguments: tool(f, x), not tool(f(x)).")
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    # Taken at the await, where the journal takes it: see Tool.taken.
    return Tool(
        ToolRequest(name=name, args=list(args), kwargs=kwargs), functools.partial(function, *args, **kwargs)
    )


def sleep(seconds: float) -> Sleep:
    """Wait without a process, a slot or a thread, for seconds or for weeks; await it inside an agent.

    Raises:
        InvalidInput: not a number of seconds from 0 to ten years.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3.2e8:
        raise InvalidInput(f"sleep() takes seconds, from 0 to ten years, not {seconds!r}.")
    return Sleep(SleepRequest(float(seconds)))


def signal(name: str) -> Signal:
    """Wait until somebody sends ``name`` to the job (``job.signal(name, value)``, ``aios-dist job signal``).

    Waits as :func:`sleep` does, at no cost in processes: for a human, for days. A signal that came before it
    is waited for is kept, and each answers one wait.

    Returns:
        Something to await: the value that was sent, or None.

    Raises:
        InvalidInput: the name cannot be one.
    """
    return Signal(SignalRequest(named("Signal name", name)))


def gather(*branches: Awaitable[Any], limit: int | None = None, return_exceptions: bool = False) -> Gather:
    """Wait for several at once: ``await gather(llm("a"), llm("b"), other_async_function(x))``.

    All branches are waited for, also when one fails: what is asked for is paid for. Then the first
    failure in the order of the arguments is raised, or, with ``return_exceptions``, put in its place.

    Args:
        branches: what is to be awaited.
        limit: so many at a time, in the order of the arguments; None: all. After a failure that is going to
            be raised, those that have not begun do not begin.
        return_exceptions: failures are results.

    Returns:
        Something to await: the list of results in the order of the arguments.

    Raises:
        InvalidInput: a limit that is no whole number from 1.
    """
    return Gather(branches, return_exceptions, limited("gather", limit))


def limited(what: str, limit: int | None) -> int | None:
    """The limit of ``gather()`` or ``as_done()``.

    Raises:
        InvalidInput: it is no whole number from 1.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidInput(f"{what}(limit=…) takes a whole number from 1, not {limit!r}.")
    return limit
