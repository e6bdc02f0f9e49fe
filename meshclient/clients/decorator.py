"""``@mesh.call("payments")``: a service's policy around any function that calls it.

Two drivers, one for blocking and one for async functions, each a short loop: ask the call,
run the function, tell the call. No policy in here, and no wire.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from meshclient import errors
from meshclient.call import Call
from meshclient.clients.any_loop import Expired, bounded, sleep_here
from meshclient.clients.function_outcome import Classifier, Classify
from meshclient.clients.holding import wait_out, wait_out_async
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import RequestHead, head_of
from meshclient.telemetry.propagation import current

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.clients.function_fallback import FunctionFallback
    from meshclient.clients.hedged_function import Function
    from meshclient.clients.runtime import Runtime
    from meshclient.resilience import RetryStrategy

P = ParamSpec("P")
R = TypeVar("R")

#: The parameter that receives the pick.
_ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a decorated call may say for itself; None: as the service's policy has it.

    ``timeout`` (seconds) is the caller's own bound over all tries and back-offs.
    ``idempotent``: it may be repeated after the service may have seen it (the call counts
    as a GET, else as a POST, unless ``method`` says more). ``path``, ``method`` and ``headers``
    are what routes match; the path defaults to the function's name. ``strategy`` are
    tenacity's objects (:class:`meshclient.RetryStrategy`). ``failures`` are further exceptions,
    ``classify`` a function, that tell what counts as a failure of the service. ``fallback`` gives
    the result where the service failed for good: a function of the exception (or the result that
    counts as a failure) and the call's own arguments, async or not for an async function.
    """

    timeout: float | None = None
    idempotent: bool = False
    method: str = ""
    path: str = ""
    headers: Mapping[str, str] | None = None
    strategy: RetryStrategy | None = None
    failures: type[BaseException] | tuple[type[BaseException], ...] = ()
    classify: Classify | None = None
    fallback: FunctionFallback | None = None

    def __post_init__(self) -> None:
        from meshclient.resilience import RetryStrategy

        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is in seconds, above 0, not {self.timeout!r}")
        if self.strategy is not None and not isinstance(self.strategy, RetryStrategy):
            raise TypeError(
                f"strategy is a RetryStrategy of tenacity objects, not {self.strategy!r}: "
                "meshclient.RetryStrategy(wait=tenacity.wait_fixed(1))"
            )
        if self.fallback is not None and not callable(self.fallback):
            raise TypeError(f"fallback is a function of the failure, not {self.fallback!r}")


