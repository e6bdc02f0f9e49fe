"""Files and directories to one configuration: which files, which families, all errors at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.config import load_documents, load_paths
from meshclient.config.diagnostics import Diagnostics
from meshclient.config.files import decode
from meshclient.config.load import inspect_paths
from meshclient.config.merge import merge_routes
from meshclient.errors import ConfigError
from meshclient.model.routes import RouteConfiguration, VirtualHost
from meshclient.model.snapshot import ANY_PORT, Node
from meshclient.model.source import Diagnostic


def native(name: str) -> str:
    return f"version: 1\nservices: {{{name}: {{endpoints: ['h:1']}}}}\n"


def failure(*paths: Path) -> list[Diagnostic]:
    with pytest.raises(ConfigError) as caught:
        load_paths(paths)
    return [d for d in caught.value.diagnostics if d.severity == "error"]


def test_files_and_directories_together_each_file_once(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "b.yaml").write_text(native("b"))
    (folder / "a.yml").write_text(native("a"))
    (folder / "c.json").write_text(json.dumps({"version": 1, "services": {"c": {"dns": "x:1"}}}))
    (folder / "notes.txt").write_text("not: a: policy")
    (folder / ".hidden.yaml").write_text("not: a: policy")
    (folder / "sub.yaml").mkdir()
    (folder / "again.yaml").symlink_to(folder / "a.yml")
    extra = tmp_path / "extra"  # a file that is named counts, whatever its suffix
    extra.write_text(native("x"))
    loaded = load_paths([folder, str(extra), folder / "b.yaml", folder])
    assert set(loaded.clusters) == {"a", "b", "c", "x"}
    assert [Path(f).name for f in loaded.files] == ["a.yml", "b.yaml", "c.json", "extra"] or [
        Path(f).name for f in loaded.files
    ] == ["again.yaml", "b.yaml", "c.json", "extra"]


def test_one_path_needs_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(native("a"))
    assert set(load_paths(tmp_path).clusters) == set(load_paths(str(tmp_path)).clusters) == {"a"}


def test_a_config_map_mount_loads_each_file_once(tmp_path: Path) -> None:
    version = tmp_path / "..2024_01_01"
    version.mkdir()
    (version / "mesh.yaml").write_text(native("a"))
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "mesh.yaml").symlink_to("..data/mesh.yaml")
    loaded = load_paths(tmp_path)
    assert loaded.files == (str(tmp_path / "mesh.yaml"),)


def test_an_empty_directory_and_an_empty_file_are_an_empty_configuration(tmp_path: Path) -> None:
    assert load_paths(tmp_path).clusters == {}
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    loaded = load_paths(tmp_path)
    assert (loaded.clusters, loaded.route_configurations) == ({}, {})


def test_a_missing_path_is_named_and_the_near_one_suggested(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(native("a"))
    (found,) = failure(tmp_path / "mesh.yml")
    assert (found.source.file, found.code) == (str(tmp_path / "mesh.yml"), "missing-path")
    assert found.suggestion == f'did you mean "{tmp_path / "mesh.yaml"}"?'
    (other,) = failure(tmp_path / "no" / "where")
    assert other.suggestion == ""


def test_errors_of_all_files_come_together_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("version: 1\nservises: {}\n---\nversion: 2\n")
    (tmp_path / "a.yaml").write_text("version: 1\nservices:\n  a: {endpoints: [x]}\n  b: [\n")
    (tmp_path / "c.yaml").write_bytes(b"version: 1\nx: \xff\n")
    found = failure(tmp_path, tmp_path / "missing")
    places = [(Path(d.source.file).name, d.source.line, d.code) for d in found]
    assert places == [
        ("missing", 0, "missing-path"),
        ("a.yaml", 5, "yaml-syntax"),
        ("b.yaml", 2, "unknown-field"),
        ("b.yaml", 4, "invalid"),
        ("c.yaml", 2, "encoding"),
    ]


@pytest.mark.parametrize(
    ("data", "line", "column", "expected"),
    [
        (b"a: 1\nb: caf\xe9\n", 2, 7, "the byte 0xe9 is not valid UTF-8"),
        (b"\xef\xbb\xbfa: \xff", 1, 4, "the byte 0xff is not valid UTF-8"),
        ("é: ".encode() + b"\xff", 1, 4, "the byte 0xff"),
        ("a: 1".encode("utf-16"), 1, 1, "the file is UTF-16, not UTF-8"),
        (b"\xfe\xff\x00a", 1, 1, "the file is UTF-16, not UTF-8"),
    ],
)
def test_other_encodings(data: bytes, line: int, column: int, expected: str) -> None:
    sink = Diagnostics()
    assert decode(data, "f", sink) is None
    (found,) = sink
    assert (found.source.line, found.source.column) == (line, column)
    assert expected in found.message


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + native("a").encode())
    assert set(load_paths(tmp_path).clusters) == {"a"}


def test_a_large_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # sparse; reading it would take minutes
    (found,) = failure(path)
    assert "larger than 10 MB" in found.message


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "pipe.yaml"
    os.mkfifo(path)  # opening it for reading would block for ever
    (found,) = failure(path)
    assert "not a regular file" in found.message


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere")
    (found,) = failure(tmp_path)
    assert found.source.file.endswith("a.yaml")


def test_a_path_that_cannot_be_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_paths("a\0b")


VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{port: 9080, name: http}]}
"""


