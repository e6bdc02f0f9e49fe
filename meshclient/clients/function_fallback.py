"""What answers in the place of a decorated function whose service failed for good.

Around the driver's loop, for functions with a fallback only; it decides nothing about tries.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from meshclient import errors
from meshclient.clients.function_outcome import Classifier
from meshclient.model.outcome import Outcome

#: ``(failure, *args, **kwargs) -> result``: those of the call, after its exception or result.
FunctionFallback = Callable[..., Any]

_NOT_COVERED = (errors.SecurityError, errors.InvalidRequest)


def fall_back(
    run: Callable[[], Any],
    fallback: FunctionFallback,
    classifier: Classifier,
    args: Any,
    kwargs: Any,
) -> Any:
    """The result of ``run``, or that of ``fallback``."""
    try:
        result = run()
    except Exception as error:
        if not _covers(error, classifier):
            raise
        # In here, so that an exception of the fallback's own shows the failure, too.
        return fallback(error, *args, **kwargs)
    return fallback(result, *args, **kwargs) if _failed(classifier.of_result(result)) else result


async def fall_back_async(
    run: Callable[[], Awaitable[Any]],
    fallback: FunctionFallback,
    classifier: Classifier,
    args: Any,
    kwargs: Any,
) -> Any:
    """:func:`fall_back` for async functions; ``fallback`` may be async or not."""
    try:
        result = await run()
    except Exception as error:
        if not _covers(error, classifier):
            raise
        return await _value(fallback(error, *args, **kwargs))
    if _failed(classifier.of_result(result)):
        return await _value(fallback(result, *args, **kwargs))
    return result


async def _value(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


def _covers(error: Exception, classifier: Classifier) -> bool:
    """Failures of the service and of the way to it, not mistakes of the function's own."""
    if isinstance(error, errors.CallError):
        return not isinstance(error, _NOT_COVERED)
    return not isinstance(error, errors.MeshError) and _failed(classifier.of_error(error))


def _failed(outcome: Outcome | None) -> bool:
    if outcome is None:
        return False
    return outcome.reset is not None or outcome.status >= 500 or outcome.grpc_status > 0


__all__ = ["FunctionFallback", "fall_back", "fall_back_async"]
