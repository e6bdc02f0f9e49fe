"""What answers in the place of a failed call: settings only, see :mod:`meshclient.resilience`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StaticAnswer:
    """A response that stands in the policy."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class LastGood:
    """Which good answers to GETs are kept, and for how long.

    At most ``max_entries`` of ``max_entry_bytes`` each and ``max_bytes`` together (bodies and
    headers), up to ``max_age_s`` seconds old. Answers are told apart by host, path with query,
    the request ``headers`` named here, and those that the answer's ``Vary`` names. With
    ``authorization`` also answers to requests with credentials are kept, told apart by them.
    """

    max_age_s: float = 300.0
    max_entries: int = 1000
    max_entry_bytes: int = 64 * 1024
    max_bytes: int = 16 * 1024 * 1024
    headers: tuple[str, ...] = ()
    authorization: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """What answers when a call of the route has failed for good; the first that can.

    In this order: a function of the program's, ``last_good``, another ``cluster`` (``host`` is
    its service, whose own routes then apply; empty: the cluster alone is another one), and
    ``respond``. ``local``: after failures without a response; ``statuses``: after responses with
    these. A request that a server may have seen goes to another one only if its method is
    idempotent, or with ``any_method``.
    """

    local: bool = True
    statuses: frozenset[int] = frozenset(range(500, 600))
    last_good: LastGood | None = None
    cluster: str = ""
    host: str = ""
    any_method: bool = False
    respond: StaticAnswer | None = None


#: The conditions of a program's function where the policy has no fallback.
DEFAULT_FALLBACK = Fallback()

__all__ = ["DEFAULT_FALLBACK", "Fallback", "LastGood", "StaticAnswer"]
