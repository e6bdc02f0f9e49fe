"""The one object a user holds: arguments, environment, life, and what it tells. No network."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import httpx
import httpx2
import pytest

import meshclient
from meshclient import errors
from meshclient.mesh import CONFIG_VARIABLE, Mesh
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Locality
from meshclient.model.events import ConfigApplied, ConfigRejected, Event
from meshclient.model.snapshot import MeshConfig
from meshclient.resilience import RetryStrategy

NATIVE = "version: 1\nservices:\n  reviews: {endpoints: ['127.0.0.1:1'], timeout: 1s}\n"
NODE = """\
version: 1
node:
  namespace: prod
  locality: {region: eu, zone: a, sub_zone: rack1}
  labels: {app: web, version: v1}
  domain: example.internal
services: {}
"""
DOCUMENT = {"version": 1, "services": {"reviews": {"endpoints": ["127.0.0.1:1"]}}}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch):
    for name in (CONFIG_VARIABLE, "GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(NATIVE)
    return path


@pytest.fixture
def mesh():
    with Mesh.from_documents([DOCUMENT]) as made:
        yield made


# -- construction -------------------------------------------------------------


def test_from_file_needs_a_path():
    with pytest.raises(ValueError, match="at least one file"):
        Mesh.from_file()


@pytest.mark.parametrize("value", ["reply", "", None, True])
def test_local_replies_has_two_values(value):
    with pytest.raises(ValueError, match='"raise" or "respond", not '):
        Mesh.from_documents([DOCUMENT], local_replies=value)


@pytest.mark.parametrize("value", [{"reviews": 3}, {1: RetryStrategy()}])
def test_retry_strategies_are_checked_at_once(value):
    with pytest.raises(TypeError, match="names of virtual hosts to RetryStrategy"):
        Mesh.from_documents([DOCUMENT], retry_strategies=value)


def test_retry_strategies_reach_the_calls():
    strategy = RetryStrategy(stop=lambda _: True)
    with Mesh.from_documents([DOCUMENT], retry_strategies={"reviews": strategy}) as mesh:
        assert mesh._runtime.strategies == {"reviews": strategy}


def test_errors_of_documents_reach_the_caller_all_at_once():
    document = {"version": 1, "services": {"a": {"timout": "1s"}, "b": {"retrys": {}}}}
    with pytest.raises(errors.ConfigError) as caught:
        Mesh.from_documents([document])
    text = str(caught.value)
    assert "timout" in text
    assert "retrys" in text


def test_a_missing_file_is_a_config_error(tmp_path: Path):
    with pytest.raises(errors.ConfigError, match="nowhere"):
        Mesh.from_file(tmp_path / "nowhere.yaml", watch=False)


def test_one_document_needs_no_list():
    with Mesh.from_documents(DOCUMENT) as mesh:
        assert list(mesh.snapshot.clusters) == ["reviews"]


def test_documents_may_come_from_a_generator_even_with_labels():
    with Mesh.from_documents((d for d in [DOCUMENT]), labels={"app": "web"}) as mesh:
        assert list(mesh.snapshot.clusters) == ["reviews"]


def test_a_mesh_of_model_values():
    config = MeshConfig(clusters={"a": Cluster("a")})
    with Mesh.from_config(config) as mesh:
        assert list(mesh.snapshot.clusters) == ["a"]


def test_static_policy_starts_no_thread(mesh):
    assert not [t.name for t in threading.enumerate() if t.name.startswith("meshclient")]
    mesh.wait_ready(timeout=0.0)


# -- who is calling -----------------------------------------------------------

FILE_LABELS = (("app", "web"), ("version", "v1"))
FILE_PLACE = Locality("eu", "a", "rack1")


@pytest.mark.parametrize(
    ("options", "namespace", "labels", "place"),
    [
        ({}, "prod", FILE_LABELS, FILE_PLACE),
        ({"namespace": "test"}, "test", FILE_LABELS, FILE_PLACE),
        ({"labels": {"app": "cli"}}, "prod", (("app", "cli"),), FILE_PLACE),
        ({"labels": {}}, "prod", (), FILE_PLACE),
        ({"locality": "us/b"}, "prod", FILE_LABELS, Locality("us", "b")),
        ({"locality": ""}, "prod", FILE_LABELS, Locality()),
        (
            {"namespace": "test", "labels": {"a": "b"}, "locality": "us"},
            "test",
            (("a", "b"),),
            Locality("us"),
        ),
    ],
)
def test_each_argument_replaces_its_own_part_of_the_files_node(
    tmp_path, options, namespace, labels, place
):
    path = tmp_path / "node.yaml"
    path.write_text(NODE)
    with Mesh.from_file(path, watch=False, **options) as mesh:
        node = mesh.snapshot.node
    assert (node.namespace, node.labels, node.locality) == (namespace, labels, place)
    assert node.domain == "example.internal"


def test_the_callers_labels_decide_source_matches(tmp_path):
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "r"},
        "spec": {
            "hosts": ["reviews"],
            "http": [
                {
                    "match": [{"sourceLabels": {"app": "web"}}],
                    "directResponse": {"status": 201},
                },
                {"directResponse": {"status": 202}},
            ],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "reviews"},
        "spec": {"ports": [{"port": 80, "name": "http"}]},
    }
    for labels, status in (({"app": "web"}, 201), ({"app": "cli"}, 202), (None, 202)):
        with Mesh.from_documents([document, service], labels=labels) as mesh:
            assert mesh.explain("GET", "http://reviews/").verdict.endswith(str(status))


def test_a_locality_has_three_parts():
    with pytest.raises(ValueError, match="region/zone/sub_zone, not 'a/b/c/d'"):
        Mesh.from_documents([DOCUMENT], locality="a/b/c/d")


def test_outbound_overrides_the_files(policy):
    with Mesh.from_file(policy, watch=False, outbound="registry_only") as mesh:
        assert mesh.snapshot.outbound == "registry_only"


# -- environment --------------------------------------------------------------


def test_from_env_reads_several_paths(monkeypatch, tmp_path, policy):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.yaml").write_text("version: 1\nservices: {b: {endpoints: ['127.0.0.1:2']}}\n")
    value = os.pathsep.join(["", str(policy), "", str(other)])
    monkeypatch.setenv(CONFIG_VARIABLE, value)
    with Mesh.from_env(watch=False, namespace="test") as mesh:
        assert set(mesh.snapshot.clusters) == {"reviews", "b"}
        assert mesh.snapshot.node.namespace == "test"


@pytest.mark.parametrize("value", [None, "", os.pathsep])
def test_from_env_without_paths_says_what_to_set(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv(CONFIG_VARIABLE, value)
    with pytest.raises(errors.ConfigError, match="MESHCLIENT_CONFIG is not set"):
        Mesh.from_env()


def test_from_env_says_that_xds_is_not_read_yet(monkeypatch):
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP", "/x.json")
    with pytest.raises(errors.ConfigError, match="an xDS bootstrap is set"):
        Mesh.from_env()


# -- clients ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"transport": httpx.HTTPTransport}, TypeError, "drop the transport argument"),
        ({"proxies": {"all://": "http://p:1"}}, ValueError, "proxies is not supported"),
        ({"limits": httpx.Limits()}, ValueError, "connections are the policy's business"),
        ({"family": "requests"}, ValueError, '"httpx" or "httpx2", not \'requests\''),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
@pytest.mark.parametrize("maker", ["client", "async_client"])
def test_options_that_a_mesh_client_cannot_have(mesh, maker, options, kind, words):
    with pytest.raises(kind, match=words):
        getattr(mesh, maker)(**options)


def test_clients_are_the_familys_own(mesh):
    with mesh.client() as one, mesh.client(family="httpx2") as two:
        assert type(one) is httpx.Client
        assert type(two) is httpx2.Client
    assert type(mesh.async_client()) is httpx.AsyncClient
    assert type(mesh.async_client(family="httpx2")) is httpx2.AsyncClient


def test_httpx_options_pass_through_and_harmless_ones_are_taken(mesh):
    options = {
        "base_url": "http://reviews",
        "headers": {"x-a": "1"},
        "http2": False,
        "proxy": None,
        "trust_env": False,
        "verify": False,
        "timeout": 3.0,
    }
    with mesh.client(**options) as client:
        assert (client.base_url, client.headers["x-a"]) == ("http://reviews", "1")
        assert client.timeout == httpx.Timeout(3.0)
        assert not client.trust_env


def test_transports_serve_clients_of_your_own(mesh):
    with httpx.Client(transport=mesh.transport()) as client, pytest.raises(httpx.ConnectError):
        client.get("http://reviews/")


def test_the_clients_of_a_mesh_share_one_engine(mesh):
    with mesh.client() as one, mesh.client() as two:
        assert one._transport._engine is two._transport._engine


# -- life ---------------------------------------------------------------------


def test_close_is_idempotent_and_ends_calls():
    mesh = Mesh.from_documents([DOCUMENT])
    client = mesh.client()
    mesh.close()
    mesh.close()
    with client, pytest.raises(errors.ClosedError, match="the mesh is closed"):
        client.get("http://reviews/")
    for make in (mesh.client, mesh.async_client, mesh.transport, mesh.async_transport):
        with pytest.raises(errors.ClosedError):
            make()
    assert repr(mesh).startswith("<Mesh closed <Snapshot version=1 ")
    assert mesh.explain("GET", "http://reviews/").verdict == "forwarded to reviews"


def test_aclose_is_idempotent_and_ends_calls():
    async def scenario() -> None:
        async with Mesh.from_documents([DOCUMENT]) as mesh:
            await mesh.async_wait_ready(0.0)
            client = mesh.async_client()
        await mesh.aclose()
        mesh.close()
        async with client:
            with pytest.raises(errors.ClosedError):
                await client.get("http://reviews/")

    asyncio.run(scenario())


def test_a_client_made_while_the_mesh_closes_is_closed_with_it(monkeypatch):
    mesh = Mesh.from_documents([DOCUMENT])
    late = []
    stop = mesh._controller.close
    monkeypatch.setattr(mesh._controller, "close", lambda: (late.append(mesh.client()), stop()))
    mesh.close()
    monkeypatch.undo()
    assert not list(mesh._engines.values())
    with late[0] as client, pytest.raises(errors.ClosedError):
        client.get("http://reviews/")


class _Silent:
    """Discovery that never answers."""

    async def watch(self, source, report):
        await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        pass


def test_waiting_in_vain_names_what_is_missing(monkeypatch):
    monkeypatch.setattr("meshclient.discovery.base.Discoverer", _Silent)
    document = {
        "version": 1,
        "services": {
            "quiet": {"dns": "quiet.test:80"},
            "there": {"endpoints": ["127.0.0.1:1"]},
        },
    }
    words = r"no first answer within 0 s: quiet \(dns quiet\.test:80: no answer yet\)$"
    with Mesh.from_documents([document]) as mesh:
        with pytest.raises(errors.NotReadyError, match=words) as caught:
            mesh.wait_ready(timeout=0.0)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(errors.NotReadyError, match=words):
            asyncio.run(mesh.async_wait_ready(timeout=0.0))
        assert "no answer yet" in mesh.explain("GET", "http://quiet/").verdict
        assert mesh.explain("GET", "http://there/").verdict == "forwarded to there"


# -- look inside --------------------------------------------------------------


def test_repr_and_dump(mesh):
    assert repr(mesh) == f"<Mesh open {mesh.snapshot!r}>"
    dump = mesh.dump()
    (row,) = dump["endpoints"]["reviews"]
    assert (row["endpoint"], row["health"], row["in_flight"]) == ("127.0.0.1:1", "healthy", 0)
    assert (dump["version"], dump["pools"]) == (1, {})
    assert dump["clusters"] == {"reviews": {"127.0.0.1:1": 0}, "PassthroughCluster": {}}
    assert dump["health"] == {"outlier_detection": {}, "health_check": {}}


def test_the_dump_shows_calls_to_hosts_without_policy(mesh):
    with mesh.client() as client, pytest.raises(httpx.ConnectError):
        client.get("http://127.0.0.1:1/")
    dump = mesh.dump()
    assert dump["clusters"]["PassthroughCluster"] == {"127.0.0.1:1": 0}
    assert list(dump["pools"]) == ["sync"]


@pytest.mark.parametrize("url", ["/x", "reviews", "http://", "http:///x"])
def test_explain_needs_a_whole_url(mesh, url):
    with pytest.raises(ValueError, match="scheme and host"):
        mesh.explain("GET", url)


@pytest.mark.parametrize(
    ("url", "headers", "request_line"),
    [
        ("http://reviews", None, "GET http://reviews/"),
        ("http://reviews:80/x?q", None, "GET http://reviews/x?q"),
        ("http://u:p@reviews:8080/", None, "GET http://reviews:8080/"),
        ("http://1.2.3.4/", {"Host": "reviews"}, "GET http://reviews/"),
        ("https://[::1]:443/", [("a", "1"), ("a", "2")], "GET https://[::1]/"),
    ],
)
def test_explain_reads_urls_as_httpx_does(mesh, url, headers, request_line):
    assert mesh.explain("get", url, headers).request == request_line


def test_a_rejected_reload_is_told_with_file_and_line(policy):
    events: list[Event] = []
    told = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        told.set()

    def wait() -> Event:
        assert told.wait(5.0)
        told.clear()
        return events[-1]

    with Mesh.from_file(policy) as mesh:
        unsubscribe = mesh.subscribe(listen)
        policy.write_text(NATIVE.replace("timeout", "timout"))
        rejected = wait()
        assert isinstance(rejected, ConfigRejected)
        assert rejected.version == mesh.snapshot.version == 1
        (found,) = rejected.diagnostics
        assert str(found).startswith(f"{policy}:3:")
        assert "did you mean" in str(found)
        policy.write_text(NATIVE.replace("1s", "2s"))
        applied = wait()
        assert isinstance(applied, ConfigApplied)
        assert mesh.explain("GET", "http://reviews/").timeouts["timeout over all tries"] == "2 s"
        unsubscribe()
        policy.write_text(NATIVE)
    assert events[-1] is applied


def test_the_package_offers_the_mesh():
    assert meshclient.Mesh is Mesh
