"""The last good addresses of one name, and what a new look-up does to them.

A pure policy: no I/O, no clock. Source: Envoy ``dns_cluster.cc`` (an empty
successful answer removes, a failure keeps; each family by itself).
"""

from __future__ import annotations

from typing import Literal

from meshclient.discovery.answers import Kind, LookupResult, Records


def doubt(result: LookupResult, asked: str) -> str:
    """Why ``result`` must not replace what is known of the absolute name ``asked``; or "".

    With a search list, a failing first name lets a later one answer, or the
    other way round: that is another service, not news of this one.
    """
    if result.name == asked or not asked:
        return ""
    failure = result.failure
    if failure is not None and not result.found:
        return failure.text
    return result.passed_over


class AddressMemory:
    """Addresses by family, and how good they are.

    ``answered``: some look-up was definite; ``failing``: the last one was not,
    ``error`` says why (also set, as a note, when the name has no addresses).
    """

    __slots__ = ("_asked", "_by_kind", "answered", "error", "failing")

    def __init__(self) -> None:
        self._by_kind: dict[Kind, tuple[str, ...]] = {}
        self._asked = ""
        self.answered = False
        self.failing = False
        self.error = ""

    @property
    def v6(self) -> tuple[str, ...]:
        """In the order of the answer."""
        return self._by_kind.get("AAAA", ())

    @property
    def v4(self) -> tuple[str, ...]:
        """In the order of the answer."""
        return self._by_kind.get("A", ())

    @property
    def state(self) -> Literal["ready", "stale", "failed"]:
        """As in :class:`~meshclient.model.endpoint.EndpointSet`."""
        if not self.failing:
            return "ready"
        return "stale" if self.answered else "failed"

    def absorb_early(self, result: LookupResult) -> None:
        """Use the family that answered first; the other keeps what it has.

        Only for the name already in use: whether another one may take over
        shows in the complete result.
        """
        if self._asked not in ("", result.name):
            return
        for kind, part in result.parts.items():
            if isinstance(part, Records) and part.outcome == "found":
                self._by_kind[kind] = part.addresses
        self._accept(result.name, "")

    def absorb(self, result: LookupResult, *, empty_is_failure: bool = False) -> tuple[bool, bool]:
        """Take a complete look-up in; returns (found, failed) for the refresh timer.

        ``empty_is_failure``: a denial keeps the addresses (LOGICAL_DNS).
        """
        failure = result.failure
        if doubtful := doubt(result, self._asked):
            return self._fail(doubtful)
        if failure is None and not result.found and empty_is_failure:
            return self._fail(result.denial())
        kept = any(
            self._by_kind.get(k) for k, p in result.parts.items() if not isinstance(p, Records)
        )
        self._by_kind = {
            kind: part.addresses if isinstance(part, Records) else self._by_kind.get(kind, ())
            for kind, part in result.parts.items()
        }
        if failure is None or result.found:
            self._accept(result.name, "" if result.found else result.denial())
        if failure is not None and (kept or not result.found):
            self._fail(failure.text)
        return result.found, failure is not None

    def _accept(self, name: str, note: str) -> None:
        self._asked = name
        self.answered = True
        self.failing = False
        self.error = note

    def _fail(self, error: str) -> tuple[bool, bool]:
        self.failing = True
        self.error = error
        return False, True
