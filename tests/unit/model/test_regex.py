"""Both engines behind ``compile_regex``, on the same tables."""

from __future__ import annotations

import pytest

from meshclient.model import regex as regex_module
from meshclient.model.regex import RegexError, compile_regex, compile_with, engine

ENGINES = ("re2", "linear")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("/api/.*", "/api/x", True),
        ("/api/.*", "/API/x", False),
        ("(?i)/api/.*", "/API/x", True),
        ("/api", "/api/x", False),
        ("^/a$", "/a", True),
        ("a|b", "b", True),
        (".", "\n", False),
        ("(?s).", "\n", True),
        (".", "é", True),
        (".", "\xff", True),
        ("(?i)é", "É", False),
        ("[[:alpha:]]+", "abC", True),
        ("[^[:digit:]]", "1", False),
        (r"\s", "\v", False),
        ("[[:space:]]", "\v", True),
        (r"\x41\101\Q.*\E", "AA.*", True),
        (r"(?P<v>v\d{1,3})/(?:x|y)+?", "v12/xy", True),
        (r"\bfoo\b", "foo", True),
        ("", "", True),
        ("(|a)*", "aa", True),
        ("a{0}", "", True),
        ("x{,2}", "x{,2}", True),
        ("(?P<n>a)(?P<n>b)", "ab", True),
    ],
)
def test_fullmatch(name: str, pattern: str, text: str, matches: bool) -> None:
    assert compile_with(name, pattern).fullmatch(text) is matches


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("pattern", "text", "rewrite", "result"),
    [
        ("^/hh/(.*)$", "/hh/x", r"/r/\1", "/r/x"),
        ("(a*)", "/rx/baac", r"<\1>", "<>/<>r<>x<>/<>b<aa>c<>"),
        ("o", "foo", r"\0\0", "foooo"),
        ("b", "abc", r"\\", r"a\c"),
        ("(x)|y", "xy", r"[\1]", "[x][]"),
        ("zzz", "abc", "y", "abc"),
        (".*", "abc", "", ""),
        (r"\bb", "ab b", "X", "ab X"),
        ("^a", "aaa", "b", "baa"),
        ("(a|ab)(c|bcd)?", "abcd", r"\1|\2", "a|bcd"),
    ],
)
def test_replace_all(name: str, pattern: str, text: str, rewrite: str, result: str) -> None:
    assert compile_with(name, pattern).replace_all(text, rewrite) == result


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "[a", "*", "a**", r"(a)\1", "(?=a)", "(?<!a)b", "a{1001}", "(a{500}){3}", "[z-a]",
     "\\", r"\Z", "(?z)", "[[:nope:]]", "(?P<>a)"],
)  # fmt: skip
def test_invalid_pattern_names_itself(name: str, pattern: str) -> None:
    with pytest.raises(RegexError, match="invalid regular expression"):
        compile_with(name, pattern)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("rewrite", "problem"),
    [(r"\2", "1 group"), ("a\\", "single backslash"), (r"\x", r"\\x is not a group")],
)
def test_invalid_rewrite(name: str, rewrite: str, problem: str) -> None:
    compiled = compile_with(name, "(a)")
    with pytest.raises(RegexError, match=problem):
        compiled.check_rewrite(rewrite)
    with pytest.raises(RegexError, match=problem):
        compiled.replace_all("a", rewrite)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [("/api/v1/.*", "/api/v1/"), ("^/a(b|c)", "/a"), (".*", ""), ("(?i)/a", "/"), ("a*b", "")],
)
def test_literal_prefix(name: str, pattern: str, prefix: str) -> None:
    assert compile_with(name, pattern).literal_prefix == prefix


def test_pattern_outside_latin1_is_refused() -> None:
    with pytest.raises(RegexError, match="outside Latin-1"):
        compile_regex("/€")


def test_compiled_patterns_are_shared() -> None:
    assert compile_regex("/shared/[a-z]+") is compile_regex("/shared/[a-z]+")


def test_fallback_when_google_re2_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine() == "re2"
    monkeypatch.setattr(regex_module, "_re2", None)
    assert engine() == "linear"
    assert "linear" in repr(compile_regex("/only-in-this-test/[0-9]"))


def test_repr_names_pattern_and_engine() -> None:
    assert repr(compile_regex("/a+")) == "<Regex '/a+' (re2)>"
