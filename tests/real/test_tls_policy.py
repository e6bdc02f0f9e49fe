"""Connections secured as the policy says: sync, asyncio, uvloop and httpcore, end to end."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from engine_support import LOOPS, HttpServer, run_on
from tls_support import EXPIRED, Authority, server_context

import meshclient
from meshclient import errors
from meshclient.transport import tls_policy

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")

HOST = "reviews.test"
SPIFFE = "spiffe://x/ns/prod/sa/reviews"
SERVER_NAMES = f"DNS:{HOST},DNS:*.wild.test,URI:{SPIFFE},IP:127.0.0.1,IP:::1"

Send = Callable[..., Any]


class World:
    """Two authorities, a client certificate of each, and a server of the first."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.client = self.authority.issue("URI:spiffe://x/ns/prod/sa/web")
        self.foreign = self.stranger.issue("URI:spiffe://x/ns/prod/sa/web")
        self.server = self.authority.issue(SERVER_NAMES)

    def tls(self, **changes: Any) -> dict[str, Any]:
        certificate, key = self.client
        block = {"mode": "mutual", "ca": self.authority.ca, "certificate": certificate, "key": key}
        return {name: value for name, value in (block | changes).items() if value is not None}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[HttpServer]:
    context = server_context(world.server, world.authority.ca)
    with HttpServer(tls=context) as running:
        yield running


def mesh_to(port: int, tls: dict[str, Any], host: str = HOST, **service: Any) -> meshclient.Mesh:
    entry = {"endpoints": [f"127.0.0.1:{port}"], "retries": {"attempts": 0}, "tls": tls, **service}
    document = {"version": 1, "services": {host: entry}}
    return meshclient.Mesh.from_documents([document])


def sync_send(mesh: meshclient.Mesh, url: str, **options: Any) -> Any:
    with mesh.client(trust_env=False) as client:
        return client.get(url, **options)


def async_send(kind: str) -> Send:
    def send(mesh: meshclient.Mesh, url: str, **options: Any) -> Any:
        async def run() -> Any:
            async with mesh.async_client(trust_env=False) as client:
                return await client.get(url, **options)

        return run_on(kind, run())

    return send


def trio_send(mesh: meshclient.Mesh, url: str, **options: Any) -> Any:
    """No asyncio loop: the fallback engine carries the call."""

    async def run() -> Any:
        try:
            async with mesh.async_client(trust_env=False) as client:
                with trio.fail_after(20):
                    return await client.get(url, **options)
        finally:  # its connections can be closed inside their own run only
            await mesh._engines.aclose()

    return trio.run(run)


SENDS: dict[str, Send] = {"sync": sync_send, **{kind: async_send(kind) for kind in LOOPS}}
each = pytest.mark.parametrize("send", SENDS.values(), ids=SENDS.keys())


@each
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"subject_alt_names": [SPIFFE]},
        {"subject_alt_names": ["spiffe://no", "127.0.0.1"]},
        {"subject_alt_names": ["a.wild.test"], "sni": "anything.test"},
        {"subject_alt_names": [{"prefix": "spiffe://x/ns/prod/", "type": "uri"}]},
        {"subject_alt_names": [{"suffix": "sa/reviews"}]},
        {"subject_alt_names": [{"regex": "spiffe://x/ns/[a-z]+/sa/reviews"}]},
        {"subject_alt_names": [{"exact": "::1", "type": "ip"}]},
        {"sni": "b.wild.test"},
        {"insecure_skip_verify": True, "ca": None},
    ],
    ids=str,
)
def test_calls_go_out_over_tls(send: Send, changes: Any, world: World, server: HttpServer) -> None:
    with mesh_to(server.port, world.tls(**changes)) as mesh:
        response = send(mesh, f"http://{HOST}/x")
        assert response.status_code == 200
        assert response.extensions["network_stream"].get_extra_info("ssl_object") is not None
        assert server.requests[-1].header("host") == HOST


