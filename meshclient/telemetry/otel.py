"""The current OpenTelemetry span's context as header lines, where there is one.

OpenTelemetry is used where the program has loaded it, and never loaded for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from meshclient.model.headers import RawHeaders

#: Loaded by whoever makes spans.
MODULE = "opentelemetry.trace"

_modules = sys.modules
_inject: Callable[[dict[str, str]], Any] | None = None


def span_lines() -> RawHeaders:
    """What the global propagator writes for the current span; empty without a valid one.

    Costs a dictionary look-up where OpenTelemetry is not loaded.
    """
    trace = _modules.get(MODULE)
    if trace is None:
        return []
    if not trace.get_current_span().get_span_context().is_valid:
        return []
    carrier: dict[str, str] = {}
    _injector()(carrier)
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in carrier.items()
    ]


def _injector() -> Callable[[dict[str, str]], Any]:
    global _inject
    if _inject is None:
        from opentelemetry.propagate import inject

        _inject = inject
    return _inject


__all__ = ["MODULE", "span_lines"]