def test_kubernetes_documents_in_a_list_and_beside_native_ones(tmp_path: Path) -> None:
    items = "\n".join(
        "- " + text.strip().replace("\n", "\n  ") for text in (VIRTUAL_SERVICE, SERVICE)
    )
    text = f"{native('own')}---\napiVersion: v1\nkind: List\nitems:\n{items}\n"
    (tmp_path / "a.yaml").write_text(text)
    loaded = inspect_paths(tmp_path)
    assert not loaded.has_errors, loaded.diagnostics
    assert loaded.documents == 3
    table = loaded.config.route_configurations[9080]
    domains = {d for host in table.virtual_hosts for d in host.domains}
    assert {"own", "reviews", "reviews.default.svc.cluster.local"} <= domains


def test_the_namespace_of_the_caller_is_the_default_of_documents(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE)
    table = load_paths(tmp_path, namespace="prod").route_configurations[9080]
    assert "reviews.prod.svc.cluster.local" in table.virtual_hosts[0].domains
    documents = {d.source.document for d in load_paths(tmp_path, namespace="prod").diagnostics}
    assert documents == {"Service prod/reviews"}


def test_a_node_that_the_program_gives_replaces_the_documents() -> None:
    document = {"version": 1, "node": {"namespace": "x", "labels": {"a": "b"}}}
    loaded = load_documents([document], node=Node(namespace="y"))
    assert loaded.node == Node(namespace="y")


