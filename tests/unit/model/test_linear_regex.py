"""The built-in engine: equal to RE2 on its subset, linear, and bounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.model import linear_regex
from meshclient.model.linear_regex import compile_linear
from meshclient.model.regex import RegexError, compile_with

ATOMS = st.sampled_from(
    ["a", "b", "A", ".", "/", "é", "-", r"\d", r"\w", r"\W", r"\s", "[ab]", "[^a]", "[a-b1]",
     "[]a]", "[[:alpha:]]", "[[:^digit:]]", r"[\d-]", r"\x41", r"\101", r"\.", r"\C", "^", "$",
     r"\b", r"\B", r"\A", r"\z", "(?i:a)", "(?s:.)", "(?m:^a$)", "\n"]
)  # fmt: skip
REPEATS = st.sampled_from(["", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,}", "{0,1}?"])


def _combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.sampled_from(["(%s)", "(?:%s)", "(?i:%s)", "(?U:%s)"])
    return st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map("|".join),
        st.builds(lambda form, body, repeat: form % body + repeat, group, inner, REPEATS),
    )


PATTERNS = st.recursive(st.builds(str.__add__, ATOMS, REPEATS), _combine, max_leaves=8)
TEXTS = st.text(alphabet="abAB/1\n é-É", max_size=9)


@settings(max_examples=200, deadline=None)
@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=6))
def test_equal_to_re2(pattern: str, texts: list[str]) -> None:
    """Matches, groups and replacements are RE2's, whatever the pattern."""
    try:
        reference = compile_with.__wrapped__("re2", pattern)
    except RegexError:
        with pytest.raises(RegexError):
            compile_linear(pattern)
        return
    linear = compile_with.__wrapped__("linear", pattern)
    assert linear.groups == reference.groups
    rewrite = r"<\0|\1>" if reference.groups else r"<\0>"
    for text in texts:
        assert linear.fullmatch(text) is reference.fullmatch(text)
        # RE2 makes one repetition of two nested ones only where both have the same flags. With
        # scoped flags between them, and an inside that may match nothing, it prefers a longer
        # match than the other way: (?:(?i:a??)*)+ on "A". Which texts match stays the same.
        if "(?i:" not in pattern:
            assert linear.replace_all(text, rewrite) == reference.replace_all(text, rewrite)
        if reference.fullmatch(text):
            assert text.startswith(linear.literal_prefix)
            assert text.startswith(reference.literal_prefix)


@pytest.mark.parametrize("pattern", [r"\p{L}", r"\pN", r"\x{100}"])
def test_what_is_missing_is_refused_with_a_way_out(pattern: str) -> None:
    with pytest.raises(RegexError, match=re.escape("install meshclient[re2]")):
        compile_linear(pattern)


def test_nesting_is_bounded() -> None:
    with pytest.raises(RegexError, match="nesting deeper"):
        compile_linear("(" * 200 + ")" * 200)


def test_program_size_is_bounded() -> None:
    with pytest.raises(RegexError, match="too large"):
        compile_linear("(?:" + "a" * 50 + "){1000}")


class _Counting(linear_regex.Program):
    """Counts the transitions that had to be worked out."""

    __slots__ = ("steps",)

    def __init__(self, pattern: str) -> None:
        self.steps = 0
        super().__init__(pattern)

    def _step(self, state: linear_regex._State, char: str) -> linear_regex._State:
        self.steps += 1
        return super()._step(state, char)


def test_catastrophic_pattern_takes_a_handful_of_states() -> None:
    """(a+)+b on 5000 a's is exponential for a backtracking engine."""
    program = _Counting("(a+)+b")
    assert program.fullmatch("a" * 5000) is False
    assert program.steps <= 3


def test_state_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern with 2^12 states, driven through many, starts its cache over."""
    monkeypatch.setattr(linear_regex, "MAX_TRANSITIONS", 50)
    program = compile_linear("(?:a|b)*a(?:a|b){12}")
    for number in range(400):
        text = f"{number:014b}".replace("0", "a").replace("1", "b")
        assert program.fullmatch(text) is (text[-13] == "a")
        assert program._cache.transitions <= 50
        assert len(program._cache.states) <= 50