@each
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"subject_alt_names": ["spiffe://x/ns/prod/sa/other"]},
            "expected is spiffe://x/ns/prod/sa",
        ),
        ({"subject_alt_names": [{"prefix": "reviews", "type": "uri"}]}, f"for dns:{HOST}, dns:"),
        ({"subject_alt_names": ["a.b.wild.test"]}, "expected is a.b.wild.test"),
        ({"subject_alt_names": ["127.0.0.2"]}, "ip:127.0.0.1"),
        ({"sni": "other.test"}, "other.test"),
        ({"ca": "stranger"}, "CERTIFICATE_VERIFY_FAILED"),
    ],
    ids=str,
)
def test_a_server_that_is_somebody_else_gets_no_request(
    send: Send, changes: Any, reason: str, world: World, server: HttpServer
) -> None:
    if changes.get("ca"):
        changes = {"ca": world.stranger.ca}
    seen = len(server.requests)
    with mesh_to(server.port, world.tls(**changes)) as mesh:
        with pytest.raises(errors.ConnectFailed) as caught:
            send(mesh, f"http://{HOST}/")
        assert reason in str(caught.value)
        assert caught.value.report.flags == ("UF",)
    assert len(server.requests) == seen


@each
@pytest.mark.parametrize("which", ["none", "foreign", "expired"])
def test_a_client_without_a_good_certificate_is_turned_away(
    send: Send, which: str, world: World, server: HttpServer
) -> None:
    """TLS 1.3 servers say so after the client's side of the handshake is over."""
    tls = world.tls(mode="simple", certificate=None, key=None)
    if which != "none":
        pair = world.foreign if which == "foreign" else world.authority.issue("", dates=EXPIRED)
        tls = world.tls(certificate=pair[0], key=pair[1])
    seen = len(server.requests)
    with mesh_to(server.port, tls) as mesh, pytest.raises(errors.CallError) as caught:
        send(mesh, f"http://{HOST}/")
    assert isinstance(caught.value, (errors.ConnectFailed, errors.UpstreamReset))
    assert len(server.requests) == seen


@each
@pytest.mark.parametrize("problem", ["missing", "mismatch", "empty", "encrypted", "folder"])
def test_files_that_cannot_be_used_refuse_the_call_by_name(
    send: Send, problem: str, world: World, server: HttpServer, tmp_path: Path
) -> None:
    file = tmp_path / "file.pem"
    changes, reason = {
        "missing": ({"ca": str(file)}, f"ca {file}: No such file"),
        "mismatch": ({"key": world.foreign[1]}, f"key {world.foreign[1]}: is not the key of"),
        "empty": ({"certificate": str(file)}, f"certificate {file}: holds no PEM block"),
        "encrypted": ({"key": str(file)}, f"with key {file}"),
        "folder": ({"ca": str(tmp_path)}, f"ca {tmp_path}: is not a regular file"),
    }[problem]
    if problem == "empty":
        file.write_text("")
    if problem == "encrypted":
        from tls_support import openssl

        openssl("ec", "-aes128", "-passout", "pass:x", "-in", world.client[1], "-out", str(file))
    seen = server.accepted
    with mesh_to(server.port, world.tls(**changes)) as mesh:
        with pytest.raises(errors.SecurityError) as caught:
            send(mesh, f"http://{HOST}/")
        assert reason in str(caught.value)
        explained = mesh.explain("GET", f"http://{HOST}/")
        assert reason in explained.verdict
        assert set(mesh.dump()["clusters"][HOST].values()) == {0}
    assert server.accepted == seen


@each
def test_tls_inside_tls_is_refused(send: Send, world: World, server: HttpServer) -> None:
    seen = server.accepted
    with mesh_to(server.port, world.tls()) as mesh:
        with pytest.raises(errors.SecurityError, match="TLS inside TLS"):
            send(mesh, f"https://{HOST}/")
        assert "TLS inside TLS" in mesh.explain("GET", f"https://{HOST}/").verdict
    assert server.accepted == seen