@pytest.mark.parametrize(
    ("document", "severity", "code", "text"),
    [
        (
            {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"},
            "warning",
            "unsupported-kind",
            "kind AuthorizationPolicy (security.istio.io/v1) is not yet supported",
        ),
        (
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}},
            "info",
            "unsupported-kind",
            "kind Deployment (apps/v1) is not yet supported",
        ),
        ({"kind": "Deployment"}, "warning", "unsupported-kind", "(no apiVersion)"),
        (
            {"apiVersion": "networking.istio.io/v1", "kind": "VirtualServise"},
            "warning",
            "unsupported-kind",
            'did you mean "VirtualService"?',
        ),
        (
            {"apiVersion": "istio.io/v1alpha3", "kind": "ServiceEntry"},
            "warning",
            "unknown-version",
            "write apiVersion: networking.istio.io/v1",
        ),
        (
            {"apiVersion": "security.istio.io/v1beta1", "kind": "DestinationRule"},
            "warning",
            "unknown-version",
            "no API security.istio.io/v1beta1 has a kind DestinationRule",
        ),
        (
            {"apiVersion": "serving.knative.dev/v1", "kind": "Service"},
            "info",
            "unsupported-kind",
            "kind Service (serving.knative.dev/v1)",
        ),
    ],
)
def test_kinds_that_are_not_applied_are_named(
    document: dict[str, object], severity: str, code: str, text: str
) -> None:
    loaded = load_documents([document])
    (found,) = loaded.diagnostics
    assert (found.severity, found.code) == (severity, code)
    assert text in str(found)
    assert loaded.clusters == {}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"kind": "VirtualService"}, '"apiVersion" is missing (add apiVersion: networking.istio'),
        ({"apiVersion": "v1"}, '"kind" is missing'),
        ({"apiVersion": 1, "kind": "Service"}, '"apiVersion" is missing'),
        ({"apiVersion": "v1", "kind": "Service"}, '"metadata.name" is missing'),
        ({"apiVersion": "v1", "kind": "Service", "metadata": []}, '"metadata.name" is missing'),
        ({"servces": {}}, 'did you mean "services"?'),
        ({"foo": 1}, "neither a native policy file nor a Kubernetes-style document"),
        ({}, "neither a native policy file"),
        ([], "a policy document is a mapping, not a list"),
        ("text", 'not the text "text"'),
        ({"apiVersion": "v1", "kind": "List", "items": {}}, "expected a list"),
    ],
)
def test_documents_that_nobody_knows(document: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_documents([document])  # type: ignore[list-item]
    assert text in str(caught.value)


def test_lists_of_lists_are_bounded() -> None:
    document: dict[str, object] = {"apiVersion": "v1", "kind": "List", "items": []}
    for _ in range(20):
        document = {"apiVersion": "v1", "kind": "List", "items": [document]}
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_documents([document])


def test_a_single_mapping_counts_as_one_document() -> None:
    assert load_documents({"version": 1}).clusters == {}  # type: ignore[arg-type]


def host(name: str, *domains: str) -> VirtualHost:
    return VirtualHost(name, domains, ())


def test_merging_tables() -> None:
    sink = Diagnostics()
    own = {ANY_PORT: RouteConfiguration("n", (host("a", "a", "x"),))}
    other = {
        80: RouteConfiguration("i80", (host("i", "a", "i"), host("gone", "x"))),
        ANY_PORT: RouteConfiguration("i", (host("any", "any"),)),
    }
    merged = merge_routes(own, other, sink)
    assert {p: [(h.name, h.domains) for h in t.virtual_hosts] for p, t in merged.items()} == {
        80: [("a", ("a", "x")), ("i", ("i",))],
        ANY_PORT: [("a", ("a", "x")), ("any", ("any",))],
    }
    assert [d.code for d in sink] == ["shadowed", "shadowed"]
    assert "the native one is used" in next(iter(sink)).message


def test_a_native_port_table_receives_the_any_port_hosts_of_the_other_side() -> None:
    own = {81: RouteConfiguration("n", (host("a", "a"),))}
    other = {ANY_PORT: RouteConfiguration("i", (host("any", "any"),))}
    merged = merge_routes(own, other, Diagnostics())
    assert [h.name for h in merged[81].virtual_hosts] == ["a", "any"]
    assert [h.name for h in merged[ANY_PORT].virtual_hosts] == ["any"]


kubernetes = st.sampled_from(
    ["VirtualService", "DestinationRule", "ServiceEntry", "Service", "EndpointSlice", "Pod"]
)
words = st.sampled_from(
    ["hosts", "http", "route", "host", "destination", "match", "spec", "ports", "name", "x", "tls"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=25,
)


@settings(deadline=None, max_examples=200)
@given(kubernetes, values, values)
def test_garbage_documents_raise_nothing_but_config_error(
    kind: str, spec: object, metadata: object
) -> None:
    group = "v1" if kind in ("Service", "Pod") else "networking.istio.io/v1"
    version = "discovery.k8s.io/v1" if kind == "EndpointSlice" else group
    for given_metadata in (metadata, {"name": "n"}):
        document = {
            "apiVersion": version,
            "kind": kind,
            "metadata": given_metadata,
            "spec": spec,
        }
        try:
            load_documents([document])
        except ConfigError as error:
            assert error.diagnostics  # noqa: PT017


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_garbage_files_raise_nothing_but_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.yaml"
    path.write_bytes(data)
    try:
        load_paths(path)
    except ConfigError as error:
        assert error.diagnostics  # noqa: PT017
