"""Calls through proxies, sync, asyncio and trio: our own small proxy, and tinyproxy."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from engine_support import HttpServer, Recorded, Reply, certificate
from servers.proxy import ProxyServer
from test_engine_fallback import h2_server

from meshclient import Mesh, errors

HOWS = ("sync", "asyncio", "trio")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(
    how: str, document: Any, urls: list[str], engine: Any = "meshclient", **options: Any
) -> Any:
    """GET every url with one client; the responses, or the first error raised."""
    mesh = Mesh.from_documents([document], engine=engine)

    def sync_call() -> list[httpx.Response]:
        with mesh, mesh.client(**options) as client:
            return [client.get(url) for url in urls]

    async def async_call() -> list[httpx.Response]:
        async with mesh, mesh.async_client(**options) as client:
            return [await client.get(url) for url in urls]

    if how == "sync":
        return sync_call()
    return asyncio.run(async_call()) if how == "asyncio" else trio.run(async_call)


def echo(request: Recorded) -> Reply:
    return Reply(200, request.target.encode(), [("X-Host", request.header("host") or "")])


def service(server: HttpServer) -> dict[str, Any]:
    return {"version": 1, "services": {"reviews": {"endpoints": [server.authority]}}}


NOTHING: dict[str, Any] = {"version": 1, "services": {}}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("engine", ["meshclient", "httpcore"])
def test_a_mesh_host_is_reached_by_a_tunnel_to_its_endpoint(how, scheme, engine):
    with HttpServer(echo) as server, ProxyServer(("u", "p:w")) as proxy:
        url = f"{scheme}://u:p%3Aw@{proxy.authority}"
        answers = ask(
            how, service(server), ["http://reviews/a", "http://reviews/b"], engine, proxy=url
        )
        assert [a.text for a in answers] == ["/a", "/b"]
        assert answers[0].headers["x-host"] == "reviews"
        verb = "CONNECT" if scheme == "http" else "SOCKS"
        assert proxy.asked == [f"{verb} {server.authority}"], "one tunnel, kept alive"
        assert answers[0].extensions["meshclient"].endpoint == server.authority


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("engine", ["meshclient", "httpcore", "httpx"])
def test_a_host_without_policy_is_forwarded(how, engine):
    with (
        HttpServer(echo) as server,
        ProxyServer(("u", "p"), {"far.test": ("127.0.0.1", 0)}) as proxy,
    ):
        proxy.names["far.test"] = ("127.0.0.1", server.port)
        (answer,) = ask(
            how, NOTHING, ["http://far.test:81/x?y"], engine, proxy=f"http://u:p@{proxy.authority}"
        )
        assert answer.text == "/x?y"
        assert proxy.asked == ["GET http://far.test:81/x?y"]
        assert server.requests[0].header("host") == "far.test:81"
        assert server.requests[0].header("proxy-authorization") is None


@pytest.mark.parametrize("how", HOWS)
def test_the_environment_serves_only_hosts_without_policy(how, monkeypatch):
    with HttpServer(echo) as server, ProxyServer(names={}) as proxy:
        proxy.names["far.test"] = ("127.0.0.1", server.port)
        monkeypatch.setenv("HTTP_PROXY", proxy.authority)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        urls = ["http://reviews/", "http://far.test/", f"{server.url}/direct"]
        ask(how, service(server), urls)
        assert proxy.asked == ["GET http://far.test/"]
        with pytest.raises(httpx.ConnectError):
            ask(how, service(server), ["http://far.test/"], trust_env=False)
        assert len(proxy.asked) == 1


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_tls_goes_through_the_tunnel_under_the_name_of_the_service(
    how, scheme, tmp_path, monkeypatch
):
    """The endpoint is an IP, the certificate names the service: verified end to end."""
    pair = certificate(tmp_path, "reviews.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    with HttpServer(echo, tls=context) as server, ProxyServer() as proxy:
        document = {"version": 1, "services": {"reviews.test": {"endpoints": [server.authority]}}}
        url = f"{scheme}://{proxy.authority}"
        (answer,) = ask(how, document, ["https://reviews.test/x"], proxy=url, verify=pair[0])
        assert answer.text == "/x"
        proxy.names["reviews.test"] = ("127.0.0.1", server.port)
        monkeypatch.setenv("ALL_PROXY", url)
        (answer,) = ask(how, NOTHING, ["https://reviews.test/y"], verify=pair[0])
        assert answer.text == "/y"
        assert proxy.asked[1].endswith(" reviews.test:443")
        proxy.names["other.test"] = ("127.0.0.1", server.port)
        with pytest.raises(errors.ConnectFailed, match="certificate"):
            ask(how, NOTHING, ["https://other.test/"], proxy=url, verify=pair[0])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("scheme", "words"),
    [("http", "403 Forbidden"), ("socks5", "not allowed by its rules")],
)
def test_a_proxy_that_refuses_is_a_failed_connection(how, scheme, words):
    with HttpServer(echo) as server, ProxyServer(refuse=b"403 Forbidden") as proxy:
        with pytest.raises(httpx.ConnectError, match=words) as caught:
            ask(how, service(server), ["http://reviews/"], proxy=f"{scheme}://{proxy.authority}")
        assert isinstance(caught.value, errors.ConnectFailed)
        assert server.accepted == 0


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_wrong_credentials(how, scheme):
    with HttpServer(echo) as server, ProxyServer(("u", "p")) as proxy:
        url = f"{scheme}://u:wrong@{proxy.authority}"
        with pytest.raises(errors.ConnectFailed, match=r"407|refuses the name"):
            ask(how, service(server), ["http://reviews/"], proxy=url)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_silent_proxy_is_a_connect_timeout(how, scheme):
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(httpx.ConnectTimeout):
            ask(
                how,
                {"version": 1, "services": {"reviews": {"endpoints": ["127.0.0.1:1"]}}},
                ["http://reviews/"],
                proxy=url,
                timeout=httpx.Timeout(None, connect=0.1),
            )


def test_the_httpx_engine_refuses_a_tunnel_to_an_endpoint():
    with HttpServer(echo) as server, pytest.raises(errors.ConnectFailed, match="has no tunnel"):
        ask("sync", service(server), ["http://reviews/"], "httpx", proxy="http://127.0.0.1:1")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def tinyproxy(folder: Path) -> Iterator[str]:
    program = shutil.which("tinyproxy", path="/usr/bin:/usr/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("tinyproxy is not installed: tests/servers/install.sh")
    port = _free_port()
    settings = folder / "tinyproxy.conf"
    settings.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 30\nMaxClients 50\nAllow 127.0.0.1\n"
        f'BasicAuth user word\nLogFile "{folder}/log"\nLogLevel Info\n'
    )
    process = subprocess.Popen([program, "-d", "-c", str(settings)], stdout=subprocess.DEVNULL)
    try:
        _until(lambda: _answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(5)


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.02)


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_tinyproxy(tmp_path):
    """A real proxy: tunnels, forwarding, its authentication and its refusals."""
    with HttpServer(echo) as server, tinyproxy(tmp_path) as authority:
        good = f"http://user:word@{authority}"
        for how in HOWS:
            urls = ["http://reviews/a", "http://reviews/b", f"{server.url}/forwarded"]
            answers = ask(how, service(server), urls, proxy=good)
            assert [a.text for a in answers] == ["/a", "/b", "/forwarded"]
            assert [a.headers["x-host"] for a in answers[:2]] == ["reviews"] * 2
            assert "via" not in answers[0].headers, "inside a tunnel the proxy adds nothing"
            assert "tinyproxy" in answers[2].headers["via"]
            with pytest.raises(errors.ConnectFailed, match=r"40[17]"):
                ask(how, service(server), ["http://reviews/"], proxy=f"http://user:no@{authority}")
            (answer,) = ask(how, NOTHING, [server.url], proxy=f"http://{authority}")
            assert answer.status_code in (401, 407)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_the_policy_may_ask_for_a_proxy(how, scheme):
    """``proxy`` of a service holds for its endpoints only, and before the client's own."""
    with HttpServer(echo) as server, ProxyServer(("u", "p")) as proxy, ProxyServer() as other:
        document = service(server)
        document["services"]["reviews"]["proxy"] = f"{scheme}://u:p@{proxy.authority}"
        urls = ["http://reviews/a", f"{server.url}/direct"]
        assert [a.text for a in ask(how, document, urls)] == ["/a", "/direct"]
        assert len(proxy.asked) == 1
        ask(how, document, urls, proxy=f"http://{other.authority}")
        assert len(proxy.asked) == 2
        assert other.asked == [f"GET {server.url}/direct"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_http2_is_negotiated_inside_the_tunnel(how, scheme, tmp_path):
    pair = certificate(tmp_path, "reviews.test")
    with h2_server(pair) as server, ProxyServer() as proxy:
        endpoint = f"127.0.0.1:{server.port}"
        document = {"version": 1, "services": {"reviews.test": {"endpoints": [endpoint]}}}
        urls = ["https://reviews.test/a", "https://reviews.test/b"]
        options = {"verify": pair[0], "proxy": f"{scheme}://{proxy.authority}", "http2": True}
        answers = ask(how, document, urls, **options)
        assert [(a.http_version, a.text) for a in answers] == [("HTTP/2", "/a"), ("HTTP/2", "/b")]
        assert len(proxy.asked) == 1
