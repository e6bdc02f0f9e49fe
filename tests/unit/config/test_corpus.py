"""Real policy files: all of them load, and bookinfo's route as Istio documents it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshclient.config import yaml_nodes
from meshclient.config.diagnostics import Diagnostics
from meshclient.config.load import inspect_paths, load_documents, load_paths
from meshclient.config.reader import Reader
from meshclient.errors import ConfigError
from meshclient.model.headers import HeaderMap
from meshclient.model.request import RequestHead
from meshclient.model.snapshot import MeshConfig
from meshclient.routing.table import RouteTable

_DEFAULT = Path(__file__).parents[3].parent / "shared" / "corpus"
CORPUS = Path(os.environ.get("MESHCLIENT_CORPUS", str(_DEFAULT)))
FILES = sorted(CORPUS.rglob("*.yaml"))
#: Warnings that these files must give, by code.
WARNED = {
    "seeds/book-05-serviceentry.yaml": {"unknown-version"},
    "seeds/nodejs-01-istio-config.yaml": {"legacy-circuit-breaker", "IST0002", "IST0173"},
    "seeds/service-discovery-06-connection-pool.yaml": {"misplaced-outlier-field", "IST0174"},
    "seeds/service-discovery-07-load-balancing.yaml": {"simple-beside-consistent-hash"},
    "seeds/service-discovery-08-circuit-breaker.yaml": {"legacy-circuit-breaker"},
    "seeds/service-discovery-09-mtls-config.yaml": {"unknown-version", "unsupported-kind"},
    "bookinfo/networking/fault-injection-details-v1.yaml": {"IST0130"},
}
needs_corpus = pytest.mark.skipif(not FILES, reason=f"no policy corpus at {CORPUS}")


def name_of(file: Path) -> str:
    return file.relative_to(CORPUS).as_posix()


@needs_corpus
@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_loads(file: Path) -> None:
    loaded = inspect_paths(file)
    assert [str(d) for d in loaded.diagnostics if d.severity == "error"] == []
    assert not loaded.has_errors


@needs_corpus
@pytest.mark.parametrize(("name", "codes"), WARNED.items(), ids=WARNED.keys())
def test_known_mistakes_are_named(name: str, codes: set[str]) -> None:
    found = {d.code for d in inspect_paths(CORPUS / name).diagnostics if d.severity == "warning"}
    assert codes <= found


@needs_corpus
def test_the_whole_corpus_loads_at_once() -> None:
    config = load_paths(FILES)
    assert "outbound|9080|v3|reviews.default.svc.cluster.local" in config.clusters


def bookinfo(*files: str) -> MeshConfig:
    folder = CORPUS / "bookinfo"
    return load_paths(
        [
            folder / "kube" / "bookinfo.yaml",
            folder / "networking" / "destination-rule-all.yaml",
            *(folder / "networking" / name for name in files),
        ]
    )


def decide(
    config: MeshConfig, host: str, headers: dict[str, str] | None = None, path: str = "/"
) -> dict[str, int]:
    """Cluster subset to weight for one request."""
    table = RouteTable(config.route_configurations[9080])
    found = table.find_host(f"{host}:9080")
    assert found is not None
    head = RequestHead(
        "GET", "http", f"{host}:9080", 9080, path, HeaderMap.of((headers or {}).items())
    )
    compiled = found.find_route(head, 0)
    assert compiled is not None
    clusters = compiled.route.action.clusters
    for cluster in clusters:
        assert cluster.cluster in config.clusters
    return {cluster.cluster.split("|")[2]: cluster.weight for cluster in clusters}


@needs_corpus
@pytest.mark.parametrize(
    ("file", "host", "headers", "expected"),
    [
        ("virtual-service-all-v1.yaml", "reviews", {}, {"v1": 1}),
        ("virtual-service-all-v1.yaml", "ratings", {}, {"v1": 1}),
        ("virtual-service-all-v1.yaml", "productpage", {}, {"v1": 1}),
        ("virtual-service-reviews-test-v2.yaml", "reviews", {"end-user": "jason"}, {"v2": 1}),
        ("virtual-service-reviews-test-v2.yaml", "reviews", {"end-user": "jasonx"}, {"v1": 1}),
        ("virtual-service-reviews-test-v2.yaml", "reviews", {}, {"v1": 1}),
        ("virtual-service-reviews-jason-v2-v3.yaml", "reviews", {"End-User": "jason"}, {"v2": 1}),
        ("virtual-service-reviews-jason-v2-v3.yaml", "reviews", {}, {"v3": 1}),
        ("virtual-service-reviews-90-10.yaml", "reviews", {}, {"v1": 90, "v2": 10}),
        ("virtual-service-reviews-80-20.yaml", "reviews", {}, {"v1": 80, "v2": 20}),
        ("virtual-service-reviews-50-v3.yaml", "reviews", {}, {"v1": 50, "v3": 50}),
        ("virtual-service-reviews-v2-v3.yaml", "reviews", {}, {"v2": 50, "v3": 50}),
        ("virtual-service-reviews-v3.yaml", "reviews", {}, {"v3": 1}),
        ("virtual-service-details-v2.yaml", "details", {}, {"v2": 1}),
        ("virtual-service-ratings-mysql.yaml", "ratings", {}, {"v2-mysql": 1}),
        ("virtual-service-ratings-db.yaml", "ratings", {}, {"v2": 1}),
        ("virtual-service-reviews-v3.yaml", "details", {}, {"": 1}),
    ],
)
def test_bookinfo_routes(
    file: str, host: str, headers: dict[str, str], expected: dict[str, int]
) -> None:
    config = bookinfo(file)
    for name in (host, f"{host}.default", f"{host}.default.svc.cluster.local"):
        assert decide(config, name, headers) == expected


@needs_corpus
@pytest.mark.parametrize(
    ("file", "index", "delay_s", "status"),
    [
        ("virtual-service-ratings-test-delay.yaml", 0, 7.0, None),
        ("virtual-service-ratings-test-abort.yaml", 0, None, 500),
    ],
)
def test_bookinfo_faults(file: str, index: int, delay_s: float | None, status: int | None) -> None:
    table = bookinfo(file).route_configurations[9080]
    (host,) = [h for h in table.virtual_hosts if "ratings" in h.domains]
    fault = host.routes[index].fault
    assert fault is not None
    assert (fault.delay_s, fault.abort_status) == (delay_s, status)
    assert host.routes[1].fault is None


@needs_corpus
def test_bookinfo_with_google_originates_tls() -> None:
    config = bookinfo("egress-rule-google-apis.yaml")
    (host,) = [
        h
        for h in config.route_configurations[80].virtual_hosts
        if "www.googleapis.com" in h.domains
    ]
    (cluster,) = host.routes[0].action.clusters
    assert cluster.cluster == "outbound|443||www.googleapis.com"
    tls = config.clusters[cluster.cluster].policy.tls
    assert tls is not None
    assert tls.mode == "simple"
    assert config.clusters["outbound|80||www.googleapis.com"].policy.tls is None


@cache
def _documents() -> list[object]:
    kinds = ("VirtualService", "DestinationRule", "ServiceEntry", "Service")
    found: list[object] = []
    for file in FILES:
        sink = Diagnostics()
        nodes = yaml_nodes.parse(file.read_text(), str(file), sink)
        found += [Reader.root(node, str(file), sink).raw() for node in nodes]
    return [d for d in found if isinstance(d, dict) and d.get("kind") in kinds]


_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**40),
    st.floats(allow_nan=False),
    st.sampled_from(["", "*", "*.x", "a b", "1s", "-1ms", "~", "\u00e9", "x" * 2000, "((", "%"]),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just([{}]),
    st.just({"": None}),
)


def _mutate(value: object, draw: st.DrawFn) -> object:
    """The same document with one value, somewhere, replaced by an odd one."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        return {**value, key: _mutate(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], _mutate(value[index], draw), *value[index + 1 :]]
    return draw(_ODD)


@needs_corpus
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_document_is_refused_or_read_but_never_a_crash(data: st.DataObject) -> None:
    document = data.draw(st.sampled_from(_documents()))
    mutated = data.draw(st.composite(lambda draw: _mutate(document, draw))())
    assert _loads_or_explains(mutated if isinstance(mutated, dict) else {"kind": mutated})


def _loads_or_explains(document: dict[str, object]) -> bool:
    try:
        load_documents([document])
    except ConfigError as why:
        return any(d.severity == "error" for d in why.diagnostics)
    return True