class CallPolicy:
    """The policy of one service, ready to be put around functions. Thread-safe.

    A decorator; :meth:`run` and :meth:`arun` do the same for one call of any function.
    """

    def __init__(
        self,
        runtime: Runtime,
        target: str,
        options: CallOptions,
        sleep: Callable[[float], object] = time.sleep,
        async_sleep: Callable[[float], Awaitable[object]] = sleep_here,
    ) -> None:
        self._runtime = runtime
        self._sleep = sleep
        self._async_sleep = async_sleep
        self._target = target
        self._options = options
        self._classifier = Classifier(options.failures, options.classify)
        url = target if "://" in target else f"http://{target}"
        method = options.method or ("GET" if options.idempotent else "POST")
        # A bad name is an error here, not at the first call.
        self._base = head_of(method, url, options.headers)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Put the policy around ``function``, whose name, signature and docstring stay.

        Raises TypeError for a generator, whose work is done after it has returned, and for a
        class: its methods are what calls.
        """
        if inspect.isclass(function):
            raise TypeError(f"{function.__qualname__} is a class: decorate its methods")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator, which cannot be repeated")
        wants_endpoint = _takes_endpoint(function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def around(*args: Any, **kwargs: Any) -> Any:
                return await self._carry_async(function, args, kwargs, wants_endpoint)

        else:

            @functools.wraps(function)
            def around(*args: Any, **kwargs: Any) -> Any:
                return self._carry(function, args, kwargs, wants_endpoint)

        around.__meshclient__ = self  # type: ignore[attr-defined]
        return cast("Callable[P, R]", around)

    def override(self, **options: Any) -> CallPolicy:
        """The same service with other options, those of :class:`CallOptions`."""
        return CallPolicy(
            self._runtime,
            self._target,
            replace(self._options, **options),
            self._sleep,
            self._async_sleep,
        )

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """One call of a blocking ``function``; of a decorated one, without its decorator."""
        bare = _bare(function)
        return cast("R", self._carry(bare, args, kwargs, _takes_endpoint(bare)))

    async def arun(
        self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """:meth:`run` for an async ``function``."""
        bare = _bare(function)
        return cast("R", await self._carry_async(bare, args, kwargs, _takes_endpoint(bare)))

    # -- with a fallback ---------------------------------------------------------

    def _carry(
        self, function: Callable[..., Any], args: Any, kwargs: Any, wants_endpoint: bool
    ) -> Any:
        fallback = self._options.fallback
        if fallback is None:
            return self._drive(function, args, kwargs, wants_endpoint)
        from meshclient.clients.function_fallback import fall_back

        run = functools.partial(self._drive, function, args, kwargs, wants_endpoint)
        return fall_back(run, fallback, self._classifier, args, kwargs)

    async def _carry_async(
        self, function: Callable[..., Any], args: Any, kwargs: Any, wants_endpoint: bool
    ) -> Any:
        fallback = self._options.fallback
        if fallback is None:
            return await self._drive_async(function, args, kwargs, wants_endpoint)
        from meshclient.clients.function_fallback import fall_back_async

        run = functools.partial(self._drive_async, function, args, kwargs, wants_endpoint)
        return await fall_back_async(run, fallback, self._classifier, args, kwargs)

    # -- the two loops -----------------------------------------------------------

    def _drive(
        self, function: Callable[..., Any], args: Any, kwargs: Any, wants_endpoint: bool
    ) -> Any:
        clock = self._runtime.clock
        call = self._begin(function)
        error: Exception | None = None
        outcome: Outcome | None
        try:
            if call.hold is not None:
                wait_out(self._runtime, call, self._sleep, clock())
            self._check_reply(call)
            if call.hedge is not None:
                work = self._work(function, args, kwargs, wants_endpoint)
                return self._drive_hedged(call, work)
            while True:
                attempt = _next(call, clock(), error)
                given = {_ENDPOINT: attempt.peer, **kwargs} if wants_endpoint else kwargs
                result, error = None, None
                try:
                    result = function(*args, **given)
                    outcome = self._classifier.of_result(result)
                except Exception as raised:
                    error, outcome = raised, self._classifier.of_error(raised)
                delay_s = self._settle(call, attempt, outcome)
                if delay_s is None:
                    return _end(call, result, error)
                self._sleep(delay_s)
        finally:
            call.abandon(clock())

    async def _drive_async(
        self, function: Callable[..., Any], args: Any, kwargs: Any, wants_endpoint: bool
    ) -> Any:
        clock = self._runtime.clock
        call = self._begin(function)
        error: Exception | None = None
        outcome: Outcome | None
        try:
            if call.hold is not None:
                await wait_out_async(self._runtime, call, self._async_sleep, clock())
            self._check_reply(call)
            if call.hedge is not None:
                work = self._work(function, args, kwargs, wants_endpoint)
                return await self._drive_hedged_async(call, work)
            while True:
                attempt = _next(call, clock(), error)
                given = {_ENDPOINT: attempt.peer, **kwargs} if wants_endpoint else kwargs
                limit_s, reason = _limit(attempt, clock())
                result, error = None, None
                try:
                    result = await bounded(function(*args, **given), limit_s)
                    outcome = self._classifier.of_result(result)
                except Expired as expired:
                    error, outcome = expired, Outcome(reset=reason, error=expired)
                except Exception as raised:
                    error, outcome = raised, self._classifier.of_error(raised)
                delay_s = self._settle(call, attempt, outcome)
                if delay_s is None:
                    return _end(call, result, error)
                await self._async_sleep(delay_s)
        finally:
            call.abandon(clock())

    # -- with several tries at once ----------------------------------------------------

    def _drive_hedged(self, call: Call, work: Function) -> Any:
        from meshclient.clients.hedged_function import drive

        return _end(call, *drive(self._runtime, call, work, self._sleep))

    async def _drive_hedged_async(self, call: Call, work: Function) -> Any:
        from meshclient.clients.hedged_function import drive_async

        return _end(call, *await drive_async(self._runtime, call, work, self._async_sleep))

    def _work(
        self, function: Callable[..., Any], args: Any, kwargs: Any, wants_endpoint: bool
    ) -> Function:
        from meshclient.clients.hedged_function import Function

        def given(attempt: Attempt) -> Any:
            return {_ENDPOINT: attempt.peer, **kwargs} if wants_endpoint else kwargs

        def limit(attempt: Attempt) -> tuple[float | None, ResetReason]:
            return _limit(attempt, self._runtime.clock())

        return Function(function, args, given, self._classifier, limit)

    # -- what they share -----------------------------------------------------------

    def _begin(self, function: Callable[..., Any]) -> Call:
        runtime = self._runtime
        options = self._options
        path = options.path or f"/{getattr(function, '__name__', 'call')}"
        base = self._base
        return Call(
            runtime.current(),
            RequestHead(
                base.method,
                base.scheme,
                base.authority,
                base.port,
                base.path.rstrip("/") + path,
                base.headers.copy(),
                base.dialled,
            ),
            runtime.clock(),
            runtime.rand,
            patience_s=options.timeout,
            strategies=runtime.strategies,
            wall_clock=runtime.wall_clock,
            strategy=options.strategy,
            inbound=current(),
        )

    def _check_reply(self, call: Call) -> None:
        """A function cannot return the response that the policy would give in its place."""
        reply = call.reply
        if reply is not None:
            what = f"{self._target}: the policy answers in the service's place: {reply.status}"
            if call.notes:
                what = f"{what}: {call.notes[-1]}"
            answered = errors.AnsweredLocally(what, call.report)
            answered.status, answered.body = reply.status, reply.body.decode("latin-1")
            raise answered

    def _settle(self, call: Call, attempt: Attempt, outcome: Outcome | None) -> float | None:
        now = self._runtime.clock()
        if outcome is None:
            call.disregard(attempt, now)
            return None
        delay_s = call.settle(attempt, outcome, now)
        attempt.close(now)
        return delay_s


def _next(call: Call, now: float, error: Exception | None) -> Attempt:
    try:
        return call.next_attempt(now)
    except errors.CallError as refused:
        # What the function last raised is why there was another try at all.
        raise refused from error


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    return function.__wrapped__ if hasattr(function, "__meshclient__") else function  # type: ignore[attr-defined]


def _end(call: Call, result: Any, error: Exception | None) -> Any:
    """The function's own result or exception; where our limit cut it short, our own."""
    if error is None:
        return result
    if isinstance(error, Expired) and call.error is not None:
        raise call.error from error
    tries = len(call.attempts)
    if tries > 1:
        error.add_note(f"meshclient: {tries} tries: {call.report}")
    raise error


def _limit(attempt: Attempt, now: float) -> tuple[float | None, ResetReason]:
    """How long the try may take, and what it means when it takes longer."""
    limit_s, reason = attempt.response_timeout_s, ResetReason.PER_TRY_TIMEOUT
    if attempt.deadline is not None and (limit_s is None or attempt.deadline - now < limit_s):
        return max(0.0, attempt.deadline - now), ResetReason.ROUTE_TIMEOUT
    return limit_s, reason


def _takes_endpoint(function: Callable[..., Any]) -> bool:
    try:
        return _ENDPOINT in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def call_policy(runtime: Runtime, target: str, options: Mapping[str, Any]) -> CallPolicy:
    """What ``Mesh.call`` gives. Raises TypeError for an unknown option."""
    known = set(CallOptions.__dataclass_fields__)
    unknown: Iterable[str] = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"unknown option {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    made = CallOptions(**options)
    return CallPolicy(runtime, target, made, runtime.sleep, runtime.async_sleep)


__all__ = ["CallOptions", "CallPolicy", "call_policy"]
