"""Where a piece of policy was written, and what is to be said about it.

Values only. Nothing here reads a file; :mod:`meshclient.config` fills these in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]

#: A setting that was read and validated, but that nothing acts on yet.
NOT_HONOURED = "not-honoured"


@dataclass(frozen=True, slots=True)
class Source:
    """A position in a policy document.

    ``line`` and ``column`` count from 1; 0 means unknown (a document that was
    given as a parsed mapping has no lines). ``document`` names the object the
    way its own project does, such as ``VirtualService default/reviews``.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    document: str = ""

    def __str__(self) -> str:
        where = self.file or "<memory>"
        if self.line:
            where += f":{self.line}:{self.column}"
        return where

    @property
    def short(self) -> str:
        """``file:line`` and the document's name, for explanations."""
        where = f"{self.file or '<memory>'}:{self.line}" if self.line else self.file or "<memory>"
        return f"{where} ({self.document})" if self.document else where

    @property
    def cited(self) -> str:
        """``short`` in brackets, for the end of a sentence; empty where nothing is known."""
        return f"  [{self.short}]" if self.file or self.document else ""


UNKNOWN_SOURCE = Source()


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding about a policy document.

    ``field`` is the path inside the document (``spec.http[0].retries.attempts``),
    ``suggestion`` the likely fix in a few words, ``code`` a stable identifier
    that tools may filter on.
    """

    severity: Severity
    code: str
    message: str
    source: Source = UNKNOWN_SOURCE
    field: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.severity}: "]
        if self.source.document:
            parts.append(f"{self.source.document}: ")
        if self.field:
            parts.append(f"{self.field}: ")
        parts.append(self.message)
        if self.suggestion:
            parts.append(f" ({self.suggestion})")
        return "".join(parts)
