"""One route, compiled: what follows once it has matched.

The order of steps is Envoy's (``router.cc``, ``finalizeRequestHeaders``):
header edits scope by scope, then the host, then the path. Hence ``%REQ(:path)%``
in an added header is the path before the rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshclient.model.format_string import FormatContext
from meshclient.model.headers import HeaderMap
from meshclient.model.request import LocalReply, RequestHead
from meshclient.model.routes import (
    DirectResponse,
    ForwardAction,
    HeaderOperations,
    RedirectAction,
    Route,
    WeightedCluster,
)
from meshclient.routing.edits import HeaderEdits
from meshclient.routing.hash_policy import compile_hash_policy
from meshclient.routing.redirect import Redirect, direct_reply, finish_reply, redirect_reply
from meshclient.routing.rewrite import (
    compile_host_rewrite,
    compile_path_rewrite,
    rewrite_path,
    set_authority,
)
from meshclient.routing.split import Split

WallClock = Callable[[], float]
NO_EDITS = HeaderEdits(HeaderOperations())


class OuterScopes:
    """The edits of a virtual host and of its configuration, compiled once for
    all their routes."""

    __slots__ = ("most_specific_wins", "request", "response", "wall_clock")

    def __init__(
        self,
        request: tuple[HeaderEdits, HeaderEdits],
        response: tuple[HeaderEdits, HeaderEdits],
        most_specific_wins: bool,
        wall_clock: WallClock | None,
    ) -> None:
        self.request = request
        self.response = response
        self.most_specific_wins = most_specific_wins
        self.wall_clock = wall_clock

    def order(self, route: HeaderEdits, outer: tuple[HeaderEdits, HeaderEdits]) -> Scopes:
        """Route, virtual host, configuration; reversed if the most specific wins."""
        scopes = (route, *outer)
        return [s for s in (reversed(scopes) if self.most_specific_wins else scopes) if s]


Scopes = list[HeaderEdits]


class CompiledRoute:
    """A route of one virtual host. Immutable; shared by all calls.

    ``forward`` is the forward action (an empty one for redirects and direct
    responses). ``host_from_endpoint``: the caller sets the host through
    :meth:`set_host` after the pick. ``filters`` are put here when the plane is built;
    None: the route has none. ``hash_policies`` make the request's hash; None: it has none.
    """

    __slots__ = (
        "_host_read",
        "_outer",
        "_path_edit",
        "_redirect",
        "_request_scopes",
        "_response_scopes",
        "_split",
        "_weighted",
        "breaker",
        "filters",
        "forward",
        "has_request_edits",
        "has_response_edits",
        "hash_policies",
        "host_from_endpoint",
        "needs_random",
        "route",
    )

    def __init__(self, route: Route, outer: OuterScopes) -> None:
        self.route = route
        self._outer = outer
        self.filters: Sequence[Any] | None = None
        #: The route's own circuit breaker; put here when the plane is built.
        self.breaker: Any = None
        action = route.action
        self.forward = forward = action if isinstance(action, ForwardAction) else ForwardAction()
        self.hash_policies = compile_hash_policy(forward.hash_policy)
        self._redirect: Redirect | None = None
        if isinstance(action, RedirectAction):
            self._redirect = Redirect(action, route.match.path)
        self._split = Split(forward)
        self._request_scopes = outer.order(HeaderEdits(route.request_headers), outer.request)
        self._response_scopes = outer.order(HeaderEdits(route.response_headers), outer.response)
        self._weighted = [
            (c, HeaderEdits(c.request_headers), HeaderEdits(c.response_headers))
            for c in forward.clusters
            if c.request_headers or c.response_headers
        ]
        self._compile_rewrites(forward)
        self._set_flags(forward)

    def _compile_rewrites(self, forward: ForwardAction) -> None:
        host, path = forward.host_rewrite, forward.path_rewrite
        self._host_read = None if host is None else compile_host_rewrite(host)
        self.host_from_endpoint = host is not None and host.kind == "endpoint"
        self._path_edit = None
        if path is not None:
            self._path_edit = compile_path_rewrite(path, self.route.match.path)

    def _set_flags(self, forward: ForwardAction) -> None:
        mirrors = (mirror.fraction for mirror in forward.mirrors)
        self.needs_random = self._split.is_random or any(
            0 < fraction.numerator < fraction.denominator for fraction in mirrors
        )
        self.has_request_edits = bool(
            self._request_scopes
            or self._path_edit
            or self._host_read
            or any(request for _, request, _ in self._weighted)
            or any(cluster.host_rewrite for cluster in forward.clusters)
        )
        self.has_response_edits = bool(
            self._response_scopes or any(response for _, _, response in self._weighted)
        )

    def pick_cluster(self, head: RequestHead, random64: int) -> WeightedCluster | None:
        """The cluster for this request; None: the header that names it is
        absent, or no cluster has any weight."""
        return self._split.pick(head, random64)

    def edit_request(self, head: RequestHead, weighted: WeightedCluster | None) -> None:
        """Header edits of all scopes, host rewrite, path rewrite, in place."""
        request, _ = self._edits_of(weighted)
        context = None
        # The weighted cluster comes first even where the most specific scope wins, and its
        # host rewrite before the other scopes, which see the new host (Envoy 1.40).
        if request:
            context = self._context(head, weighted)
            request.apply(head.headers, context)
        if weighted is not None and weighted.host_rewrite:
            head.authority = weighted.host_rewrite  # no x-envoy-original-host, unlike the route's
        for scope in self._request_scopes:
            if context is None and not scope.is_constant:
                context = self._context(head, weighted)
            scope.apply(head.headers, context)
        if self._host_read is not None:
            host = self._host_read(head)
            if host:
                self.set_host(head, host)
        if self._path_edit is not None:
            rewrite_path(head, self._path_edit)

    def set_host(self, head: RequestHead, host: str) -> None:
        """Replace the host as the route's own rewrite does, with the headers
        that remember the old one."""
        set_authority(head, host, self.forward.append_x_forwarded_host)

    def edit_response(
        self,
        headers: HeaderMap,
        head: RequestHead,
        weighted: WeightedCluster | None,
        status: int,
        upstream_host: str = "",
    ) -> None:
        """Response header edits of all scopes, in place.

        ``head`` is the request as it was sent. ``status`` is 0 for a local
        reply: that is what Envoy's formatters see there.
        """
        _, response = self._edits_of(weighted)
        context = None
        for scope in (response, *self._response_scopes) if response else self._response_scopes:
            if context is None and not scope.is_constant:
                context = self._context(head, weighted)
                context.response = headers
                context.status = status
                context.upstream_host = upstream_host
            scope.apply(headers, context)

    def local_reply(self, head: RequestHead) -> LocalReply | None:
        """The answer of a redirect or direct response, response edits included;
        None for a route that forwards."""
        action = self.route.action
        if isinstance(action, DirectResponse):
            reply = direct_reply(action, head)
        elif isinstance(action, RedirectAction) and self._redirect is not None:
            reply = redirect_reply(self._redirect, action.status, head)
        else:
            return None
        self.edit_local_reply(reply, head, None)
        return reply

    def edit_local_reply(
        self, reply: LocalReply, head: RequestHead, weighted: WeightedCluster | None
    ) -> None:
        """Response edits and framing of an answer that no upstream gave, in place.

        Envoy edits these (no endpoint, unknown cluster, timeout, fault ...) like
        any response of the route; HEAD gets no body.
        """
        self.edit_response(reply.headers, head, weighted, 0)
        finish_reply(reply, head)

    def _edits_of(self, weighted: WeightedCluster | None) -> tuple[HeaderEdits, HeaderEdits]:
        for cluster, request, response in self._weighted:
            if cluster is weighted or cluster == weighted:
                return request, response
        return NO_EDITS, NO_EDITS

    def _context(self, head: RequestHead, weighted: WeightedCluster | None) -> FormatContext:
        clock = self._outer.wall_clock
        return FormatContext(
            head,
            cluster="" if weighted is None else weighted.cluster,
            route_name=self.route.name,
            wall_time_s=None if clock is None else clock(),
        )

    def __repr__(self) -> str:
        return f"<CompiledRoute {self.route.name or 'unnamed'}>"
