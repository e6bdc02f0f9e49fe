"""Why a call would go where it would go, without sending it.

Reads the same plane with the same code as a real call; only the wording is
here. What a random draw decides (splits, fractions) is shown with its odds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshclient.call import Call
from meshclient.cluster_state import ClusterState
from meshclient.endpoint_view import breaker_line, endpoint_line, endpoint_rows
from meshclient.hedge_view import beside_lines
from meshclient.model.cluster import Cluster
from meshclient.model.request import RequestHead
from meshclient.model.retry import RetryPolicy
from meshclient.model.routes import DirectResponse, ForwardAction, RedirectAction, Route
from meshclient.model.source import Diagnostic, Source
from meshclient.pick_view import what_decides
from meshclient.plane import Plane
from meshclient.resilience import merge_timeouts
from meshclient.routing import CompiledHost
from meshclient.terms_view import term_lines


class Explanation:
    """What the policy makes of one request. ``str()`` for people, ``to_dict()`` for programs."""

    def __init__(self, request: str, snapshot_version: int) -> None:
        self.request = request
        self.snapshot_version = snapshot_version
        self.virtual_host = ""
        self.virtual_host_source = ""
        self.verdict = ""
        self.routes: list[dict[str, str]] = []
        self.rewritten = ""
        self.clusters: list[dict[str, Any]] = []
        self.timeouts: dict[str, str] = {}
        self.retry = ""
        self.beside: list[str] = []
        self.filters: list[str] = []
        self.documents: list[str] = []
        self.not_honoured: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        lines = [f"{self.request}   (snapshot {self.snapshot_version})", f"=> {self.verdict}"]
        if self.virtual_host:
            lines += ["", f"virtual host {self.virtual_host}  {self.virtual_host_source}".rstrip()]
            lines += [f"  {_route_line(route)}" for route in self.routes]
        if self.rewritten:
            lines += ["", f"sent as  {self.rewritten}"]
        for cluster in self.clusters:
            lines += ["", *_cluster_lines(cluster)]
        if self.timeouts or self.retry:
            lines.append("")
            lines += [f"{name}: {text}" for name, text in self.timeouts.items()]
            lines.append(f"retries: {self.retry or 'none'}")
            lines += self.beside
        lines += _block("before the call", self.filters)
        lines += _block("decided by", self.documents)
        lines += _block("not yet honoured", self.not_honoured)
        return "\n".join(lines)

    __repr__ = __str__


def _block(title: str, rows: list[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {row}" for row in rows)] if rows else []


def _route_line(route: dict[str, str]) -> str:
    mark = "->" if route["verdict"] == "matches" else "  "
    where = f"  [{route['source']}]" if route["source"] else ""
    return f"{mark} {route['name']}: {route['verdict']}{where}"


def _cluster_lines(cluster: dict[str, Any]) -> list[str]:
    parts = (f"cluster {cluster['name']}", cluster["share"], cluster["load_balancing"])
    lines = ["  ".join(part for part in parts if part)]
    if cluster["problem"]:
        lines.append(f"  {cluster['problem']}")
    lines += [f"  tls {name}: {text}" for name, text in _tls_lines(cluster.get("tls", {}))]
    if cluster.get("breaker"):
        lines.append(f"  {breaker_line(cluster['breaker'])}")
    lines += [f"  {endpoint_line(row)}" for row in cluster["candidates"]]
    if cluster.get("pick"):
        lines.append(f"  {cluster['pick']}")
    return lines


def _tls_lines(terms: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in terms.items():
        yield name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value


def explain(plane: Plane, head: RequestHead, random64: int = 0, now: float = 0.0) -> Explanation:
    """Explain ``head`` under ``plane``. Sends nothing and changes nothing.

    ``random64`` stands for the call's random number where a split is drawn, ``now``
    (monotonic seconds) is when latencies and ejections are read.
    """
    text = f"{head.method} {head.scheme}://{head.authority}{head.path}"
    result = Explanation(text, plane.snapshot.version)
    host = plane.find_host(head.port, head.authority)
    if host is None:
        _unknown_host(result, plane, head)
        return result
    result.virtual_host = host.virtual_host.name
    result.virtual_host_source = _where(host.virtual_host.source)
    _explain_routes(result, host, head, random64)
    # A call that is never tried counts nowhere; it edits its copy of the head.
    call = Call(plane, _copy(head), 0.0, lambda: random64, dry=True)
    if call.route is None:
        result.verdict = "no route of this host matches: 404 (NR)"
        return result
    _note_documents(result, host, call.route.route)
    if call.route.breaker is not None:
        result.filters.append(breaker_line(call.route.breaker.describe(now)))
    if call.route.filters is not None:
        result.filters += [str(one) for one in call.route.filters]
    _explain_action(result, plane, call, head, now)
    return result


def _copy(head: RequestHead) -> RequestHead:
    return RequestHead(
        head.method,
        head.scheme,
        head.authority,
        head.port,
        head.path,
        head.headers.copy(),
        head.dialled,
    )


def _unknown_host(result: Explanation, plane: Plane, head: RequestHead) -> None:
    if plane.snapshot.outbound == "registry_only":
        result.verdict = "no policy knows this host, and outbound is registry_only: refused (502)"
    else:
        result.verdict = (
            f"no policy knows this host: passes through to {head.dialled}:{head.port} untouched"
        )


def _explain_routes(
    result: Explanation, host: CompiledHost, head: RequestHead, random64: int
) -> None:
    for number, (route, reason) in enumerate(host.explain(head, random64)):
        result.routes.append(
            {
                "name": route.name or f"route {number}",
                "verdict": reason or "matches",
                "source": _where(route.source),
            }
        )


def _note_documents(result: Explanation, host: CompiledHost, route: Route) -> None:
    for source in (host.virtual_host.source, route.source):
        _add_document(result, source)
    result.not_honoured += [_note(d) for d in route.not_honoured]


def _add_document(result: Explanation, source: Source) -> None:
    text = _where(source)
    if text and text not in result.documents:
        result.documents.append(text)


def _where(source: Source) -> str:
    return source.short if source.file or source.document else ""


def _note(diagnostic: Diagnostic) -> str:
    field = f"{diagnostic.field}: " if diagnostic.field else ""
    where = f"  [{diagnostic.source}]" if diagnostic.source.line else ""
    return f"{field}{diagnostic.message}{where}"


def _explain_action(
    result: Explanation, plane: Plane, call: Call, head: RequestHead, now: float
) -> None:
    assert call.route is not None
    action = call.route.route.action
    if isinstance(action, DirectResponse):
        result.verdict = f"answered directly: {action.status}"
    elif isinstance(action, RedirectAction):
        location = call.reply.headers.get("location") if call.reply is not None else ""
        result.verdict = f"redirected: {action.status} to {location}"
    else:
        _explain_forward(result, plane, call, action, head, now)


def _explain_forward(
    result: Explanation,
    plane: Plane,
    call: Call,
    action: ForwardAction,
    head: RequestHead,
    now: float,
) -> None:
    for name, share in _shares(call, action, head):
        row = _describe_cluster(result, plane.clusters.get(name), name, share, now)
        if name not in plane.clusters:
            row["problem"] = f"this cluster does not exist: {action.cluster_not_found_status} (NC)"
        else:
            _explain_tls(row, plane.clusters[name], call)
            _explain_pick(row, plane.clusters[name], call, now)
        result.clusters.append(row)
    if not result.clusters:
        result.verdict = f"{call.error}: {action.cluster_not_found_status} (NC)"
        return
    names = ", ".join(f"{c['name']} {c['share']}".strip() for c in result.clusters)
    result.verdict = f"forwarded to {names}"
    if len(result.clusters) == 1 and result.clusters[0]["problem"]:
        result.verdict += f" ({result.clusters[0]['problem']})"
    sent = call.head
    assert call.route is not None
    authority = "the endpoint's own" if call.route.host_from_endpoint else sent.authority
    if (authority, sent.path) != (head.authority, head.path):
        result.rewritten = f"{sent.method} {sent.path}  Host: {authority}"
    _explain_terms(result, call, action)


def _explain_tls(row: dict[str, Any], state: ClusterState, call: Call) -> None:
    """How the connection would be secured, or why that cannot be."""
    tls = state.cluster.policy.tls
    if tls is None or tls.mode == "disable" or state.refusal:
        return
    from meshclient.transport.tls_policy import TWICE, context_of, describe

    assert call.route is not None
    own = call.route.host_from_endpoint
    row["tls"] = describe(state.cluster, "the endpoint's own host" if own else call.head.authority)
    refused = TWICE if call.head.scheme == "https" else context_of(state.cluster).problem()
    if refused:
        row["problem"] = f"the call is refused, never sent in plain: {refused}"


def _explain_pick(row: dict[str, Any], state: ClusterState, call: Call, now: float) -> None:
    """Where chance alone does not decide: session, subset, hash."""
    decides = what_decides(state, call, now) if call.cluster is state else ""
    if decides:
        row["pick"] = decides


def _explain_terms(result: Explanation, call: Call, action: ForwardAction) -> None:
    policy, timeout_s, per_try_s = call.policy, call.timeout_s, call.per_try_s
    if call.error is not None:  # it ended before the caller's headers were read
        policy = action.retry
        per_try_s = policy.per_try_timeout_s if policy is not None else None
        timeout_s, per_try_s = merge_timeouts(action.timeout_s, per_try_s, None)
    result.timeouts = {
        "timeout over all tries": _seconds(timeout_s),
        "timeout per try": _seconds(per_try_s),
        "idle timeout": _seconds(action.idle_timeout_s),
    }
    result.retry = _retry_terms(policy)
    result.beside = [*beside_lines(call, action), *term_lines(action)]


def _shares(call: Call, action: ForwardAction, head: RequestHead) -> list[tuple[str, str]]:
    """Every cluster the route may choose, with its odds; one, where a header decides."""
    chosen, route = call.weighted, call.route
    if chosen is None or route is None:
        return []
    total = sum(weighted.weight for weighted in action.clusters)
    header = action.cluster_header
    if not header and action.weight_header.lower() in head.headers:
        # A value that is no number leaves the choice to chance, as without the header.
        least, most = (route.pick_cluster(head, drawn) for drawn in (0, total - 1))
        header = action.weight_header if least == most else ""
    if header:
        return [(chosen.cluster, f"(as the header {header} says)")]
    if len(action.clusters) == 1:
        return [(chosen.cluster, "")]
    return [(w.cluster, f"{100 * w.weight / total:g} %") for w in action.clusters]


def _describe_cluster(
    result: Explanation, state: ClusterState | None, name: str, share: str, now: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "share": share,
        "load_balancing": "",
        "problem": "",
        "candidates": [],
    }
    if state is None:
        return row
    cluster = state.cluster
    for source in cluster.sources:
        _add_document(result, source)
    result.not_honoured += [_note(d) for d in cluster.not_honoured]
    row["load_balancing"] = cluster.policy.load_balancing.policy
    row["candidates"] = endpoint_rows(state, now)
    if state.breaker is not None:
        row["breaker"] = state.breaker.describe(now)
    row["problem"] = _problem(state, cluster, row["candidates"])
    return row


def _problem(state: ClusterState, cluster: Cluster, candidates: list[dict[str, Any]]) -> str:
    if state.refusal:
        return state.refusal
    if state.is_dialled or any(not row["excluded"] for row in candidates):
        return cluster.discovery_error
    if any("breaker" in row and row["breaker"]["state"] == "open" for row in candidates):
        return "every endpoint that may be called has an open breaker: 503 (UO)"
    why = f": {cluster.discovery_error}" if cluster.discovery_error else ""
    return f"no healthy endpoint: 503 (UH){why}"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:g} s"


def _retry_terms(policy: RetryPolicy | None) -> str:
    if policy is None or not policy.num_retries:
        return ""
    on = ", ".join(sorted(policy.retry_on))
    parts = [f"up to {policy.num_retries} on {on}"]
    if policy.status_codes:
        parts.append("status " + ", ".join(str(code) for code in sorted(policy.status_codes)))
    back_off = policy.back_off
    parts.append(f"back-off {back_off.base_s * 1000:g} to {back_off.max_s * 1000:g} ms")
    if policy.previous_hosts:
        parts.append("endpoints already tried are avoided")
    if policy.methods is not None:
        parts.append("after bytes were sent only for " + ", ".join(sorted(policy.methods)))
    return "; ".join(parts)
