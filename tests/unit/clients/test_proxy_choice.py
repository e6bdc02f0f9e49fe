"""Which calls go through which proxy: NO_PROXY, the environment, a client's own."""

from __future__ import annotations

import pytest

from meshclient.clients.proxies import ForwardTarget, NoProxy, Proxies, proxies_for
from meshclient.transport.interface import Target, WireRequest
from meshclient.transport.proxy import Proxy

P, S = Proxy("http", "p", 1), Proxy("socks5", "s", 2)


@pytest.mark.parametrize(
    ("entries", "covered", "uncovered"),
    [
        ("*", ["http://a:1", "https://10.0.0.1:1"], []),
        ("a, *", ["http://b:1"], []),
        ("", [], ["http://a:80"]),
        (
            "example.com",
            ["http://example.com:80", "https://a.b.Example.COM:8443", "http://example.com.:80"],
            ["http://notexample.com:80", "http://example.com.evil:80", "http://com:80"],
        ),
        (".example.com", ["http://a.example.com:80"], ["http://example.com:80"]),
        ("*.example.com", ["http://a.example.com:80"], ["http://example.com:80"]),
        ("example.com:8080", ["http://example.com:8080"], ["http://example.com:80"]),
        ("https://example.com", ["https://example.com:443"], ["http://example.com:80"]),
        ("all://example.com", ["http://example.com:80"], []),
        ("10.0.0.0/8", ["http://10.1.2.3:80"], ["http://11.0.0.1:80", "http://a10.0.0.1:80"]),
        ("10.0.0.1", ["http://10.0.0.1:80"], ["http://10.0.0.2:80"]),
        ("10.0.0.1:81", ["http://10.0.0.1:81"], ["http://10.0.0.1:80"]),
        ("::1 fe80::/10", ["http://::1:80", "http://fe80::1:1"], ["http://::2:80"]),
        ("[::1]:81", ["http://::1:81"], ["http://::1:80"]),
        ("localhost,10.0.0.1", ["http://localhost:1"], ["http://127.0.0.1:1"]),
        (" a ,, b\tc ", ["http://a:1", "http://b:1", "http://c:1"], ["http://d:1"]),
    ],
)
def test_no_proxy(entries, covered, uncovered):
    table = NoProxy(entries)
    for url, wanted in [*((u, True) for u in covered), *((u, False) for u in uncovered)]:
        scheme, _, rest = url.partition("://")
        host, _, port = rest.rpartition(":")
        assert table.covers(scheme, host, int(port)) is wanted, url


def test_the_scheme_chooses_then_all():
    chosen = Proxies(None, {"https": P, "all": S}, "direct.test")
    assert chosen.of("https", "a", 443, known=False) is P
    assert chosen.of("http", "a", 80, known=False) is S
    assert chosen.of("http", "direct.test", 80, known=False) is None
    assert chosen.of("http", "a", 80, known=True) is None, "policy hosts are not the environment's"


def test_a_clients_own_proxy_serves_every_call():
    chosen = Proxies(P, {"http": S}, "*")
    assert chosen.of("http", "a", 80, known=False) is P
    assert chosen.of("https", "a", 443, known=True) is P


def environment(**values: str):
    return lambda: values


def test_the_environment_is_read_as_httpx_reads_it(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert proxies_for(None, True) is None
    monkeypatch.setenv("HTTP_PROXY", "p:1")
    monkeypatch.setenv("no_proxy", "direct.test")
    found = proxies_for(None, True)
    assert found is not None
    assert found.of("http", "a", 80, known=False) == P
    assert found.of("http", "direct.test", 80, known=False) is None
    assert found.of("https", "a", 443, known=False) is None
    assert proxies_for(None, False) is None, "without trust_env nothing is read"


def test_a_wrong_variable_is_named():
    with pytest.raises(ValueError, match="ALL_PROXY: a proxy is http"):
        proxies_for(None, True, environment(all="https://p"))


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (b"/x?y", b"http://a.test:81/x?y"),
        (b"*", b"http://a.test:81"),
        (b"/", b"http://a.test:81/"),
    ],
)
def test_a_forwarded_request_names_its_origin(target, wanted):
    via = Proxy("http", "p", 1, "u", "p")
    request = WireRequest(b"GET", target, [(b"Host", b"a.test:81")])
    headers = request.headers
    ForwardTarget(via, b"http://a.test:81", Target("a.test", 81)).readdress(request)
    assert request.target == wanted
    assert request.headers[1] == (b"Proxy-Authorization", b"Basic dTpw")
    assert len(headers) == 1, "the call's own headers stay as they are"
