"""Handshakes with a real Envoy as the server: we accept and refuse what Envoy as client does.

Every case is a cluster of the same settings twice, in a client-side Envoy and
in our policy, called once through each.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_support import LOOPS, run_on
from tls_support import EXPIRED, Authority

import meshclient

BINARY = Path(sys.executable).with_name("envoy")
pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(not BINARY.exists(), reason="no envoy"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates"),
]

CASES = 180
SEED = 20
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_HTTP = "type.googleapis.com/envoy.extensions."
HOSTS = ("reviews.test", "a.wild.test", "a.b.wild.test", "other.test", "127.0.0.1")

#: Names in the server's certificate.
SERVER_NAMES = {
    "all": "DNS:reviews.test,DNS:*.wild.test,URI:spiffe://x/sa/r,IP:127.0.0.1",
    "dns": "DNS:reviews.test",
    "wild": "DNS:*.wild.test",
    "uri": "URI:spiffe://x/sa/r",
    "ip": "IP:127.0.0.1",
    "none": "",
    "expired": "DNS:reviews.test,URI:spiffe://x/sa/r",
    "foreign": "DNS:reviews.test,URI:spiffe://x/sa/r",
}
VERSIONS = {"any": ("TLSv1_2", "TLSv1_3"), "1.2": ("TLSv1_2", "TLSv1_2"),
            "1.3": ("TLSv1_3", "TLSv1_3"), "1.1": ("TLSv1_0", "TLSv1_1")}  # fmt: skip
CLIENTS = ("absent", "good", "foreign", "expired")
#: What the client expects: (type, kind, value); empty: the Host.
EXPECTED: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (),
    (("dns", "exact", "reviews.test"),),
    (("dns", "exact", "a.wild.test"),),
    (("dns", "exact", "REVIEWS.test"),),
    (("dns", "exact", "no.test"),),
    (("dns", "suffix", ".test"),),
    (("dns", "prefix", "reviews"),),
    (("uri", "exact", "spiffe://x/sa/r"),),
    (("uri", "exact", "spiffe://x/sa/other"),),
    (("uri", "prefix", "spiffe://x/"),),
    (("uri", "suffix", "/sa/q"),),
    (("uri", "regex", "spiffe://[a-z]/sa/[pqr]"),),
    (("uri", "regex", "spiffe://x"),),
    (("ip", "exact", "127.0.0.1"),),
    (("ip", "exact", "127.0.0.2"),),
    (("dns", "exact", "spiffe://x/sa/r"),),
    (("uri", "exact", "spiffe://no"), ("dns", "exact", "reviews.test")),
)


@dataclass(frozen=True)
class Case:
    number: int
    server: str
    version: str
    demands: bool
    wants_sni: bool
    client: str
    expected: tuple[tuple[str, str, str], ...]
    sni: str
    host: str
    trusts: bool

    @property
    def listener(self) -> str:
        sni = "sni" if self.wants_sni else "any"
        return f"{self.server}-{self.version}-{'m' if self.demands else 's'}-{sni}"


def cases() -> list[Case]:
    """A fixed sample; most of its members differ in one or two things from what works."""
    rng = random.Random(SEED)

    def draw(usual: Any, others: Any, odds: float) -> Any:
        return usual if rng.random() > odds else rng.choice(others)

    found = [
        Case(
            number,
            draw("all", list(SERVER_NAMES), 0.45),
            draw("any", list(VERSIONS), 0.35),
            draw(True, [False], 0.3),
            draw(False, [True], 0.2),
            draw("good", CLIENTS, 0.4),
            # The policy's sni is also what the certificate is compared with; Envoy has no such
            # setting, so a fixed sni goes with expected names here.
            (expected := rng.choice(EXPECTED)),
            draw("", ["sni.test", "no-sni.test"], 0.4) if expected else "",
            draw("reviews.test", HOSTS, 0.4),
            draw(True, [False], 0.08),
        )
        for number in range(CASES)
    ]
    assert len({(*vars_of(case),) for case in found}) > 100
    return found


def vars_of(case: Case) -> tuple[Any, ...]:
    return (case.listener, case.client, case.expected, case.sni, case.host, case.trusts)


class Certificates:
    def __init__(self, folder: Path) -> None:
        good, other = Authority(folder, "good"), Authority(folder, "other")
        self.ca = {True: good.ca, False: other.ca}
        self.server = {
            name: (other if name == "foreign" else good).issue(
                names, dates=EXPIRED if name == "expired" else None
            )
            for name, names in SERVER_NAMES.items()
        }
        me = "URI:spiffe://x/sa/me"
        self.client = {
            "good": good.issue(me),
            "foreign": other.issue(me),
            "expired": good.issue(me, dates=EXPIRED),
        }


def file(path: str) -> dict[str, str]:
    return {"filename": path}


def chain(pair: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"certificate_chain": file(pair[0]), "private_key": file(pair[1])}]


def pipe(folder: Path, name: str) -> dict[str, Any]:
    return {"pipe": {"path": str(folder / name)}}


def http_filter(routes: list[dict[str, Any]]) -> dict[str, Any]:
    router = {"@type": f"{_HTTP}filters.http.router.v3.Router"}
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{_HTTP}filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "x",
            "route_config": {"virtual_hosts": [{"name": "x", "domains": ["*"], "routes": routes}]},
            "http_filters": [{"name": "router", "typed_config": router}],
        },
    }


def server_listener(folder: Path, case: Case, made: Certificates) -> dict[str, Any]:
    lowest, highest = VERSIONS[case.version]
    common: dict[str, Any] = {
        "tls_certificates": chain(made.server[case.server]),
        "tls_params": {
            "tls_minimum_protocol_version": lowest,
            "tls_maximum_protocol_version": highest,
        },
        "alpn_protocols": ["http/1.1"],
    }
    if case.demands:
        common["validation_context"] = {"trusted_ca": file(made.ca[True])}
    tls = {
        "@type": f"{_TLS}DownstreamTlsContext",
        "common_tls_context": common,
        "require_client_certificate": case.demands,
    }
    found: dict[str, Any] = {
        "filters": [http_filter([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}])],
        "transport_socket": {"name": "tls", "typed_config": tls},
    }
    listener: dict[str, Any] = {
        "name": case.listener,
        "address": pipe(folder, case.listener),
        "filter_chains": [found],
    }
    if case.wants_sni:
        found["filter_chain_match"] = {"server_names": ["sni.test"]}
        inspector = {"@type": f"{_HTTP}filters.listener.tls_inspector.v3.TlsInspector"}
        listener["listener_filters"] = [{"name": "tls", "typed_config": inspector}]
    return listener


def client_cluster(folder: Path, case: Case, made: Certificates) -> dict[str, Any]:
    kinds = {"dns": "DNS", "uri": "URI", "ip": "IP_ADDRESS"}
    validation: dict[str, Any] = {"trusted_ca": file(made.ca[case.trusts])}
    if case.expected:
        validation["match_typed_subject_alt_names"] = [
            {
                "san_type": kinds[kind_of_name],
                "matcher": {"safe_regex": {"regex": value}} if kind == "regex" else {kind: value},
            }
            for kind_of_name, kind, value in case.expected
        ]
    common: dict[str, Any] = {
        "validation_context": validation,
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "alpn_protocols": ["http/1.1"],
    }
    if case.client != "absent":
        common["tls_certificates"] = chain(made.client[case.client])
    automatic = {"auto_sni": not case.sni, "auto_san_validation": not case.expected}
    endpoint = {"endpoint": {"address": pipe(folder, case.listener)}}
    return {
        "name": f"c{case.number}",
        "connect_timeout": "3s",
        "load_assignment": {
            "cluster_name": f"c{case.number}",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TLS}UpstreamTlsContext",
                "common_tls_context": common,
                "sni": case.sni,
            },
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_HTTP}upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "upstream_http_protocol_options": automatic,
            }
        },
    }


def our_service(folder: Path, case: Case, made: Certificates) -> dict[str, Any]:
    tls: dict[str, Any] = {"mode": "simple", "ca": made.ca[case.trusts]}
    if case.client != "absent":
        certificate, key = made.client[case.client]
        tls |= {"mode": "mutual", "certificate": certificate, "key": key}
    if case.sni:
        tls["sni"] = case.sni
    if case.expected:
        tls["subject_alt_names"] = [
            {kind: value, "type": kind_of_name} for kind_of_name, kind, value in case.expected
        ]
    return {
        "endpoints": [f"unix://{folder / case.listener}"],
        "retries": {"attempts": 0},
        "tls": tls,
    }


class World:
    """The two Envoys in one process, and our policy, for all cases."""

    def __init__(self, folder: Path) -> None:
        self.cases = cases()
        self.front = folder / "front"
        made = Certificates(folder / "certificates")
        listeners = {case.listener: server_listener(folder, case, made) for case in self.cases}
        routes = [
            {
                "match": {"prefix": f"/c{case.number}/"},
                "route": {"cluster": f"c{case.number}", "timeout": "5s"},
            }
            for case in self.cases
        ]
        front = {
            "name": "front",
            "address": pipe(folder, "front"),
            "filter_chains": [{"filters": [http_filter(routes)]}],
        }
        config = {
            "admin": {"address": pipe(folder, "admin")},
            "static_resources": {
                "listeners": [*listeners.values(), front],
                "clusters": [client_cluster(folder, case, made) for case in self.cases],
            },
        }
        (folder / "envoy.json").write_text(json.dumps(config))
        services: dict[str, Any] = {
            f"c{case.number}": our_service(folder, case, made) for case in self.cases
        }
        services["reviews.test"] = {
            "hosts": list(HOSTS[1:]),
            "retries": {"attempts": 0},
            "routes": [
                {"match": {"prefix": f"/c{case.number}/"}, "to": f"c{case.number}"}
                for case in self.cases
            ],
        }
        self.policy = {"version": 1, "services": services}
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [str(BINARY), "-c", str(folder / "envoy.json"), "--concurrency", "1",
             "--disable-hot-restart", "-l", "warning"],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self._wait(folder)

    def _wait(self, folder: Path) -> None:
        deadline = time.monotonic() + 30
        while not _is_ready(folder / "admin"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                log = (folder / "log").read_text()[-2000:]
                raise RuntimeError(f"Envoy did not start: {log}")
            time.sleep(0.05)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._log.close()

    def envoys_verdicts(self) -> dict[int, bool]:
        verdicts: dict[int, bool] = {}
        transport = httpx.HTTPTransport(uds=str(self.front))
        with httpx.Client(transport=transport, timeout=10) as client:
            for case in self.cases:
                response = client.get(self.url(case), headers={"host": case.host})
                assert response.status_code in (200, 503), response.text
                verdicts[case.number] = response.status_code == 200
        return verdicts

    def url(self, case: Case) -> str:
        return f"http://{case.host}/c{case.number}/"


def _is_ready(admin: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(admin))
        except OSError:
            return False
        sock.sendall(b"GET /ready HTTP/1.1\r\nHost: admin\r\n\r\n")
        return b" 200 " in sock.recv(64)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="tls-"))
    running = World(folder)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def verdicts(world: World) -> dict[int, bool]:
    return world.envoys_verdicts()


def compare(world: World, verdicts: dict[int, bool], ours: dict[int, str]) -> None:
    wrong = [
        f"{case}: Envoy {'accepts' if verdicts[case.number] else 'refuses'}, we: "
        f"{ours[case.number] or 'accept'}"
        for case in world.cases
        if verdicts[case.number] != (ours[case.number] == "")
    ]
    assert wrong == []


def test_the_sample_has_both_outcomes(verdicts: dict[int, bool]) -> None:
    accepted = sum(verdicts.values())
    assert len(verdicts) == CASES
    assert accepted >= 30
    assert CASES - accepted >= 60


def test_blocking_handshakes_end_as_envoys_do(world: World, verdicts: dict[int, bool]) -> None:
    ours: dict[int, str] = {}
    with meshclient.Mesh.from_documents([world.policy]) as mesh, mesh.client() as client:
        for case in world.cases:
            try:
                ours[case.number] = "" if client.get(world.url(case)).status_code == 200 else "?"
            except meshclient.MeshError as error:
                ours[case.number] = str(error)
    compare(world, verdicts, ours)


@pytest.mark.parametrize("kind", LOOPS)
def test_asyncio_handshakes_end_as_envoys_do(
    kind: str, world: World, verdicts: dict[int, bool]
) -> None:
    ours: dict[int, str] = {}

    async def run() -> None:
        async with (
            meshclient.Mesh.from_documents([world.policy]) as mesh,
            mesh.async_client() as client,
        ):
            for case in world.cases:
                try:
                    response = await client.get(world.url(case))
                    ours[case.number] = "" if response.status_code == 200 else "?"
                except meshclient.MeshError as error:
                    ours[case.number] = str(error)

    run_on(kind, run())
    compare(world, verdicts, ours)
