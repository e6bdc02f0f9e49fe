"""Virtual hosts, routes and what a route does, in Envoy's terms.

Values only. Matching and rewriting are in :mod:`meshclient.routing`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from meshclient.model.breaker import CircuitBreaker
from meshclient.model.endpoint import Labels
from meshclient.model.fallback import Fallback
from meshclient.model.hedging import Comparison, Hedging
from meshclient.model.matching import MATCH_ALL, Fraction, RouteMatch
from meshclient.model.retry import RetryPolicy
from meshclient.model.source import UNKNOWN_SOURCE, Diagnostic, Source


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """Set one header. ``value`` is an Envoy format string (``%REQ(x-a)%``, ``%%``).

    An empty result is skipped unless ``keep_empty``.
    """

    name: str
    value: str
    action: Literal["append", "overwrite", "add_if_absent", "overwrite_if_exists"] = "append"
    keep_empty: bool = False


@dataclass(frozen=True, slots=True)
class HeaderOperations:
    """Edits of one scope. Order as in Envoy's ``header_parser.cc``: removals,
    then all overwrites, then all appends."""

    remove: tuple[str, ...] = ()
    changes: tuple[HeaderChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.remove or self.changes)


NO_OPERATIONS = HeaderOperations()


@dataclass(frozen=True, slots=True)
class PathRewrite:
    """``prefix`` swaps the matched prefix (the whole path for exact and regex
    matches), ``full`` replaces the path, ``regex`` replaces every match of
    ``pattern`` by ``value`` with ``\\1`` groups. The query stays."""

    kind: Literal["prefix", "full", "regex"]
    value: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class HostRewrite:
    """``literal`` text, the value of a ``header``, ``path_regex`` applied to the
    path, or the ``endpoint``'s own host name (``auto_host_rewrite``)."""

    kind: Literal["literal", "header", "path_regex", "endpoint"]
    value: str = ""
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """One share of a split. Share = ``weight`` / sum of weights."""

    cluster: str
    weight: int = 1
    request_headers: HeaderOperations = NO_OPERATIONS
    response_headers: HeaderOperations = NO_OPERATIONS
    host_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class HashPolicy:
    """One source of the consistent-hash key. ``ttl_s`` None: no cookie is made.

    ``pattern`` (RE2) and ``substitution`` rewrite each value of a header before it is
    hashed. ``context`` is a value that the caller's own context holds under ``name``
    (Envoy's filter state). ``terminal``: with a key by then, later sources do not count.
    ``attributes`` are further ones of a cookie that is made; an empty value is a bare name.
    """

    kind: Literal["header", "cookie", "query", "source_ip", "context"]
    name: str = ""
    ttl_s: float | None = None
    path: str = ""
    terminal: bool = False
    pattern: str = ""
    substitution: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of the request to ``cluster``; its answer is dropped.

    ``host_suffix`` puts ``-shadow`` after the copy's host name, as a plain Envoy does (Istio
    does not). ``compare``: what of the two answers is compared; None: nothing.
    """

    cluster: str
    fraction: Fraction = Fraction(100)
    host_suffix: bool = False
    compare: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Injected delay, then injected abort; independent draws.

    ``by_header``: the request's ``x-envoy-fault-*`` headers say what is injected, and the
    fractions bound how often. ``max_active`` calls at most suffer at a time.
    """

    delay_s: float | None = None
    delay_fraction: Fraction = Fraction(0)
    abort_status: int | None = None
    abort_grpc_status: int | None = None
    abort_fraction: Fraction = Fraction(0)
    by_header: bool = False
    max_active: int = 2**32 - 1
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


@dataclass(frozen=True, slots=True)
class ForwardAction:
    """Send the request to a cluster.

    ``clusters`` are one or more weighted targets; ``cluster_header`` names a
    request header that holds the cluster's name instead. ``weight_header``
    names a request header that decides the split (an unsigned integer, modulo
    the sum). ``timeout_s`` covers all tries and back-off; None: none. ``subset`` are
    sorted labels for the subset balancer (Envoy's ``metadata_match``).
    """

    clusters: tuple[WeightedCluster, ...] = ()
    cluster_header: str = ""
    weight_header: str = ""
    cluster_not_found_status: int = 503
    path_rewrite: PathRewrite | None = None
    host_rewrite: HostRewrite | None = None
    append_x_forwarded_host: bool = False
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    retry: RetryPolicy | None = None
    hash_policy: tuple[HashPolicy, ...] = ()
    subset: Labels = ()
    mirrors: tuple[Mirror, ...] = ()
    hedging: Hedging | None = None
    fallback: Fallback | None = None
    include_attempt_count: bool = False
    priority: Literal["default", "high"] = "default"
    circuit_breaker: CircuitBreaker | None = None


@dataclass(frozen=True, slots=True)
class RedirectAction:
    """Answer with a redirect. Empty fields keep what the request had.

    ``path`` replaces the whole path (and the query, when it has a ``?``);
    ``path_rewrite`` edits it. ``port`` None keeps the port, unless the scheme
    changes away from the default one. Source: Envoy ``utility.cc newUri``.
    """

    status: int = 301
    scheme: str = ""
    https: bool = False
    host: str = ""
    port: int | None = None
    path: str = ""
    path_rewrite: PathRewrite | None = None
    strip_query: bool = False


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """Answer without an upstream."""

    status: int
    body: bytes = b""


Action = ForwardAction | RedirectAction | DirectResponse


@dataclass(frozen=True, slots=True)
class Route:
    """One match and what follows from it. ``name`` is for reports only.

    ``filters`` are the settings of what stands before the router, in order, the fault
    excepted, which comes first.
    """

    action: Action
    match: RouteMatch = MATCH_ALL
    name: str = ""
    request_headers: HeaderOperations = NO_OPERATIONS
    response_headers: HeaderOperations = NO_OPERATIONS
    fault: Fault | None = None
    filters: tuple[Hashable, ...] = ()
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)
    not_honoured: tuple[Diagnostic, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """The ordered routes of some host names; the first that matches wins.

    ``domains`` are lower-case: exact names, ``*suffix``, ``prefix*`` or ``*``.
    """

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    request_headers: HeaderOperations = NO_OPERATIONS
    response_headers: HeaderOperations = NO_OPERATIONS
    include_attempt_count: bool = False
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


@dataclass(frozen=True, slots=True)
class RouteConfiguration:
    """The virtual hosts of one dialled port (or of any port).

    ``ignore_port`` compares the Host header without its port, as Istio does;
    plain Envoy does not. Header scopes run route, virtual host, configuration,
    so that the least specific wins on overwrite, unless
    ``most_specific_wins``.
    """

    name: str
    virtual_hosts: tuple[VirtualHost, ...] = ()
    ignore_port: bool = True
    request_headers: HeaderOperations = NO_OPERATIONS
    response_headers: HeaderOperations = NO_OPERATIONS
    most_specific_wins: bool = False
