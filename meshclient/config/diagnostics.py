"""The findings of one load, collected. Knows no document."""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.model.source import Diagnostic, Severity

MAX_ERRORS = 1000


class Diagnostics:
    """Where the findings of all readers of one load go, in the order found.

    Keeps at most :data:`MAX_ERRORS` errors and as many warnings; notes
    (``info``) belong to model values and are all kept. Repeats are dropped.
    """

    def __init__(self) -> None:
        self._items: dict[Diagnostic, None] = {}
        self._counts: dict[Severity, int] = {"error": 0, "warning": 0, "info": 0}

    def append(self, diagnostic: Diagnostic) -> None:
        """Record one finding."""
        severity = diagnostic.severity
        if diagnostic in self._items:
            return
        self._counts[severity] += 1
        if severity != "info" and self._counts[severity] >= MAX_ERRORS:
            if self._counts[severity] == MAX_ERRORS:
                text = f"more than {MAX_ERRORS} {severity}s; the rest is not shown"
                self._items[Diagnostic(severity, "too-many", text, diagnostic.source)] = None
            return
        self._items[diagnostic] = None

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return self._counts["error"] > 0

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
