"""What a look-up can say, as values: records, their absence, or why nobody knows.

No I/O and no dnspython type: everything after the wire speaks in these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["A", "AAAA", "SRV"]
ADDRESS_KINDS: tuple[Kind, Kind] = ("AAAA", "A")

FailureKind = Literal["servfail", "timeout", "refused", "unreachable", "malformed"]


class LookupFailed(Exception):
    """Nobody could say whether the records exist: old knowledge stays good.

    ``unreachable`` means that no server could even be sent the query.
    """

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record (RFC 2782). ``target`` is absolute, with its final dot."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Glue:
    """Addresses of an SRV target that came along in the additional section."""

    target: str
    v6: tuple[str, ...] = ()
    v4: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Records:
    """A definite answer for one name and type; also a definite "there is none".

    ``ttl_s`` is the smallest TTL of the CNAME chain and the records, or the
    negative TTL (RFC 2308). ``alias`` is set when the chain ended outside what
    the server knows and has to be asked on.
    """

    outcome: Literal["found", "no_data", "no_name"]
    ttl_s: float
    addresses: tuple[str, ...] = ()
    services: tuple[SrvRecord, ...] = ()
    glue: tuple[Glue, ...] = ()
    server: str = ""
    alias: str = ""


Part = Records | LookupFailed


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The answers for one name, by record type.

    ``name`` is the absolute name that was asked (after the search list).
    ``passed_over`` is the error of an earlier name of the search list which
    might have been the right one.
    """

    name: str
    parts: Mapping[Kind, Part]
    passed_over: str = ""

    @property
    def found(self) -> bool:
        """At least one type has records."""
        return any(isinstance(p, Records) and p.outcome == "found" for p in self.parts.values())

    @property
    def failure(self) -> LookupFailed | None:
        """The first failure among the types, if any failed."""
        return next((p for p in self.parts.values() if isinstance(p, LookupFailed)), None)

    @property
    def ttl_s(self) -> float:
        """The smallest TTL: of the records when there are some, else of the denials."""
        answers = [p for p in self.parts.values() if isinstance(p, Records)]
        positive = [p.ttl_s for p in answers if p.outcome == "found"]
        return min(positive or [p.ttl_s for p in answers], default=0.0)

    def denial(self) -> str:
        """A sentence on why there are no records; for a negative result only."""
        answers = [p for p in self.parts.values() if isinstance(p, Records)]
        server = next((p.server for p in answers if p.server), "")
        missing = any(p.outcome == "no_name" for p in answers)
        what = "does not exist (NXDOMAIN)" if missing else f"has no {'/'.join(self.parts)} record"
        return f"{self.name} {what}" + (f", says {server}" if server else "")
