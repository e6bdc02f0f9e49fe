"""TLS of gRPC calls by the policy's own settings: names, SPIFFE identities, rotation, refusals."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_support import CALLERS, EchoServer, in_flight, policy
from tls_support import Authority

import meshclient
from meshclient import errors
from meshclient.transport import tls_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")

S = grpc.StatusCode
IDENTITY = "spiffe://cluster.local/ns/prod/sa/orders"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("grpc-tls"))


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> tuple[str, str]:
    return authority.issue("URI:spiffe://cluster.local/ns/prod/sa/web")


def _server(authority: Authority, names: str, *, mutual: bool = False) -> EchoServer:
    certificate, key = authority.issue(names)
    root = Path(authority.ca).read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(Path(key).read_bytes(), Path(certificate).read_bytes())],
        root_certificates=root if mutual else None,
        require_client_auth=mutual,
    )
    return EchoServer("secure", credentials=credentials)


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.colour)
def dial(request: Any) -> Iterator[Any]:
    made: list[Any] = []

    def make(server: Any, tls: dict[str, Any], **options: Any) -> Any:
        mesh = meshclient.Mesh.from_documents([policy(server, tls=tls)])
        made.append(request.param(mesh, **options))
        return made[-1]

    yield make
    for caller in made:
        left = in_flight(caller.mesh)
        caller.close()
        assert left == 0


def test_a_server_with_its_dns_name(dial, authority):
    with _server(authority, "DNS:orders") as server:
        caller = dial(server, {"mode": "simple", "ca": authority.ca})
        assert caller.unary("Who")[0] == b"secure"
        assert caller.chat([b"a", b"b"]) == [b"a", b"b"]
        assert len(caller.unary("Large", b"3000000")[0]) == 3_000_000


def test_another_dns_name_is_refused(dial, authority):
    with _server(authority, "DNS:payments") as server:
        caller = dial(server, {"mode": "simple", "ca": authority.ca})
        with pytest.raises(grpc.RpcError) as caught:
            caller.unary("Who")
        assert caught.value.code() is S.UNAVAILABLE
        assert server.count == 0


def test_a_spiffe_identity_is_verified(dial, authority, client_pair):
    tls = {
        "mode": "mutual",
        "ca": authority.ca,
        "certificate": client_pair[0],
        "key": client_pair[1],
        "subject_alt_names": [IDENTITY],
    }
    with _server(authority, f"URI:{IDENTITY}", mutual=True) as server:
        caller = dial(server, tls)
        assert caller.unary("Who")[0] == b"secure"
        assert caller.expand("Expand", b"3") == [b"0", b"1", b"2"]


def test_another_spiffe_identity_is_refused(dial, authority, client_pair):
    tls = {
        "mode": "mutual",
        "ca": authority.ca,
        "certificate": client_pair[0],
        "key": client_pair[1],
        "subject_alt_names": [IDENTITY],
    }
    with _server(authority, "URI:spiffe://cluster.local/ns/prod/sa/thief", mutual=True) as server:
        caller = dial(server, tls)
        with pytest.raises(grpc.RpcError) as caught:
            caller.unary("Who")
        assert caught.value.code() is S.UNAVAILABLE
        assert server.count == 0


def test_a_server_in_plain_text_is_refused(dial, authority):
    with EchoServer() as server:
        caller = dial(server, {"mode": "simple", "ca": authority.ca})
        with pytest.raises(grpc.RpcError) as caught:
            caller.unary("Who")
        assert caught.value.code() is S.UNAVAILABLE
        assert server.count == 0


def test_files_that_cannot_be_used_refuse_the_call(dial, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with EchoServer() as server:
        caller = dial(server, {"mode": "simple", "ca": str(tmp_path / "ca.pem")})
        with pytest.raises(grpc.RpcError) as caught:
            caller.unary("Who")
        assert isinstance(caught.value, errors.SecurityError)
        assert "never sent in plain" in caught.value.debug_error_string()
        assert server.count == 0


def test_tls_of_the_caller_inside_that_of_the_policy_is_refused(dial, authority):
    with _server(authority, "DNS:orders") as server:
        credentials = grpc.ssl_channel_credentials(Path(authority.ca).read_bytes())
        caller = dial(server, {"mode": "simple", "ca": authority.ca}, credentials=credentials)
        with pytest.raises(grpc.RpcError) as caught:
            caller.unary("Who")
        assert isinstance(caught.value, errors.SecurityError)


@pytest.mark.parametrize("names", [[], [IDENTITY]], ids=["grpcio", "relay"])
def test_new_certificates_serve_the_next_connection(authority, tmp_path, monkeypatch, names):
    """The server demands a client certificate; the first one is of a stranger's CA."""
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)
    stranger = Authority(tmp_path, "stranger").issue("URI:spiffe://x/one")
    good = authority.issue("URI:spiffe://x/two")
    files = {name: tmp_path / name for name in ("tls.crt", "tls.key")}
    for pair_file, path in zip(stranger, files.values(), strict=True):
        shutil.copy(pair_file, path)
    tls = {
        "mode": "mutual",
        "ca": authority.ca,
        "certificate": str(files["tls.crt"]),
        "key": str(files["tls.key"]),
        "subject_alt_names": names,
    }
    with _server(authority, f"DNS:orders,URI:{IDENTITY}", mutual=True) as server:
        mesh = meshclient.Mesh.from_documents([policy(server, tls=tls)])
        with mesh, mesh.grpc_channel("orders") as channel:
            who = channel.unary_unary("/test.Echo/Who")
            with pytest.raises(grpc.RpcError):
                who(b"", timeout=5)
            for pair_file, path in zip(good, files.values(), strict=True):
                shutil.copy(pair_file, f"{path}.new")
                os.replace(f"{path}.new", path)
            assert who(b"", timeout=10, wait_for_ready=True) == b"secure"


