"""The request's hash: every source, their combination, cookies that are made."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from meshclient.model.headers import HeaderMap
from meshclient.model.regex import RegexError
from meshclient.model.request import RequestHead
from meshclient.model.routes import NO_OPERATIONS, ForwardAction, HashPolicy, Route
from meshclient.routing.edits import HeaderEdits
from meshclient.routing.hash_policy import HashKey, compile_hash_policy
from meshclient.routing.route import CompiledRoute, OuterScopes

MASK = 2**64 - 1


def xx(text: str, seed: int = 0) -> int:
    return xxh64_intdigest(text.encode("latin-1"), seed)


def no_draw() -> int:
    raise AssertionError("nothing may be drawn here")


def key(
    *policies: HashPolicy,
    headers: tuple[tuple[str, str], ...] = (),
    path: str = "/",
    source_ip: str = "",
    context: dict[str, object] | None = None,
    rand: int | None = None,
) -> HashKey | None:
    compiled = compile_hash_policy(policies)
    assert compiled is not None
    head = RequestHead("GET", "http", "a.test", 80, path, HeaderMap.of(headers))
    return compiled.key(head, no_draw if rand is None else lambda: rand, source_ip, context)


def value(*policies: HashPolicy, **request: object) -> int | None:
    found = key(*policies, **request)  # type: ignore[arg-type]
    return None if found is None else found.value


def header(name: str, **fields: object) -> HashPolicy:
    return HashPolicy("header", name, **fields)  # type: ignore[arg-type]


COOKIE, QUERY = HashPolicy("cookie", "c"), HashPolicy("query", "q")


def test_a_header() -> None:
    assert value(header("X-A"), headers=(("x-a", "lyft"),)) == 4400747396090729504
    assert value(header("x-a"), headers=(("x-a", "\xfc"),)) == xxh64_intdigest(b"\xfc")
    assert value(header("x-a"), headers=(("x-a", ""),)) == xx("")
    assert value(header("x-a")) is None
    assert value(header(":path"), path="/p?q=1") == xx("/p?q=1")
    assert value(header("host")) == value(header(":authority")) == xx("a.test")


def test_several_values_of_a_header_are_sorted_and_chained() -> None:
    for values in (("foo", "bar"), ("bar", "foo")):
        lines = tuple(("x-a", text) for text in values)
        assert value(header("x-a"), headers=lines) == xx("foo", xx("bar"))


def test_values_are_rewritten_before_they_are_sorted() -> None:
    policy = header("x-a", pattern="^(.)-(.)$", substitution=r"\2-\1")
    lines = (("x-a", "a-9"), ("x-a", "b-1"), ("x-a", "zz"))
    assert value(policy, headers=lines) == xx("zz", xx("9-a", xx("1-b")))


def test_a_bad_rewrite_is_refused() -> None:
    for pattern, substitution in (("(", ""), ("a", r"\1")):
        with pytest.raises(RegexError):
            compile_hash_policy([header("x-a", pattern=pattern, substitution=substitution)])


@pytest.mark.parametrize(
    ("cookie", "hashed"),
    [
        ("c=1", "1"),
        ('a=0; c="1"; c=2', "1"),
        (" c=1", "1"),
        ("c=", None),
        ("c=; c=2", None),
        ("d=1", None),
        ("c", None),
    ],
)
def test_a_cookie_without_a_life_is_not_made(cookie: str, hashed: str | None) -> None:
    expected = None if hashed is None else xx(hashed)
    assert value(COOKIE, headers=(("cookie", cookie),)) == expected


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (HashPolicy("cookie", "c", 0.0), 'c="00000000000000ff"; HttpOnly'),
        (
            HashPolicy("cookie", "c", 60.9, "/p"),
            'c="00000000000000ff"; Max-Age=60; Path=/p; HttpOnly',
        ),
        (
            HashPolicy("cookie", "c", 1.0, attributes=(("SameSite", "Lax"), ("Secure", ""))),
            'c="00000000000000ff"; Max-Age=1; SameSite=Lax; Secure; HttpOnly',
        ),
    ],
)
def test_a_missing_cookie_is_made_and_hashed(policy: HashPolicy, line: str) -> None:
    for cookie in ("d=1", "c="):
        found = key(policy, headers=(("cookie", cookie),), rand=255)
        assert found is not None
        assert found.value == xx("00000000000000ff")
        assert found.set_cookies == (line,)
        assert repr(found) == f"<HashKey {found.value} set_cookies=[{line!r}]>"
    there = key(policy, headers=(("cookie", "c=1"),))
    assert there is not None
    assert (there.value, there.set_cookies) == (xx("1"), ())


@pytest.mark.parametrize(
    ("path", "hashed"),
    [("/?q=a", "a"), ("/?q=a&q=b", "a"), ("/?x&q=%20", "%20"), ("/?q", ""), ("/", None)],
)
def test_a_query_parameter(path: str, hashed: str | None) -> None:
    assert value(QUERY, path=path) == (None if hashed is None else xx(hashed))


def test_the_callers_address() -> None:
    assert value(HashPolicy("source_ip"), source_ip="10.0.0.1") == xx("10.0.0.1")
    assert value(HashPolicy("source_ip")) is None


def test_a_value_of_the_callers_context() -> None:
    policy = HashPolicy("context", "user")
    assert value(policy, context={"user": "\u00fc"}) == xxh64_intdigest("\u00fc".encode())
    assert value(policy, context={"user": b"\xff"}) == xxh64_intdigest(b"\xff")
    assert value(policy, context={"user": 7}) == xx("7")
    assert value(policy, context={"user": None}) is None
    assert value(policy) is None


def combined(*hashes: int) -> int:
    return reduce(lambda old, new: (old << 1 & MASK | old >> 63) ^ new, hashes)


@given(st.lists(st.text("abc", max_size=3), min_size=1, max_size=5))
def test_sources_combine_by_turning_left_and_exclusive_or(texts: list[str]) -> None:
    policies = [header(f"x-{n}") for n in range(len(texts))]
    lines = tuple((f"x-{n}", text) for n, text in enumerate(texts))
    assert value(*policies, headers=lines) == combined(*map(xx, texts))


def test_a_source_that_does_not_apply_turns_nothing() -> None:
    lines = (("x-a", "1"),)
    assert value(QUERY, header("x-a"), COOKIE, headers=lines) == xx("1")
    assert value(header("x-a"), header("x-a"), headers=lines) == combined(xx("1"), xx("1")) != 0
    assert value(QUERY, COOKIE) is None


def test_a_terminal_source_ends_the_list_once_there_is_a_hash() -> None:
    lines = (("x-a", "1"), ("x-b", "2"))
    ended, missing = header("x-a", terminal=True), header("x-0", terminal=True)
    assert value(ended, header("x-b"), headers=lines) == xx("1")
    assert value(missing, header("x-b"), headers=lines) == xx("2")
    assert value(header("x-a"), missing, header("x-b"), headers=lines) == xx("1")
    made = key(ended, HashPolicy("cookie", "c", 0.0), headers=lines)
    assert made is not None
    assert made.set_cookies == ()


def test_routes_without_sources_have_nothing_to_ask() -> None:
    scopes = OuterScopes(
        (HeaderEdits(NO_OPERATIONS), HeaderEdits(NO_OPERATIONS)),
        (HeaderEdits(NO_OPERATIONS), HeaderEdits(NO_OPERATIONS)),
        False,
        None,
    )
    assert compile_hash_policy(()) is None
    assert CompiledRoute(Route(ForwardAction()), scopes).hash_policies is None
    assert (
        CompiledRoute(Route(ForwardAction(hash_policy=(QUERY,))), scopes).hash_policies is not None
    )
