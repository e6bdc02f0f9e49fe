"""The ``routes`` of a native service: Reader to :class:`Route`.

One route with several matches becomes several model routes. Where a name is
looked up, :class:`Names` decides; how matching is done is in ``routing``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshclient.config.native_actions import (
    name_in,
    read_redirect,
    read_respond,
    read_rewrite,
)
from meshclient.config.native_balancing import read_subset_labels
from meshclient.config.native_match import NativeMatch, read_matches
from meshclient.config.native_names import Names
from meshclient.config.native_traffic import Traffic, read_traffic
from meshclient.config.native_values import (
    finish,
    header_edits,
    integer_of,
    required,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.routes import (
    Action,
    ForwardAction,
    HostRewrite,
    PathRewrite,
    Route,
    WeightedCluster,
)
from meshclient.model.snapshot import Node
from meshclient.model.source import Source

_ANSWERS = ("redirect", "respond")
_FORWARD_ONLY = (
    "to",
    "to_header",
    "split_by_header",
    "rewrite",
    "timeout",
    "idle_timeout",
    "retries",
    "mirror",
    "hedging",
    "hash_on",
    "subset",
    "priority",
    "fallback",
    "circuit_breaker",
)


@dataclass(frozen=True, slots=True)
class Owner:
    """The service that routes belong to."""

    service: str
    has_endpoints: bool
    traffic: Traffic
    names: Names
    node: Node


@dataclass(frozen=True, slots=True)
class PortRoute:
    """A route that stands only in the table of ``port`` (None: in every table)."""

    route: Route
    port: int | None


def read_routes(r: Reader | None, owner: Owner) -> list[PortRoute]:
    """All routes in order, with a catch-all to the service's own endpoints at the end."""
    found: list[PortRoute] = []
    closed_at: Source | None = None
    for index, item in enumerate(r.elements() if r is not None else []):
        if closed_at is not None:
            text = f"never used: the route in line {closed_at.line} matches every call"
            item.warning(text if closed_at.line else "never used: a route above matches every call")
            closed_at = None
        routes = _route(item, owner, index)
        found.extend(routes)
        if any(_matches_all(p) for p in routes):
            closed_at = closed_at or item.source
    if owner.has_endpoints and not any(_matches_all(p) for p in found):
        found.append(PortRoute(default_route(owner, r.source if r is not None else None), None))
    return found


def default_route(owner: Owner, source: Source | None = None) -> Route:
    """All endpoints of the service, for every call."""
    traffic = owner.traffic
    action = _forward((WeightedCluster(owner.service),), traffic)
    where = source or owner.names.services.get(owner.service, Source())
    return Route(
        action,
        name="(default)",
        fault=traffic.fault,
        filters=traffic.limiting.filters(),
        source=where,
    )


def _matches_all(candidate: PortRoute) -> bool:
    match = candidate.route.match
    conditions = (match.path, match.headers, match.query, match.cookies, match.fraction, match.grpc)
    return candidate.port is None and not any(conditions)


def _route(r: Reader, owner: Owner, index: int) -> list[PortRoute]:
    matches = read_matches(r.field("match"), owner.node)
    name = text_of(r, "name", f"routes[{index}]")
    answers = _answer(r)
    traffic, _ = read_traffic(r, owner.traffic, owner.names, owner.service, section="route_retries")
    action = _action(r, owner, traffic, answers, matches)
    request_headers = header_edits(r.field("request_headers"))
    response_headers = header_edits(r.field("response_headers"))
    finish(r, "route")
    if action is None:
        return []
    if not all(m.applies for m in matches):
        text = "a match of this route asks for another caller (labels or namespace): left out"
        r.info(text, code="other-caller")
    return [
        PortRoute(
            Route(
                action,
                match.match,
                name,
                request_headers,
                response_headers,
                traffic.fault,
                traffic.limiting.filters(isinstance(action, ForwardAction)),
                source=r.source,
            ),
            match.port,
        )
        for match in matches
        if match.applies
    ]


def _answer(r: Reader) -> Action | None:
    """The redirect or direct response of a route; it excludes what only forwarding has."""
    redirect, respond = r.field("redirect"), r.field("respond")
    if redirect is None and respond is None:
        return None
    given = [name for name in (*_ANSWERS, *_FORWARD_ONLY) if r.field(name) is not None]
    for other in given[1:]:
        child = r.field(other)
        if child is not None:
            child.error(f'has no effect together with "{given[0]}"', code="conflict")
    if redirect is not None:
        return read_redirect(redirect)
    return read_respond(respond) if respond is not None else None


