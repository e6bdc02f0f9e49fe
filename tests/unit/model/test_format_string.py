"""Substitution strings; the values were observed on Envoy 1.40."""

from __future__ import annotations

import platform

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.format_string import MAX_LENGTH, FormatContext, FormatError, parse_format
from meshclient.model.headers import HeaderMap
from meshclient.model.request import RequestHead


def context(**values: object) -> FormatContext:
    headers = HeaderMap.of(
        [("X-A", "1"), ("x-a", "2"), ("x-envoy-original-path", "/old?o=1"), ("content-type", "t")]
    )
    head = RequestHead("GET", "http", "h.test", 80, "/fmt?q=a%20b&q=2&p=abc", headers)
    response = HeaderMap.of([("x-up", "1"), ("x-up", "2")])
    return FormatContext(head, response, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("100%%", "100%"),
        ("%%REQ(x-a)%%", "%REQ(x-a)%"),
        ("[%REQ(X-A)%]", "[1]"),
        ("[%REQ(x-no)%]", "[]"),
        ("%REQ(x-no?:path):4%", "/fmt"),
        ("%REQUEST_HEADER(x-no?x-a)%", "1"),
        ("%REQ(:path)% %REQ(:authority)% %REQ(host)% %REQ(:method)% %REQ(:scheme)%",
         "/fmt?q=a%20b&q=2&p=abc h.test h.test GET http"),
        ("%RESP(x-up)%|%RESPONSE_HEADER(x-no)%|%RESP(x-no?X-Up)%", "1||1"),
        ("%QUERY_PARAM(q)%|%QUERY_PARAM(p):2%|%QUERY_PARAM(z)%", "a b|ab|"),
        ("%PATH%|%PATH(NQ)%|%PATH(WQ:ORIG)%", "/old?o=1|/old|/old?o=1"),
        ("%PATH(NQ:PATH)%", "/fmt"),
        ("%PROTOCOL% %RESPONSE_CODE% %ROUTE_NAME% %UPSTREAM_CLUSTER%", "HTTP/1.1 0 rn a"),
        ("%UPSTREAM_HOST%", "127.0.0.1:80"),
        ("%START_TIME(%s|%f|%3f|%H:%M)%", "1795223891|415507000|415|01:18"),
        ("%START_TIME%", "2026-11-21T01:18:11.415Z"),
        ("%START_TIME(%Y %e %E6S %E0S %%)%", "2026 21 11.415507 11 %"),
        ("%HOSTNAME%", platform.node()),
    ],
)  # fmt: skip
def test_evaluation(text: str, result: str) -> None:
    values = {"cluster": "a", "route_name": "rn", "upstream_host": "127.0.0.1:80"}
    assert parse_format(text).evaluate(context(wall_time_s=1795223891.415507, **values)) == result


def test_environment_is_read_when_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCLIENT_FORMAT_TEST", "value")
    parsed = parse_format(
        "%ENVIRONMENT(MESHCLIENT_FORMAT_TEST):3%|%ENVIRONMENT(NO_SUCH_NAME_HERE)%"
    )
    monkeypatch.setenv("MESHCLIENT_FORMAT_TEST", "later")
    assert parsed.evaluate(context()) == "val|"


def test_without_clock_and_response_the_values_are_empty() -> None:
    bare = FormatContext(RequestHead("GET", "http", "h", 80, "/", HeaderMap([])))
    assert parse_format("<%START_TIME%%RESP(a)%%PATH(NQ:ORIG)%>").evaluate(bare) == "<>"


def test_constant_needs_no_context() -> None:
    assert parse_format("50%% off").constant == "50% off"
    assert parse_format("50%% %REQ(a)%").constant is None
    assert parse_format("%REQ(a)%%RESP(b)%").commands == {"REQ", "RESP"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%REQQ(x)%", r"unknown command %REQQ% \(did you mean %REQ%\?\)"),
        ("%ROUTENAME%", "did you mean %ROUTE_NAME%"),
        ("%XYZZY%", "known: REQ"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "describes a proxy"),
        ("%RESPONSE_FLAGS%", "describes a proxy"),
        ("50%", "position 2 starts no command"),
        ("%req(x)%", "starts no command"),
        ("%REQ(x%", "starts no command"),
        ("%REQ%", "needs an argument"),
        ("%REQ()%", "expected a header name"),
        ("%REQ(a?b?c)%", "expected a header name"),
        ("%PROTOCOL(x)%", "takes no argument"),
        ("%HOSTNAME:3%", "takes no length"),
        ("%START_TIME(%Q)%", "'%Q' is not known"),
        ("%PATH(XX)%", "expected WQ or NQ"),
        ("%ENVIRONMENT()%", "environment variable"),
        ("%QUERY_PARAM()%", "query parameter"),
        ("a\r\nb: c", "must not stand in a header"),
        ("€", "outside Latin-1"),
        ("x" * (MAX_LENGTH + 1), "is over 16384"),
    ],
)
def test_refusals_say_why(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_format(text)


@given(st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60))
def test_escaped_text_is_itself(text: str) -> None:
    assert parse_format(text.replace("%", "%%")).constant == text


def test_parsed_strings_are_shared() -> None:
    assert parse_format("%REQ(shared)%") is parse_format("%REQ(shared)%")
    assert repr(parse_format("a")) == "FormatString('a')"
