"""A reload parses only what has changed, and still reports everything."""

from __future__ import annotations

from collections import OrderedDict

from meshclient.config import parse_cache
from meshclient.config.parse_cache import parse_file
from meshclient.config.reader import Diagnostics


def test_an_unchanged_text_gives_the_same_nodes():
    first = parse_file("a: 1\n", "same.yaml", Diagnostics())
    assert parse_file("a: 1\n", "same.yaml", Diagnostics()) is first


def test_a_changed_text_is_parsed():
    parse_file("a: 1\n", "changed.yaml", Diagnostics())
    (document,) = parse_file("a: 2\n", "changed.yaml", Diagnostics())
    assert document.value["a"].value == 2


def test_the_same_text_in_another_file_keeps_its_own_nodes():
    first = parse_file("a: 1\n", "one.yaml", Diagnostics())
    assert parse_file("a: 1\n", "two.yaml", Diagnostics()) is not first


def test_a_finding_is_reported_at_every_load():
    for _ in range(2):
        sink = Diagnostics()
        parse_file("a: [1\n", "broken.yaml", sink)
        assert sink.has_errors


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(parse_cache, "_kept", OrderedDict())
    monkeypatch.setattr(parse_cache, "_size", 0)
    monkeypatch.setattr(parse_cache, "MAX_KEPT", 20)
    first = parse_file("a: 11111\n", "old.yaml", Diagnostics())
    for number in range(5):
        parse_file(f"a: {number}2222\n", f"new{number}.yaml", Diagnostics())
    assert parse_cache._size <= parse_cache.MAX_KEPT
    assert parse_file("a: 11111\n", "old.yaml", Diagnostics()) is not first
