"""Proxy settings and handshakes without a socket: what is sent, what is read, what is refused."""

from __future__ import annotations

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.transport.proxy import Handshake, Proxy, ProxyError, parse_proxy


def play(steps: Handshake, answer: bytes) -> tuple[list[bytes], bytes]:
    """Feed ``answer`` in pieces as long as asked for; what was sent, and what is left unread."""
    sent = []
    send, count = next(steps)
    while True:
        if send:
            sent.append(send)
        piece, answer = answer[:count], answer[count:]
        try:
            send, count = steps.send(piece)
        except StopIteration:
            return sent, answer


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://p", Proxy("http", "p", 80)),
        ("http://p:3128/", Proxy("http", "p", 3128)),
        ("HTTP://u%40x:p%3Aw@[::1]:8080", Proxy("http", "::1", 8080, "u@x", "p:w")),
        ("socks5://p", Proxy("socks5", "p", 1080)),
        ("socks5h://u:p@p:9", Proxy("socks5", "p", 9, "u", "p")),
        (httpx.URL("http://p:1"), Proxy("http", "p", 1)),
        (httpx.Proxy("http://u:p@p:1"), Proxy("http", "p", 1, "u", "p")),
        (httpx2.Proxy("http://p:1", auth=("a", "b")), Proxy("http", "p", 1, "a", "b")),
        (
            httpx.Proxy("http://p:1", headers={"X-Key": "k"}),
            Proxy("http", "p", 1, headers=((b"X-Key", b"k"),)),
        ),
    ],
)
def test_what_a_proxy_may_be_given_as(given, wanted):
    assert parse_proxy(given) == wanted
    assert hash(parse_proxy(given)) == hash(wanted)
    assert parse_proxy(wanted) is wanted


@pytest.mark.parametrize("text", ["https://u:secret@p", "ftp://p", "p:1", "http://", "socks4://p"])
def test_what_is_no_proxy_is_refused_without_telling_the_password(text):
    with pytest.raises(ValueError, match=r"a proxy is http://, socks5:// or socks5h://") as caught:
        parse_proxy(text)
    assert "secret" not in str(caught.value)


def test_a_repr_keeps_the_password_to_itself():
    proxy = Proxy("http", "::1", 8080, "user", "secret")
    assert (str(proxy), repr(proxy)) == ("http://[::1]:8080", "<Proxy http://[::1]:8080>")


def test_connect_reads_not_one_byte_beyond_the_head():
    proxy = Proxy("http", "p", 1, "Aladdin", "open sesame", ((b"X-A", b"b"),))
    answer = b"HTTP/1.1 200 Fine\r\nX: y\r\n\r\nthe far end speaks first"
    sent, rest = play(proxy.tunnel("2001:db8::1", 443), answer)
    assert rest == b"the far end speaks first"
    assert sent == [
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nX-A: b\r\n"
        b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
    ]


@given(st.binary(max_size=40), st.text("\r\nab: ", max_size=40))
def test_connect_never_reads_ahead(rest, noise):
    head = f"HTTP/1.0 299 {noise}\r\n\r\n".encode()
    end = head.index(b"\r\n\r\n") + 4
    _, left = play(Proxy("http", "p", 1).tunnel("host", 1), head + rest)
    assert left == head[end:] + rest


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "hung up on CONNECT h:1"),
        (b"HTTP/1.1 200 OK\r\n", "hung up on CONNECT h:1"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "with 407 Proxy Authentication"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "with 100 Continue"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is no HTTP proxy: it says b'SSH-2.0"),
        (b"HTTP/1.1 OK\r\n\r\n", "is no HTTP proxy"),
        (b"HTTP/1.1 200 " + b"x" * 20_000, "without end"),
    ],
)
def test_connect_that_fails_says_why(answer, words):
    with pytest.raises(ProxyError, match=words):
        play(Proxy("http", "p", 1).tunnel("h", 1), answer)


@pytest.mark.parametrize("host", ["a b", "a\r\nX: y", "a\0"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_host_cannot_inject(scheme, host):
    with pytest.raises(ProxyError, match="no host name"):
        play(Proxy(scheme, "p", 1).tunnel(host, 1), b"\x05\x00" + b"\0" * 50)


def test_a_header_for_the_proxy_cannot_inject():
    with pytest.raises(ProxyError, match="CR or LF"):
        play(Proxy("http", "p", 1, headers=((b"a", b"b\r\nc: d"),)).tunnel("h", 1), b"")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.1", b"\x01\x0a\x00\x00\x01"),
        ("::1", b"\x04" + b"\x00" * 15 + b"\x01"),
        ("reviews.test", b"\x03\x0creviews.test"),
        ("bücher.test", b"\x03\x12xn--bcher-kva.test"),
    ],
)
@pytest.mark.parametrize("bound", [b"\x01" + b"x" * 4, b"\x04" + b"x" * 16, b"\x03\x03abc"])
def test_socks5(host, address, bound):
    answer = b"\x05\x00" + b"\x05\x00\x00" + bound + b"\x00\x50" + b"SETTINGS"
    sent, rest = play(Proxy("socks5", "p", 1).tunnel(host, 443), answer)
    assert rest == b"SETTINGS"
    assert sent == [b"\x05\x01\x00", b"\x05\x01\x00" + address + b"\x01\xbb"]


def test_socks5_signs_in_when_asked():
    proxy = Proxy("socks5", "p", 1, "me", "pass")
    granted = b"\x05\x00\x00\x01" + b"\0" * 6
    sent, _ = play(proxy.tunnel("h", 1), b"\x05\x02\x01\x00" + granted)
    assert sent[:2] == [b"\x05\x02\x00\x02", b"\x01\x02me\x04pass"]
    sent, _ = play(proxy.tunnel("h", 1), b"\x05\x00" + granted)
    assert len(sent) == 2, "not asked, not told"


@pytest.mark.parametrize(
    ("proxy", "answer", "words"),
    [
        (Proxy("socks5", "p", 1), b"HT", "is no SOCKS5 proxy"),
        (Proxy("socks5", "p", 1), b"\x05", "hung up"),
        (Proxy("socks5", "p", 1), b"\x05\xff", "wants another authentication"),
        (Proxy("socks5", "p", 1), b"\x05\x02", "wants another authentication"),
        (Proxy("socks5", "p", 1, "a", "b"), b"\x05\x02\x01\x01", "refuses the name or"),
        (Proxy("socks5", "p", 1, "a" * 256, "b"), b"\x05\x02", "1 to 255 bytes"),
        (Proxy("socks5", "p", 1), b"\x05\x00\x05\x05\x00\x01", "h:1: connection refused"),
        (Proxy("socks5", "p", 1), b"\x05\x00\x05\x63\x00\x01", "error 99"),
    ],
)
def test_socks5_that_fails_says_why(proxy, answer, words):
    with pytest.raises(ProxyError, match=words):
        play(proxy.tunnel("h", 1), answer)
