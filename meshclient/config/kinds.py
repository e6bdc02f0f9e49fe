"""Which documents are whose: native, Kubernetes-style and understood, or named as not.

Sorts documents and says what happens to each; translates none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshclient.config.documents import Document
from meshclient.config.reader import Reader
from meshclient.config.suggest import closest

_NETWORKING = (
    "networking.istio.io/v1",
    "networking.istio.io/v1beta1",
    "networking.istio.io/v1alpha3",
)
#: Kinds that are translated, with the API versions that have them; the best first.
SUPPORTED: dict[str, tuple[str, ...]] = {
    "VirtualService": _NETWORKING,
    "DestinationRule": _NETWORKING,
    "ServiceEntry": _NETWORKING,
    "WorkloadEntry": _NETWORKING,
    "Service": ("v1",),
    "Endpoints": ("v1",),
    "Node": ("v1",),
    "Pod": ("v1",),
    "EndpointSlice": ("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"),
}
#: Kinds that say something about calls, but that nothing reads yet.
_POLICY_KINDS = frozenset(
    {
        "AuthorizationPolicy",
        "BackendTLSPolicy",
        "EnvoyFilter",
        "GRPCRoute",
        "Gateway",
        "HTTPRoute",
        "HTTPRouteGroup",
        "MeshTLSAuthentication",
        "PeerAuthentication",
        "ProxyConfig",
        "ReferenceGrant",
        "RequestAuthentication",
        "Server",
        "ServiceProfile",
        "Sidecar",
        "TCPRoute",
        "TLSRoute",
        "Telemetry",
        "TrafficSplit",
        "TrafficTarget",
        "WasmPlugin",
        "WorkloadGroup",
        "XBackendTrafficPolicy",
    }
)
_NATIVE_KEYS = ("version", "services", "node", "outbound")
_MAX_LISTS = 8


@dataclass(slots=True)
class Sorted:
    """The documents of one load by family."""

    native: list[Reader] = field(default_factory=list)
    kubernetes: list[Document] = field(default_factory=list)
    total: int = 0


def sort(roots: list[Reader]) -> Sorted:
    """Tell native and Kubernetes-style documents apart; anything else is an error."""
    found = Sorted()
    for root in roots:
        _sort_one(root, found, 0)
    return found


def _sort_one(r: Reader, found: Sorted, depth: int) -> None:
    found.total += 1
    if not r.is_mapping:
        hint = "a document begins with version: 1, or with apiVersion and kind"
        r.error(f"a policy document is a mapping, not {r.describe()}", suggestion=hint)
    elif r.has("apiVersion") or r.has("kind"):
        _sort_kind(r, found, depth)
    elif any(r.has(key) for key in _NATIVE_KEYS):
        found.native.append(r)
    else:
        meant = [closest(key, (*_NATIVE_KEYS, "apiVersion", "kind")) for key in r.node.value]
        likely = next((word for word in meant if word), "")
        hint = f'did you mean "{likely}"?' if likely else ""
        default = "a native file begins with version: 1, others with apiVersion and kind"
        message = "neither a native policy file nor a Kubernetes-style document"
        r.error(message, code="unknown-document", suggestion=hint or default)


def _sort_kind(r: Reader, found: Sorted, depth: int) -> None:
    kind, version = _text(r, "kind"), _text(r, "apiVersion")
    if kind and not version and kind not in SUPPORTED:
        message = f"kind {kind[:80]} (no apiVersion) is not yet supported: not applied"
        r.named(_title(r, kind)).warning(message, code="unsupported-kind")
        return
    if not kind or not version:
        missing = "kind" if not kind else "apiVersion"
        hint = f"add apiVersion: {SUPPORTED[kind][0]}" if kind else "add kind"
        r.error(f'"{missing}" is missing', code="missing-field", suggestion=hint)
        return
    if kind.endswith("List") and r.has("items"):
        found.total -= 1
        _unpack(r, found, depth)
        return
    if kind not in SUPPORTED or version not in SUPPORTED[kind]:
        _not_applied(r.named(_title(r, kind)), kind, version)
        return
    _take(r, kind, version, found)


def _unpack(r: Reader, found: Sorted, depth: int) -> None:
    if depth >= _MAX_LISTS:
        r.error("lists of lists of documents are nested too deeply")
        return
    items = r.field("items")
    for item in items.elements() if items is not None else []:
        root = Reader(item.node, item.source, "", item.sink)
        _sort_one(root, found, depth + 1)


def _take(r: Reader, kind: str, version: str, found: Sorted) -> None:
    name, namespace = _metadata(r, "name"), _metadata(r, "namespace")
    named = r.named(_title(r, kind))
    if not name:
        named.error('"metadata.name" is missing', code="missing-field")
    found.kubernetes.append(Document(named, version, kind, namespace, name))


def _not_applied(r: Reader, kind: str, version: str) -> None:
    known = SUPPORTED.get(kind)
    if known is not None and _is_mistaken(version):
        r.warning(
            f"no API {version[:80]} has a kind {kind}: Kubernetes would refuse it; not applied",
            code="unknown-version",
            suggestion=f"write apiVersion: {known[0]}",
        )
        return
    meant = closest(kind, (*SUPPORTED, *_POLICY_KINDS)) if kind not in _POLICY_KINDS else ""
    hint = f'did you mean "{meant}"?' if meant and known is None else ""
    message = f"kind {kind[:80]} ({version[:80]}) is not yet supported: not applied"
    if kind in _POLICY_KINDS or hint:
        r.warning(message, code="unsupported-kind", suggestion=hint)
    else:
        r.info(message, code="unsupported-kind")


def _is_mistaken(version: str) -> bool:
    """A known kind in the wrong drawer, rather than a namesake such as Knative's Service."""
    group = version.partition("/")[0] if "/" in version else ""
    ours = ("", "apps", "core", "istio.io", "discovery.k8s.io", "networking.k8s.io")
    return group in ours or group.endswith(".istio.io")


def _title(r: Reader, kind: str) -> str:
    name, namespace = _metadata(r, "name"), _metadata(r, "namespace")
    shown = f"{namespace}/{name}" if namespace and name else name
    return f"{kind} {shown}".strip()[:200]


def _text(r: Reader, key: str) -> str:
    node = r.node.value.get(key)
    return node.value if node is not None and isinstance(node.value, str) else ""


def _metadata(r: Reader, key: str) -> str:
    """Read from the nodes, so that the family's own reader sees untouched keys."""
    metadata = r.node.value.get("metadata")
    if metadata is None or metadata.kind != "mapping":
        return ""
    node = metadata.value.get(key)
    return node.value if node is not None and isinstance(node.value, str) else ""
