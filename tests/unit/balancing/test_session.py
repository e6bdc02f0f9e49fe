"""Stateful sessions: what a cookie or header names, who takes the call, what goes back."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.balancing import EndpointState, carry_over
from meshclient.balancing.session import MAX_NAME, STRICT_MISS, SessionAffinity, by_address
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.health import (
    DEGRADED_EDS_HEALTH,
    EDS_STATUS_DRAINING,
    FAILED_ACTIVE_HC,
    FAILED_OUTLIER_CHECK,
)
from meshclient.model.load_balancing import StatefulSession

_COOKIE = StatefulSession("cookie", "sticky")
_HEADER = StatefulSession("header", "x-Sticky")
NOW = 5000.5

#: The protocol buffer that Envoy makes: address (1), expires (2) = 5010.
_PLAIN = b"\x0a\x0b10.0.0.1:80"
_TIMED = _PLAIN + b"\x10\x92\x27"


def states() -> dict[str, EndpointState]:
    endpoints = (Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80, priority=3), Endpoint("::1", 9))
    return by_address(carry_over((), Cluster("c", endpoints=endpoints)))


def text(raw: bytes) -> str:
    return b64encode(raw).decode()


def cookie(value: str) -> HeaderMap:
    return HeaderMap.of([("Cookie", f"a=b; nonsense; sticky={value}"), ("cookie", "sticky=no")])


def header(value: str) -> HeaderMap:
    return HeaderMap.of([("X-STICKY", value), ("x-sticky", "no")])


def test_addresses_are_known_across_priorities() -> None:
    assert list(states()) == ["10.0.0.1:80", "10.0.0.2:80", "[::1]:9"]


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (text(_PLAIN), "10.0.0.1:80"),
        (f'"{text(_PLAIN)}"', "10.0.0.1:80"),
        (text(_TIMED), "10.0.0.1:80"),
        (text(_PLAIN + b"\x10\x88\x27"), "10.0.0.1:80"),  # expires at 5000, now
        (text(_PLAIN + b"\x10\x87\x27"), ""),  # expired at 4999
        (text(b"\x10\x92\x27" + _PLAIN), "10.0.0.1:80"),
        (text(_PLAIN + b"\x1a\x01x\x25abcd\x29abcdefgh"), "10.0.0.1:80"),  # fields to come
        (text(_PLAIN + b"\x10" + b"\xff" * 9 + b"\x01"), ""),  # a time below 0
        (text(b"127.0.0.1:8080"), "127.0.0.1:8080"),  # what old Envoys made
        (text(b"10.0.0.1:80"), ""),  # by chance, this is a protocol buffer without an address
        (text(b"[::1]:9"), "[::1]:9"),
        ("", ""),
        ("####", ""),
        (text(_PLAIN).rstrip("=") + "!", ""),
        (text(b"x" * 2000), ""),
        (text(b"\x10\x92\x27"), ""),
    ],
)
def test_cookies(value: str, address: str) -> None:
    assert SessionAffinity(_COOKIE).address(cookie(value), "/", NOW) == address


@pytest.mark.parametrize(
    ("value", "address"),
    [(text(b"10.0.0.1:80"), "10.0.0.1:80"), ("", ""), ("no base64", ""), ("x" * 1028, "")],
)
def test_headers(value: str, address: str) -> None:
    assert SessionAffinity(_HEADER).address(header(value), "/", NOW) == address
    assert SessionAffinity(_HEADER).address(HeaderMap([]), "/", NOW) == ""
    assert len("x" * 1028) > MAX_NAME


@pytest.mark.parametrize(
    ("path", "request_path", "applies"),
    [
        ("", "/a", True),
        ("/", "/a", True),
        ("/a", "/a", True),
        ("/a", "/a/b", True),
        ("/a", "/a?x=1", True),
        ("/a", "/a#x", True),
        ("/a", "/ab", False),
        ("/a", "/b", False),
        ("/a/", "/a/b", True),
        ("/a/", "/a", False),
    ],
)
def test_a_cookie_takes_part_below_its_path(path: str, request_path: str, applies: bool) -> None:
    session = SessionAffinity(StatefulSession("cookie", "sticky", path))
    found = session.find(cookie(text(_PLAIN)), request_path, states(), NOW)
    assert (found is not None) is applies
    made = session.response_header(states()["[::1]:9"], HeaderMap([]), request_path, NOW)
    assert (made is not None) is applies


@pytest.mark.parametrize(
    ("flags", "draining_too", "accepted"),
    [
        (0, False, True),
        (DEGRADED_EDS_HEALTH, False, True),
        (FAILED_ACTIVE_HC, False, False),
        (FAILED_OUTLIER_CHECK, False, False),
        (EDS_STATUS_DRAINING, False, False),
        (EDS_STATUS_DRAINING, True, True),
        (EDS_STATUS_DRAINING | FAILED_ACTIVE_HC, True, False),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_health(flags: int, draining_too: bool, accepted: bool, strict: bool) -> None:
    known = states()
    known["10.0.0.1:80"].flags = flags
    setting = StatefulSession("cookie", "sticky", strict=strict, accept_draining=draining_too)
    found = SessionAffinity(setting).find(cookie(text(_PLAIN)), "/", known, NOW)
    expected = known["10.0.0.1:80"] if accepted else STRICT_MISS if strict else None
    assert found is expected


@pytest.mark.parametrize("strict", [False, True])
def test_an_endpoint_that_is_gone(strict: bool) -> None:
    session = SessionAffinity(StatefulSession("header", "x-sticky", strict=strict))
    gone = header(text(b"10.0.0.9:80"))
    assert session.find(gone, "/", states(), NOW) is (STRICT_MISS if strict else None)
    assert session.find(HeaderMap([]), "/", states(), NOW) is None, "no name: the balancer picks"


@pytest.mark.parametrize(
    ("setting", "made"),
    [
        (_COOKIE, ("set-cookie", f'sticky="{text(_PLAIN)}"; HttpOnly')),
        (
            StatefulSession("cookie", "sticky", "/p", 9.0),
            (
                "set-cookie",
                f'sticky="{text(_PLAIN + bytes((0x10, 0x91, 0x27)))}"'
                "; Max-Age=9; Path=/p; HttpOnly",
            ),
        ),
        (
            StatefulSession("cookie", "sticky", "/"),
            ("set-cookie", f'sticky="{text(_PLAIN)}"; Path=/; HttpOnly'),
        ),
        (_HEADER, ("x-sticky", text(b"10.0.0.1:80"))),
    ],
)
def test_what_goes_back(setting: StatefulSession, made: tuple[str, str]) -> None:
    session, state = SessionAffinity(setting), states()["10.0.0.1:80"]
    assert session.response_header(state, HeaderMap([]), "/p/q", NOW) == made
    elsewhere = cookie(text(b"10.0.0.2:80")) if setting.kind == "cookie" else header("MQ==")
    assert session.response_header(state, elsewhere, "/p/q", NOW) == made
    same = cookie(text(_PLAIN)) if setting.kind == "cookie" else header(text(b"10.0.0.1:80"))
    assert session.response_header(state, same, "/p/q", NOW) is None


@settings(deadline=None)
@given(
    address=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300),
    ttl_s=st.integers(0, 10**6),
    now=st.floats(0, 10**7),
    later_s=st.floats(0, 2 * 10**6),
)
def test_a_session_finds_back_until_it_expires(
    address: str, ttl_s: int, now: float, later_s: float
) -> None:
    state = EndpointState(Endpoint(address, 80))
    session = SessionAffinity(StatefulSession("cookie", "s", "", float(ttl_s)))
    made = session.response_header(state, HeaderMap([]), "/", now)
    assert made is not None
    back = HeaderMap.of([("cookie", made[1].partition(";")[0])])
    found = session.find(back, "/", {state.key: state}, now + later_s)
    if not ttl_s or int(now + later_s) <= int(now + ttl_s):
        assert found is state
    else:
        assert found is None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_cookie_is_read(raw: bytes) -> None:
    session = SessionAffinity(_COOKIE)
    address = session.address(cookie(text(raw)), "/", NOW)
    assert isinstance(address, str)
    assert address == "" or address.encode("latin-1") in b64decode(text(raw))


def test_repr() -> None:
    assert repr(SessionAffinity(_COOKIE)) == "<SessionAffinity cookie 'sticky' strict=False>"