def _action(
    r: Reader, owner: Owner, traffic: Traffic, answer: Action | None, matches: list[NativeMatch]
) -> Action | None:
    to, header, split = r.field("to"), r.field("to_header"), r.field("split_by_header")
    wanted = r.field("subset")
    rewrite = r.field("rewrite")
    path_rewrite, host_rewrite = read_rewrite(rewrite) if rewrite is not None else (None, None)
    if path_rewrite is not None:
        _check_prefix_rewrite(r, path_rewrite, matches)
    clusters = _destinations(to, header, owner, r)
    to_header = name_in(header)
    weight_header = name_in(split)
    if split is not None and len(clusters) < 2:
        split.error("split_by_header needs weights: to: {v1: 90, v2: 10}")
    if answer is not None:
        return answer
    if not clusters and not to_header:
        return None
    action = _forward(clusters, traffic, to_header, weight_header, path_rewrite, host_rewrite)
    return action if wanted is None else replace(action, subset=read_subset_labels(wanted))


def _forward(
    clusters: tuple[WeightedCluster, ...],
    traffic: Traffic,
    cluster_header: str = "",
    weight_header: str = "",
    path_rewrite: PathRewrite | None = None,
    host_rewrite: HostRewrite | None = None,
) -> ForwardAction:
    return ForwardAction(
        clusters=clusters,
        cluster_header=cluster_header,
        weight_header=weight_header,
        path_rewrite=path_rewrite,
        host_rewrite=host_rewrite,
        timeout_s=traffic.timeout_s,
        idle_timeout_s=traffic.idle_timeout_s,
        retry=traffic.retry,
        hash_policy=traffic.hash_policy,
        mirrors=traffic.mirrors,
        circuit_breaker=traffic.circuit_breaker,
        hedging=traffic.hedging,
        fallback=traffic.fallback,
        priority=traffic.priority,
    )


def _destinations(
    to: Reader | None, header: Reader | None, owner: Owner, r: Reader
) -> tuple[WeightedCluster, ...]:
    if to is not None and header is not None:
        header.error('give only one of "to" and "to_header"', code="conflict")
    if to is None:
        answered = any(r.field(name) is not None for name in _ANSWERS)
        if header is not None or answered or not r.is_mapping:
            return ()
        if not owner.has_endpoints:
            text = f'"to" is missing, and {owner.service} has no endpoints of its own'
            r.error(text, code="missing-field")
            return ()
        return (WeightedCluster(owner.service),)
    if to.is_mapping:
        return _split(to, owner)
    named = to.string()
    cluster = owner.names.cluster(named, owner.service, to) if named is not None else None
    return () if cluster is None else (WeightedCluster(cluster),)


def _split(r: Reader, owner: Owner) -> tuple[WeightedCluster, ...]:
    shares: list[WeightedCluster] = []
    for name, child in r.items():
        target = owner.names.cluster(name, owner.service, child)
        share = _share(child, target or name)
        if target is not None and share is not None:
            shares.append(share)
    complete = len(shares) == len(r.node.value)
    total = sum(share.weight for share in shares)
    if complete and (total == 0 or total > 2**32 - 1):
        r.error(f"the weights sum to {total}; at least one must be above 0, at most 2^32 - 1")
    return tuple(shares)


def _share(r: Reader, cluster: str) -> WeightedCluster | None:
    if not r.is_mapping:
        weight = r.integer(0, 2**32 - 1)
        return None if weight is None else WeightedCluster(cluster, weight)
    required(r, "weight")
    share = WeightedCluster(
        cluster,
        integer_of(r, "weight", 0, 0),
        header_edits(r.field("request_headers")),
        header_edits(r.field("response_headers")),
        wire_text(text_of(r, "host")),
    )
    finish(r, "share")
    return share


def _check_prefix_rewrite(r: Reader, rewrite: PathRewrite, matches: list[NativeMatch]) -> None:
    """Envoy swaps what the match matched; without a path match that is nothing."""
    if rewrite.kind == "prefix" and any(m.match.path is None for m in matches):
        r.error(
            "a prefix is rewritten, but no prefix is matched",
            suggestion="add match: {prefix: ...} or use rewrite: {path: ...}",
        )