def test_the_relay_is_this_users_alone_and_goes_with_the_mesh(authority, caplog):
    with _server(authority, "DNS:orders") as server:
        tls = {"mode": "simple", "ca": authority.ca, "subject_alt_names": ["orders"]}
        mesh = meshclient.Mesh.from_documents([policy(server, tls=tls)])
        mesh.grpc_channel("orders").unary_unary("/test.Echo/Who")(b"")
        relay = mesh._engines.get("grpc").relay()
        folder = Path(relay._folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        mesh.close()
        assert not folder.exists()
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("names", [[], ["orders"]], ids=["grpcio", "relay"])
def test_large_messages_pass_both_ways(dial, authority, names):
    """More than any buffer holds: the relay waits with its reader."""
    with _server(authority, "DNS:orders") as server:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        tls = {"mode": "simple", "ca": authority.ca, "subject_alt_names": names}
        caller = dial(server, tls, options=options)
        messages = [bytes([number]) * 2_000_000 for number in range(8)]
        assert caller.chat(messages) == messages


def test_halves_of_new_files_never_replace_good_ones(authority, tmp_path, monkeypatch):
    """A certificate without its key is not used, and the calls go on with the old pair."""
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)
    files = {name: tmp_path / name for name in ("tls.crt", "tls.key")}
    for pair_file, path in zip(authority.issue("DNS:web"), files.values(), strict=True):
        shutil.copy(pair_file, path)
    tls = {
        "mode": "mutual",
        "ca": authority.ca,
        "certificate": str(files["tls.crt"]),
        "key": str(files["tls.key"]),
    }
    with _server(authority, "DNS:orders", mutual=True) as server:
        mesh = meshclient.Mesh.from_documents([policy(server, tls=tls)])
        with mesh, mesh.grpc_channel("orders") as channel:
            who = channel.unary_unary("/test.Echo/Who")
            assert who(b"", timeout=5) == b"secure"
            shutil.copy(authority.issue("DNS:web")[0], files["tls.crt"])
            for _ in range(3):
                assert who(b"", timeout=5) == b"secure"
            server.stop()
            server.start()
            assert who(b"", timeout=5, wait_for_ready=True) == b"secure"