@each
def test_a_server_without_tls_gets_no_plain_text(send: Send, world: World) -> None:
    with HttpServer() as plain, mesh_to(plain.port, world.tls()) as mesh:
        with pytest.raises(errors.ConnectFailed, match="TLS handshake"):
            send(mesh, f"http://{HOST}/")
        assert plain.requests == []


@each
def test_one_host_name_never_shares_the_connection_of_another(
    send: Send, world: World, server: HttpServer
) -> None:
    """The Host decides on SNI and expected name, so it is part of the pool's key."""
    with mesh_to(server.port, world.tls(), hosts=["a.wild.test", "no.test"]) as mesh:
        assert send(mesh, f"http://{HOST}/").status_code == 200
        assert send(mesh, "http://a.wild.test/").status_code == 200
        with pytest.raises(errors.ConnectFailed, match=r"no\.test"):
            send(mesh, "http://no.test/")


@each
def test_revoked_servers_are_refused(send: Send, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, bad = authority.issue(f"DNS:{HOST}"), authority.issue(f"DNS:{HOST}")
    tls = {"mode": "simple", "ca": authority.ca, "crl": authority.revoke(bad[0])}
    for pair, fine in ((good, True), (bad, False)):
        with HttpServer(tls=server_context(pair)) as server, mesh_to(server.port, tls) as mesh:
            if fine:
                assert send(mesh, f"http://{HOST}/").status_code == 200
            else:
                with pytest.raises(errors.ConnectFailed, match="certificate revoked"):
                    send(mesh, f"http://{HOST}/")


@each
def test_tls_1_2_is_spoken(send: Send, world: World) -> None:
    context = server_context(world.server, maximum=ssl.TLSVersion.TLSv1_2)
    with HttpServer(tls=context) as server, mesh_to(server.port, world.tls()) as mesh:
        response = send(mesh, f"http://{HOST}/")
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.2"


def istio_mesh(port: int, tls: str, *more: dict[str, object], **options: str) -> meshclient.Mesh:
    import yaml

    text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: r}}
spec:
  hosts: [{HOST}]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: r}}
spec: {{host: {HOST}, trafficPolicy: {{tls: {tls}}}}}
"""
    documents = [*yaml.safe_load_all(text), *more]
    return meshclient.Mesh.from_documents(documents, **options)


@each
@pytest.mark.parametrize("said_by", ["environment", "file", "program"])
def test_istio_mutual_takes_the_workloads_certificates(
    send: Send, said_by: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's word counts before that of the files, and theirs before the environment."""
    folder = tmp_path / "certs"
    folder.mkdir()
    for name, file in zip(
        ("cert-chain.pem", "key.pem", "root-cert.pem"),
        (*world.client, world.authority.ca),
        strict=True,
    ):
        shutil.copy(file, folder / name)
    ranks = ["environment", "file", "program"]
    where = dict.fromkeys(ranks[: ranks.index(said_by)], str(tmp_path / "elsewhere"))
    where[said_by] = str(folder)
    monkeypatch.setenv("MESHCLIENT_ISTIO_CERTS", where["environment"])
    node = {"workload_certificates": where["file"]} if "file" in where else {}
    options = {"workload_certificates": where["program"]} if "program" in where else {}
    tls_policy._context.cache_clear()
    seen: list[str] = []
    context = server_context(world.server, world.authority.ca, alpn=("istio", "http/1.1"))
    context.sni_callback = lambda _s, name, _c: seen.append(name)  # type: ignore[assignment]
    names = f"{{mode: ISTIO_MUTUAL, subjectAltNames: ['{SPIFFE}']}}"
    with (
        HttpServer(tls=context) as server,
        istio_mesh(server.port, names, {"version": 1, "node": node}, **options) as mesh,
    ):
        response = send(mesh, f"http://{HOST}/")
        assert response.status_code == 200
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "istio"
    assert seen == [f"outbound_.80_._.{HOST}"]
    tls_policy._context.cache_clear()


