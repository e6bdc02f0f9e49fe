"""Where two answers differ, in words, and within bounds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.clients.mirror_compare import (
    MAX_BODY,
    MAX_DIFFERENCES,
    Answer,
    can_compare,
    differences,
)
from meshclient.model.hedging import Comparison

ALL = Comparison(True, ("x-version",), True)


def answer(status=200, body=b"{}", **headers):
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Answer(status, [(b"X-Version", b"1"), *lines], body)


def test_equal_answers():
    assert differences(ALL, answer(), answer(date="now")) == ()
    assert differences(ALL, answer(body=b'{"a":1,"b":2}'), answer(body=b'{"b": 2, "a": 1}')) == ()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (answer(), answer(500), "status: 200, mirror 500"),
        (answer(), Answer(200, [], b"{}"), "header x-version: ['1'], mirror []"),
        (answer(body=b'{"a":[1,2]}'), answer(body=b'{"a":[1,3]}'), "$.a[1]: 2, mirror 3"),
        (answer(body=b'{"a":1}'), answer(), "$.a: only original"),
        (answer(), answer(body=b'{"a":1}'), "$.a: only mirror"),
        (answer(body=b"[1]"), answer(body=b"[1,2]"), "$: [1], mirror [1, 2]"),
        (answer(body=b"1"), answer(body=b"true"), "$: 1, mirror True"),
        (answer(body=b"text"), answer(body=b"{}"), "body: differs, and is not JSON on both sides"),
    ],
)
def test_differences(one, other, expected):
    assert differences(ALL, one, other) == (expected,)


def test_only_what_is_asked_for():
    assert differences(Comparison(), answer(), answer(body=b"[]")) == ()
    assert differences(Comparison(False), answer(), answer(404)) == ()


def test_differences_are_bounded_in_number_and_length():
    one = answer(body=json.dumps({str(n): "a" * 500 for n in range(50)}).encode())
    other = answer(body=json.dumps({str(n): "b" * 500 for n in range(50)}).encode())
    found = differences(ALL, one, other)
    assert len(found) == MAX_DIFFERENCES
    assert max(map(len, found)) < 250


def test_deep_bodies_do_no_harm():
    deep = b"[" * 100_000 + b"]" * 100_000
    assert "not JSON" in differences(ALL, answer(body=deep), answer())[0]
    nested = json.dumps(1).encode()
    for _ in range(100):
        nested = b"[" + nested + b"]"
    assert len(differences(ALL, answer(body=nested), answer(body=nested.replace(b"1", b"2")))) == 1


def test_bodies_that_are_not_at_hand_are_not_compared():
    large = answer(body=b"x" * (MAX_BODY + 1))
    assert large.content is None
    assert not can_compare(ALL, large, answer())
    assert not can_compare(ALL, answer(), answer(body=None))
    assert can_compare(Comparison(True, ("x-version",)), answer(body=None), large)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)


@given(JSON, JSON)
def test_json_is_equal_exactly_if_nothing_differs(one, other):
    """Property against the canonical text of both."""
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    found = differences(
        ALL, answer(body=json.dumps(one).encode()), answer(body=json.dumps(other).encode())
    )
    assert (found == ()) == same
