"""Why a call would go where it would go, without sending it.

Reads the same plane with the same code as a real call; only the wording is
here. What a random draw decides (splits, fractions) is shown with its odds.
"""

from __future__ import annotations

from typing import Any

from meshclient.model.cluster import Cluster
from meshclient.model.request import RequestHead
from meshclient.model.retry import RetryPolicy
from meshclient.model.routes import DirectResponse, ForwardAction, RedirectAction, Route
from meshclient.model.source import Diagnostic, Source
from meshclient.plane import ClusterState, Plane
from meshclient.routing import CompiledHost, CompiledRoute


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
    head = f"cluster {cluster['name']}  {cluster['share']}  {cluster['load_balancing']}"
    lines = [head.rstrip()]
    if cluster["problem"]:
        lines.append(f"  {cluster['problem']}")
    for row in cluster["candidates"]:
        state = f"excluded: {row['excluded']}" if row["excluded"] else "candidate"
        labels = f"  {row['labels']}" if row["labels"] else ""
        lines.append(
            f"  {row['endpoint']}  weight {row['weight']}  in flight {row['in_flight']}  "
            f"{state}{labels}"
        )
    return lines


def explain(plane: Plane, head: RequestHead, random64: int = 0) -> Explanation:
    """Explain ``head`` under ``plane``. Sends nothing and changes nothing.

    ``random64`` stands for the call's random number where a split is drawn.
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
    route = host.find_route(head, random64)
    if route is None:
        result.verdict = "no route of this host matches: 404 (NR)"
        return result
    _note_documents(result, host, route.route)
    _explain_action(result, plane, route, head)
    return result


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
    result: Explanation, plane: Plane, route: CompiledRoute, head: RequestHead
) -> None:
    action = route.route.action
    if isinstance(action, DirectResponse):
        result.verdict = f"answered directly: {action.status}"
    elif isinstance(action, RedirectAction):
        reply = route.local_reply(head)
        location = reply.headers.get("location") if reply is not None else ""
        result.verdict = f"redirected: {action.status} to {location}"
    else:
        _explain_forward(result, plane, route, action, head)


def _explain_forward(
    result: Explanation,
    plane: Plane,
    route: CompiledRoute,
    action: ForwardAction,
    head: RequestHead,
) -> None:
    shares = [(w.cluster, w.weight) for w in action.clusters]
    if action.cluster_header:
        shares = [(head.headers.get(action.cluster_header) or "", 1)]
    total = sum(weight for _, weight in shares) or 1
    for name, weight in shares:
        share = f"{100 * weight / total:g} %" if len(shares) > 1 else ""
        result.clusters.append(_describe_cluster(result, plane.clusters.get(name), name, share))
    names = ", ".join(f"{c['name']} {c['share']}".strip() for c in result.clusters)
    result.verdict = f"forwarded to {names}"
    if len(shares) == 1 and result.clusters[0]["problem"]:
        result.verdict += f" ({result.clusters[0]['problem']})"
    _explain_rewrite(result, route, head)
    result.timeouts = {
        "timeout over all tries": _seconds(action.timeout_s),
        "timeout per try": _seconds(action.retry.per_try_timeout_s if action.retry else None),
        "idle timeout": _seconds(action.idle_timeout_s),
    }
    result.retry = _retry_terms(action.retry)


def _explain_rewrite(result: Explanation, route: CompiledRoute, head: RequestHead) -> None:
    if not route.has_request_edits or not route.forward.clusters:
        return
    before = (head.authority, head.path)
    copy = RequestHead(
        head.method, head.scheme, head.authority, head.port, head.path, head.headers.copy()
    )
    route.edit_request(copy, route.forward.clusters[0])
    if (copy.authority, copy.path) != before:
        result.rewritten = f"{copy.method} {copy.path}  Host: {copy.authority}"


def _describe_cluster(
    result: Explanation, state: ClusterState | None, name: str, share: str
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "share": share,
        "load_balancing": "",
        "problem": "",
        "candidates": [],
    }
    if state is None:
        row["problem"] = "this cluster does not exist: 503 (NC)"
        return row
    cluster = state.cluster
    for source in cluster.sources:
        _add_document(result, source)
    result.not_honoured += [_note(d) for d in cluster.not_honoured]
    row["load_balancing"] = cluster.policy.load_balancing.policy
    row["candidates"] = [
        {
            "endpoint": str(candidate.state.endpoint),
            "weight": candidate.weight,
            "in_flight": candidate.active,
            "excluded": candidate.excluded,
            "labels": ",".join(f"{k}={v}" for k, v in candidate.state.endpoint.labels),
        }
        for candidate in state.balancer.candidates()
    ]
    row["problem"] = _problem(state, cluster, row["candidates"])
    return row


def _problem(state: ClusterState, cluster: Cluster, candidates: list[dict[str, Any]]) -> str:
    if state.refusal:
        return state.refusal
    if state.is_dialled or any(not row["excluded"] for row in candidates):
        return cluster.discovery_error
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
