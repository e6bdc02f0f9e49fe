"""Generated rewrites, header edits, splits, redirects and direct responses."""

from __future__ import annotations

from collections.abc import Callable

from meshclient.model.matching import RouteMatch
from meshclient.model.routes import (
    Action,
    DirectResponse,
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    HostRewrite,
    PathRewrite,
    RedirectAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import (
    ACCENT,
    PATHS,
    QUERIES,
    UPSTREAMS,
    Draw,
    Plan,
    cluster,
    path_match,
    plain_clusters,
)
from .traffic import Case, Request, Step
from .upstream import Upstreams

_REWRITE_REGEXES = (
    ("^/api/(.*)$", r"/\1"),
    ("/user/([0-9]+)", r"/u/\1/\1"),
    ("o", "0"),
    ("[aeiou]", ""),
    ("/a(.)?", r"/z\1"),
    ("([^/]+)$", r"<\1>"),
    ("v[0-9]*", r"\0.\0"),
    ("nothing-here", "x"),
    ("/", "//"),
    ("x*", "-"),
    (r"\.", r"\\"),
)
_REQUEST_VALUES = (
    "plain", "%REQ(x-in)%", "%REQ(x-missing)%", "%REQ(x-missing?x-in)%", "%REQ(x-in):3%", "100%%",
    "%REQ(:PATH)%", "%REQ(:METHOD)%", "%REQ(:AUTHORITY)%", "pre-%REQ(X-In)%-post", "",
    "%REQ(x-two)%", "%REQ(x-in)%/%REQ(x-a)%", "%REQ(:path):4%", "%PROTOCOL%",
)  # fmt: skip
_RESPONSE_VALUES = (
    "plain", "%REQ(x-in)%", "%RESP(x-up)%", "%RESP(x-none)%", "%RESPONSE_CODE%", "50%%", "",
    "%RESP(x-none?x-up)%", "%RESP(x-up):2%", "%REQ(:PATH)%", "%REQ(x-none?:path)%",
)  # fmt: skip
_NAMES = ("x-a", "x-b", "x-c", "X-Case-Kept")


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 350 cases over three route configurations."""
    plan = Plan(plain_clusters(upstreams))
    # Local replies are edited, too.
    plan.clusters["dead"] = cluster("dead", [upstreams.refused_port()])
    plan.clusters["empty"] = cluster("empty", [])
    draw = Draw(seed, "rewrites")
    for table in range(3):
        hosts = [_host(plan, draw, table, index) for index in range(30)]
        edits = (_edits(draw, 0.7), _response_edits(draw, 0.7)) if table else (_NONE, _NONE)
        plan.tables.append(
            RouteConfiguration(
                f"rewrites{table}",
                tuple(hosts),
                ignore_port=True,
                request_headers=edits[0],
                response_headers=edits[1],
                most_specific_wins=table == 2,
            )
        )
    return plan


_NONE = HeaderOperations()


def _host(plan: Plan, draw: Draw, table: int, index: int) -> VirtualHost:
    name = f"w{table}-{index}"
    path, example = path_match(draw)
    action = _action(draw)
    route = Route(action, RouteMatch(path), name, _edits(draw, 0.5), _response_edits(draw, 0.5))
    for number in range(4):
        authority = f"{name}.test" + (f":{draw.number(81, 9000)}" if draw.chance(0.3) else "")
        aimed = example if draw.chance(0.85) else draw.one(PATHS)
        request = _request(draw, authority, aimed + draw.one(QUERIES), action)
        plan.cases.append(Case(f"{name}/{number}", table, request, (_step(draw),)))
    return VirtualHost(
        name,
        (f"{name}.test",),
        (route,),
        _edits(draw, 0.4),
        _response_edits(draw, 0.4),
        include_attempt_count=draw.chance(0.2),
    )


# --- header edits -------------------------------------------------------------------------------


def _edits(draw: Draw, share: float) -> HeaderOperations:
    return _operations(draw, _REQUEST_VALUES) if draw.chance(share) else _NONE


def _response_edits(draw: Draw, share: float) -> HeaderOperations:
    return _operations(draw, _RESPONSE_VALUES) if draw.chance(share) else _NONE


def _operations(draw: Draw, values: tuple[str, ...]) -> HeaderOperations:
    changes = tuple(
        HeaderChange(
            draw.one(_NAMES),
            draw.one(values),
            draw.one(("append", "append", "overwrite", "add_if_absent", "overwrite_if_exists")),
            draw.chance(0.3),
        )
        for _ in range(draw.number(0, 4))
    )
    return HeaderOperations(tuple(draw.some(("x-a", "x-b", "x-up", "x-in"), 0, 1)), changes)


# --- actions ------------------------------------------------------------------------------------


def _action(draw: Draw) -> Action:
    kinds: tuple[tuple[int, Callable[[Draw], Action]], ...] = (
        (5, _forward),
        (3, _split),
        (1, _named_by_header),
        (4, _redirect),
        (1, _direct),
    )
    return draw.one([make for weight, make in kinds for _ in range(weight)])(draw)


def _path_rewrite(draw: Draw) -> PathRewrite | None:
    kind = draw.one(("none", "prefix", "prefix", "full", "regex", "regex"))
    if kind == "prefix":
        return PathRewrite("prefix", draw.one(("/", "/v2", "/v2/", "/very/long/prefix")))
    if kind == "full":
        return PathRewrite("full", draw.one(("/", "/fixed", r"/back\slash", "/a/b/")))
    if kind == "regex":
        pattern, value = draw.one(_REWRITE_REGEXES)
        return PathRewrite("regex", value, pattern)
    return None


def _host_rewrite(draw: Draw) -> HostRewrite | None:
    kind = draw.one(("none", "none", "literal", "header", "path_regex", "endpoint"))
    if kind == "literal":
        return HostRewrite("literal", draw.one(("new.test", "new.test:81", "Mixed.Test")))
    if kind == "header":
        return HostRewrite("header", "x-host")
    if kind == "path_regex":
        return HostRewrite("path_regex", r"\1.test", draw.one(("^/([^/]*).*$", "/(user|api)/?.*")))
    return HostRewrite("endpoint") if kind == "endpoint" else None


def _forward(draw: Draw) -> ForwardAction:
    return ForwardAction(
        (WeightedCluster(draw.one((*UPSTREAMS, *UPSTREAMS, *UPSTREAMS, "dead", "empty"))),),
        path_rewrite=_path_rewrite(draw),
        host_rewrite=_host_rewrite(draw),
        append_x_forwarded_host=draw.chance(0.3),
        timeout_s=draw.one((None, 15.0)),
    )


def _split(draw: Draw) -> ForwardAction:
    """A header decides, so that the split is exact."""
    targets = tuple(
        WeightedCluster(
            name,
            draw.number(0 if n else 1, 5),
            _edits(draw, 0.4),
            _response_edits(draw, 0.4),
            draw.one(("", "", "split.test")),
        )
        for n, name in enumerate(draw.some(UPSTREAMS, 1, 4))
    )
    return ForwardAction(targets, weight_header="x-weight", path_rewrite=_path_rewrite(draw))


def _named_by_header(draw: Draw) -> ForwardAction:
    return ForwardAction(
        cluster_header="x-cluster",
        cluster_not_found_status=draw.one((503, 404, 500)),
        host_rewrite=_host_rewrite(draw),
    )


def _redirect(draw: Draw) -> RedirectAction:
    scheme = draw.one(("", "", "http", "https"))
    form = draw.one(("keep", "path", "rewrite", "rewrite"))
    rewrite = _path_rewrite(draw) if form == "rewrite" else None
    if rewrite is not None and rewrite.kind == "full":
        rewrite = PathRewrite("prefix", rewrite.value)
    if rewrite is not None and rewrite.pattern == "x*":
        rewrite = None  # does not keep the leading slash, and no client can read the Location
    host = draw.one(("", "", "other.test", "other.test:81"))
    # A host that has a port and a port besides make a Location that no client can read.
    ports = (None,) if host.endswith(":81") else (None, None, None, 80, 443, 8443)
    return RedirectAction(
        status=draw.one((301, 302, 303, 307, 308)),
        scheme=scheme,
        https=not scheme and draw.chance(0.4),
        host=host,
        port=draw.one(ports),
        path=draw.one(("/there", "/there?x=1", "/")) if form == "path" else "",
        path_rewrite=rewrite,
        strip_query=draw.chance(0.3),
    )


def _direct(draw: Draw) -> DirectResponse:
    return DirectResponse(
        draw.one((200, 403, 404, 503, 201, 302)), draw.one((b"", b"direct", b"x" * 900))
    )


# --- requests -----------------------------------------------------------------------------------


def _request(draw: Draw, authority: str, target: str, action: Action) -> Request:
    headers = [("x-in", draw.one(("inside", "", "in%20", ACCENT))), ("x-two", "first")]
    headers += [("x-two", "second")] if draw.chance(0.5) else []
    headers += [("x-a", "mine")] if draw.chance(0.5) else []
    headers += [("X-B", draw.one(("b", "")))] if draw.chance(0.4) else []
    headers += [("x-host", draw.one(("by-header.test", "h:1")))] if draw.chance(0.6) else []
    headers += [("x-forwarded-host", "earlier.test")] if draw.chance(0.2) else []
    if isinstance(action, ForwardAction) and action.weight_header:
        headers.append(("x-weight", str(draw.one((0, 1, 2, 3, 4, 7, 11, 99, 2**63, 2**64 - 1)))))
    if isinstance(action, ForwardAction) and action.cluster_header and draw.chance(0.8):
        headers.append(("x-cluster", draw.one((*UPSTREAMS, "unknown", ""))))
    method = draw.one(("GET", "GET", "POST", "HEAD", "DELETE"))
    body = b"some body" if method == "POST" else b""
    return Request(authority, target, method, tuple(headers), body)


def _step(draw: Draw) -> Step:
    headers = [("x-up", "stream"), ("Content-Type", "text/plain")]
    headers += [("x-a", "theirs")] if draw.chance(0.4) else []
    headers += [("x-b", "theirs"), ("x-b", "again")] if draw.chance(0.3) else []
    return Step(draw.one((200, 200, 200, 404, 500, 204, 304)), tuple(headers))
