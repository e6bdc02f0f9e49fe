"""Which failures have a fallback, what may be kept, and that what is kept is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.fallback import Fallback, LastGood
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import ResetReason
from meshclient.resilience.fallback import covers_status, may_go_elsewhere
from meshclient.resilience.last_good import LastGoodAnswers

REFUSED = ResetReason.CONNECTION_FAILURE.value
BROKEN = ResetReason.CONNECTION_TERMINATION.value


def headers(**lines: str) -> HeaderMap:
    return HeaderMap.of([(name.replace("_", "-"), value) for name, value in lines.items()])


NONE = headers()


@pytest.mark.parametrize(
    ("status", "covered"),
    [(499, False), (500, True), (503, True), (599, True), (200, False), (429, False)],
)
def test_server_errors_by_default(status: int, covered: bool) -> None:
    assert covers_status(Fallback(), status) is covered


def test_named_statuses_only() -> None:
    settings = Fallback(statuses=frozenset({429}))
    assert covers_status(settings, 429)
    assert not covers_status(settings, 503)


@pytest.mark.parametrize(
    ("method", "replayable", "tries", "any_method", "lines", "may"),
    [
        ("GET", True, [BROKEN], False, NONE, True),
        ("PUT", True, ["failed"], False, NONE, True),
        ("GET", False, [BROKEN], False, NONE, False),
        ("POST", True, [BROKEN], False, NONE, False),
        ("POST", True, ["failed"], True, NONE, True),
        ("POST", False, ["failed"], True, NONE, False),
        ("POST", True, ["failed"], False, headers(idempotency_key="1"), True),
        ("POST", False, [REFUSED], False, NONE, True),
        ("POST", False, [REFUSED, BROKEN], False, NONE, False),
        ("POST", False, [], False, NONE, True),
        ("POST", False, [ResetReason.OVERFLOW.value], False, NONE, True),
    ],
)
def test_a_request_goes_elsewhere_only_if_no_server_acts_twice(
    method: str, replayable: bool, tries: list[str], any_method: bool, lines: HeaderMap, may: bool
) -> None:
    settings = Fallback(cluster="b", any_method=any_method)
    assert may_go_elsewhere(settings, method, lines, replayable, tries) is may


def kept(settings: LastGood | None = None, **answer: str) -> LastGoodAnswers:
    answers = LastGoodAnswers(settings or LastGood())
    answers.keep("h", "/", NONE, 200, headers(**answer).raw, b"body", 10.0)
    return answers


def test_the_last_answer_is_found_until_it_is_too_old() -> None:
    answers = kept(LastGood(max_age_s=5.0), etag="x")
    found = answers.find("h", "/", NONE, 15.0)
    assert found is not None
    assert (found.status, found.body, found.headers) == (200, b"body", [(b"etag", b"x")])
    assert answers.find("h", "/", NONE, 15.1) is None
    assert (len(answers), answers.bytes) == (0, 0)


def test_host_path_and_query_tell_answers_apart() -> None:
    answers = kept()
    assert answers.find("h", "/?a=1", NONE, 10.0) is None
    assert answers.find("other", "/", NONE, 10.0) is None


def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    answers = kept()
    answers.keep("h", "/", NONE, 203, [], b"new", 11.0)
    found = answers.find("h", "/", NONE, 11.0)
    assert found is not None
    assert (found.status, found.body, len(answers), answers.bytes) == (203, b"new", 1, 3)


def test_lengths_ages_and_hop_by_hop_headers_are_not_kept() -> None:
    answers = kept(
        content_length="4", transfer_encoding="chunked", connection="close", age="9", x="y"
    )
    found = answers.find("h", "/", NONE, 10.0)
    assert found is not None
    assert found.headers == [(b"x", b"y")]


def test_vary_is_respected() -> None:
    answers = LastGoodAnswers(LastGood())
    german, french = headers(accept_language="de"), headers(accept_language="fr")
    lines = headers(vary="Accept-Language").raw
    answers.keep("h", "/", german, 200, lines, b"de", 0.0)
    answers.keep("h", "/", french, 200, lines, b"fr", 0.0)
    for asked, body in ((german, b"de"), (french, b"fr")):
        found = answers.find("h", "/", asked, 1.0)
        assert found is not None
        assert found.body == body
    assert answers.find("h", "/", NONE, 1.0) is None
    assert answers.find("h", "/", headers(accept_language=""), 1.0) is None


def test_named_headers_tell_answers_apart_without_vary() -> None:
    answers = LastGoodAnswers(LastGood(headers=("x-tenant",)))
    answers.keep("h", "/", headers(x_tenant="a"), 200, [], b"a", 0.0)
    assert answers.find("h", "/", headers(x_tenant="b"), 0.0) is None
    assert answers.find("h", "/", headers(x_tenant="a"), 0.0) is not None


@pytest.mark.parametrize(
    ("method", "lines", "may"),
    [
        ("GET", NONE, True),
        ("HEAD", NONE, False),
        ("POST", NONE, False),
        ("GET", headers(authorization="Bearer x"), False),
        ("GET", headers(cookie="session=1"), False),
        ("GET", headers(range="bytes=0-1"), False),
        ("GET", headers(cache_control="max-age=0, No-Store"), False),
        ("GET", headers(cache_control="no-cache"), True),
    ],
)
def test_which_requests_take_part(method: str, lines: HeaderMap, may: bool) -> None:
    assert LastGoodAnswers(LastGood()).may_ask(method, lines) is may


@pytest.mark.parametrize(
    ("status", "lines", "may"),
    [
        (200, NONE, True),
        (204, NONE, True),
        (206, NONE, False),
        (199, NONE, False),
        (301, NONE, False),
        (404, NONE, False),
        (200, headers(set_cookie="a=b"), False),
        (200, headers(cache_control="private"), False),
        (200, headers(cache_control='Private="x"'), False),
        (200, headers(cache_control="no-store"), False),
        (200, HeaderMap.of([("cache-control", "max-age=1"), ("cache-control", "no-store")]), False),
        (200, headers(vary="*"), False),
        (200, headers(vary="Accept"), True),
    ],
)
def test_which_answers_are_kept(status: int, lines: HeaderMap, may: bool) -> None:
    assert LastGoodAnswers(LastGood()).may_keep(status, lines) is may


def test_cookies_tell_answers_apart_where_they_are_named() -> None:
    answers = LastGoodAnswers(LastGood(headers=("cookie",)))
    mine = headers(cookie="session=1")
    assert answers.may_ask("GET", mine)
    answers.keep("h", "/", mine, 200, [], b"mine", 0.0)
    assert answers.find("h", "/", headers(cookie="session=2"), 0.0) is None


def test_credentials_tell_answers_apart_where_they_are_allowed() -> None:
    answers = LastGoodAnswers(LastGood(authorization=True))
    mine, yours = headers(authorization="me"), headers(authorization="you")
    assert answers.may_ask("GET", mine)
    answers.keep("h", "/", mine, 200, [], b"mine", 0.0)
    assert answers.find("h", "/", yours, 0.0) is None
    assert answers.find("h", "/", NONE, 0.0) is None


def test_too_large_answers_are_not_kept() -> None:
    answers = LastGoodAnswers(LastGood(max_entry_bytes=10))
    assert not answers.keep("h", "/", NONE, 200, [(b"x", b"y")], b"123456789", 0.0)
    assert answers.keep("h", "/", NONE, 200, [(b"x", b"y")], b"12345678", 0.0)


def test_the_longest_unused_goes_first() -> None:
    answers = LastGoodAnswers(LastGood(max_entries=2))
    for path in ("/1", "/2"):
        answers.keep("h", path, NONE, 200, [], b"x", 0.0)
    assert answers.find("h", "/1", NONE, 0.0) is not None
    answers.keep("h", "/3", NONE, 200, [], b"x", 0.0)
    assert answers.find("h", "/2", NONE, 0.0) is None
    assert answers.find("h", "/1", NONE, 0.0) is not None


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["", "a", "b"]), st.integers(0, 60)),
        max_size=120,
    )
)
def test_number_and_bytes_are_bounded_and_counted(
    steps: list[tuple[int, str, int]],
) -> None:
    settings = LastGood(max_entries=5, max_bytes=100, max_entry_bytes=50)
    answers = LastGoodAnswers(settings)
    for path, vary, size in steps:
        lines = headers(vary=vary).raw if vary else []
        answers.keep("h", f"/{path}", headers(a=vary), 200, lines, b"x" * size, 0.0)
        assert len(answers) <= 5
        assert answers.bytes <= 100
        assert answers.bytes == sum(answer.size for answer in answers._answers.values())
        assert len(answers._varies) <= 5


def test_repr_counts() -> None:
    assert repr(kept()) == "<LastGoodAnswers 1 answers, 4 bytes>"