@each
def test_istio_mutual_without_certificates_or_names_is_refused(
    send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHCLIENT_ISTIO_CERTS", str(tmp_path))
    tls_policy._context.cache_clear()
    for tls, reason in (
        ("{mode: ISTIO_MUTUAL}", "identity is not known"),
        ("{mode: ISTIO_MUTUAL, subjectAltNames: [x]}", r"key\.pem: No such file"),
        ("{mode: SIMPLE, credentialName: c}", "credentialName 'c'"),
    ):
        with istio_mesh(1, tls) as mesh, pytest.raises(errors.SecurityError, match=reason):
            send(mesh, f"http://{HOST}/")
    tls_policy._context.cache_clear()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_blocking_connections_resume_their_sessions(world: World, version: ssl.TLSVersion) -> None:
    context = server_context(world.server, world.authority.ca, maximum=version)
    tls = world.tls(subject_alt_names=[SPIFFE])
    once = {"connection": {"max_requests": 1}}
    with HttpServer(tls=context) as server, mesh_to(server.port, tls, **once) as mesh:
        for _ in range(4):
            assert sync_send(mesh, f"http://{HOST}/").status_code == 200
    assert context.session_stats()["hits"] == 3


OTHERS: dict[str, tuple[Any, Send]] = {
    "httpcore": ("httpcore", sync_send),
    "httpx": ("httpx", sync_send),
    "trio": ("meshclient", trio_send),
}


@pytest.mark.parametrize(("engine", "send"), OTHERS.values(), ids=OTHERS.keys())
def test_other_engines_keep_to_the_policy(
    engine: Any, send: Send, world: World, server: HttpServer
) -> None:
    def mesh(**changes: Any) -> meshclient.Mesh:
        tls = world.tls(**changes)
        entry = {"endpoints": [server.authority], "retries": {"attempts": 0}, "tls": tls}
        document = {"version": 1, "services": {HOST: entry}}
        return meshclient.Mesh.from_documents([document], engine=engine)

    with mesh(subject_alt_names=[SPIFFE]) as good:
        assert send(good, f"http://{HOST}/").status_code == 200
    seen = len(server.requests)
    for changes in ({"subject_alt_names": ["spiffe://no"]}, {"sni": "no.test"}):
        with mesh(**changes) as bad, pytest.raises(errors.ConnectFailed):
            send(bad, f"http://{HOST}/")
    with mesh(key=world.foreign[1]) as broken, pytest.raises(errors.SecurityError):
        send(broken, f"http://{HOST}/")
    assert len(server.requests) == seen


def test_explain_shows_the_terms(world: World, server: HttpServer) -> None:
    names = [SPIFFE, {"suffix": ".test", "type": "dns"}]
    with mesh_to(server.port, world.tls(subject_alt_names=names)) as mesh:
        explained = mesh.explain("GET", f"http://{HOST}/")
    (row,) = explained.clusters
    assert row["tls"]["mode"] == "mutual"
    assert row["tls"]["sni"] == HOST
    assert row["tls"]["expected_names"] == [SPIFFE, "dns:suffix .test"]
    assert row["tls"]["certificate"] == world.client[0]
    assert row["tls"]["certificate_expires"].startswith("20")
    assert f"  tls expected names: {SPIFFE}, dns:suffix .test\n" in str(explained)
    assert explained.not_honoured == []


def test_contexts_are_shared_and_bounded(world: World) -> None:
    from meshclient.model.cluster import TlsSettings

    first = tls_policy.context_for(TlsSettings("simple", world.authority.ca, sni="a"))
    assert tls_policy.context_for(TlsSettings("simple", world.authority.ca, sni="b")) is first
    assert tls_policy._context.cache_info().maxsize == tls_policy.MAX_CONTEXTS
    assert tls_policy.context_for(TlsSettings("simple")) is not first
