"""Files or parsed documents to one :class:`MeshConfig`: the front door of ``config``.

Reads, sorts, hands each family its documents and merges what they give. All
errors of all files are reported at once; nothing is kept between two loads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from meshclient.config import kinds, native
from meshclient.config.balancing_checks import check_balancing
from meshclient.config.documents import Document
from meshclient.config.files import find_files, read_text
from meshclient.config.merge import merge_routes
from meshclient.config.parse_cache import parse_file
from meshclient.config.python_nodes import from_python
from meshclient.config.reader import Diagnostics, Reader
from meshclient.config.workload import with_workload_certificates
from meshclient.errors import ConfigError
from meshclient.model.cluster import Cluster
from meshclient.model.routes import RouteConfiguration
from meshclient.model.snapshot import MeshConfig, Node, OutboundMode
from meshclient.model.source import Diagnostic, Source

Path = str | os.PathLike[str]


@dataclass(slots=True)
class Loaded:
    """One load with everything that ``check`` wants to tell, usable or not."""

    config: MeshConfig
    documents: int = 0
    diagnostics: tuple[Diagnostic, ...] = ()
    has_errors: bool = False


def load_paths(
    paths: Path | Iterable[Path],
    *,
    node: Node | None = None,
    namespace: str | None = None,
    outbound: OutboundMode | None = None,
) -> MeshConfig:
    """The configuration that files and directories give together.

    A directory gives its ``*.yaml``, ``*.yml`` and ``*.json`` files, not those
    of subdirectories; an empty one is an empty configuration. ``node``,
    ``namespace`` and ``outbound`` win over what the documents say. Raises
    :class:`ConfigError` with every diagnostic of every file.
    """
    return _or_raise(inspect_paths(paths, node=node, namespace=namespace, outbound=outbound))


def load_documents(
    documents: Iterable[Mapping[str, object]],
    *,
    node: Node | None = None,
    namespace: str | None = None,
    outbound: OutboundMode | None = None,
) -> MeshConfig:
    """The configuration that parsed documents give; see :func:`load_paths`."""
    sink = Diagnostics()
    given: Sequence[object] = [documents] if isinstance(documents, Mapping) else list(documents)
    roots: list[Reader] = []
    for index, document in enumerate(given):
        found = from_python(document, "", sink)
        if found is not None:
            roots.append(Reader.root(found, "", sink, f"documents[{index}]"))
    loaded = _build(roots, sink, _Caller(node, namespace, outbound), ())
    return _or_raise(loaded)


def inspect_paths(
    paths: Path | Iterable[Path],
    *,
    node: Node | None = None,
    namespace: str | None = None,
    outbound: OutboundMode | None = None,
) -> Loaded:
    """Like :func:`load_paths`, but errors are in the result; raises nothing for bad input."""
    sink = Diagnostics()
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    files = find_files(several, sink)
    roots: list[Reader] = []
    for file in files:
        text = read_text(file, sink)
        if text is not None:
            nodes = parse_file(text, file, sink)
            roots.extend(Reader.root(found, file, sink) for found in nodes)
    return _build(roots, sink, _Caller(node, namespace, outbound), tuple(files))


@dataclass(frozen=True, slots=True)
class _Caller:
    """What the program says about itself; None leaves it to the documents."""

    node: Node | None
    namespace: str | None
    outbound: OutboundMode | None


@dataclass(slots=True)
class _Istio:
    """What the Kubernetes-style documents give."""

    route_configurations: Mapping[int, RouteConfiguration] = field(default_factory=dict)
    clusters: Mapping[str, Cluster] = field(default_factory=dict)


def _build(
    roots: list[Reader], sink: Diagnostics, caller: _Caller, files: tuple[str, ...]
) -> Loaded:
    found = kinds.sort(roots)
    preamble = native.read_preamble(found.native)
    node = caller.node or preamble.node
    if caller.namespace is not None:
        node = replace(node, namespace=caller.namespace)
    own = native.translate(found.native, node)
    istio = _translate_istio(found.kubernetes, node, sink)
    tables = merge_routes(own.route_configurations(), istio.route_configurations, sink)
    clusters = _merge_clusters(own.clusters, istio.clusters, sink)
    native_hosts = (host for hosts in own.virtual_hosts.values() for host in hosts)
    check_balancing(native_hosts, clusters, sink)
    diagnostics = _in_order(sink, files)
    config = MeshConfig(
        node=node,
        outbound=caller.outbound or preamble.outbound or "allow_any",
        route_configurations=MappingProxyType(tables),
        clusters=MappingProxyType(with_workload_certificates(clusters, node)),
        diagnostics=diagnostics,
        files=files,
        propagation=preamble.propagation,
    )
    return Loaded(config, found.total, diagnostics, sink.has_errors)


def _translate_istio(documents: list[Document], node: Node, sink: Diagnostics) -> _Istio:
    if not documents:
        return _Istio()
    from meshclient.config import istio  # a native file alone does not pay for it

    placed = [d if d.namespace else _placed(d, node.namespace) for d in documents]
    translation = istio.translate(placed, node, sink)
    return _Istio(translation.route_configurations, translation.clusters)


def _placed(document: Document, namespace: str) -> Document:
    """The document in the caller's namespace, under its full name."""
    named = document.reader.named(f"{document.kind} {namespace}/{document.name}")
    return replace(document, namespace=namespace, reader=named)


def _merge_clusters(
    own: Mapping[str, Cluster], istio: Mapping[str, Cluster], sink: Diagnostics
) -> dict[str, Cluster]:
    for name in own.keys() & istio.keys():
        source = next(iter(istio[name].sources), Source())
        text = f"cluster {name} is also a native service; the native one is used"
        sink.append(Diagnostic("warning", "shadowed", text, source))
    return {**istio, **own}


def _in_order(sink: Diagnostics, files: tuple[str, ...]) -> tuple[Diagnostic, ...]:
    """File by file from top to bottom, the way people fix them."""
    order = {file: index for index, file in enumerate(files)}

    def place(found: Diagnostic) -> tuple[int, int, int]:
        at = found.source
        return order.get(at.file, -1), at.line, at.column

    return tuple(sorted(sink, key=place))


def _or_raise(loaded: Loaded) -> MeshConfig:
    if loaded.has_errors:
        raise ConfigError(loaded.diagnostics)
    return loaded.config
