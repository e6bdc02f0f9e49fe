"""The reader: types, bounds, positions, unknown keys; every mistake reported, nothing raised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.config.diagnostics import MAX_ERRORS, Diagnostics
from meshclient.config.durations import DurationError, format_s, parse_ns
from meshclient.config.python_nodes import from_python
from meshclient.config.reader import Reader, wire_text
from meshclient.config.suggest import closest, did_you_mean
from meshclient.config.yaml_nodes import parse
from meshclient.model.source import NOT_HONOURED, Diagnostic, Source


def reader(text: str, document: str = "") -> Reader:
    sink = Diagnostics()
    return Reader.root(parse(text, "f.yaml", sink)[0], "f.yaml", sink, document)


def problems(r: Reader) -> list[str]:
    return [str(d) for d in r.sink]


def field(text: str) -> Reader:
    child = reader(f"k: {text}").field("k")
    assert child is not None
    return child


READS: list[tuple[Callable[[Reader], object], str, object]] = [
    (lambda r: r.string(), "abc", "abc"),
    (lambda r: r.string(), "yes", "yes"),
    (lambda r: r.string(choices=("a", "b")), "b", "b"),
    (lambda r: r.integer(), "5", 5),
    (lambda r: r.integer(), "5.0", 5),
    (lambda r: r.integer(1, 5), "5", 5),
    (lambda r: r.number(), "5", 5.0),
    (lambda r: r.number(0, 1), "0.5", 0.5),
    (lambda r: r.boolean(), "true", True),
    (lambda r: r.boolean(), "no", False),
    (lambda r: r.boolean(), "On", True),
    (lambda r: r.strings(), "[a, b]", ["a", "b"]),
    (lambda r: r.string_map(), "{a: b}", {"a": "b"}),
    (lambda r: r.go_duration(), "1h2m3.5s", 3723.5),
    (lambda r: r.go_duration(), "500ms", 0.5),
    (lambda r: r.go_duration(), "1000us", 0.001),
    (lambda r: r.go_duration(allow_zero=True), "0s", 0.0),
    (lambda r: r.go_duration(allow_zero=True), "0", 0.0),
    (lambda r: r.raw(), "{a: [1, x]}", {"a": [1, "x"]}),
]


@pytest.mark.parametrize(("read", "text", "expected"), READS)
def test_good_values(read: Callable[[Reader], object], text: str, expected: object) -> None:
    r = field(text)
    assert read(r) == expected
    assert problems(r) == []


BAD: list[tuple[Callable[[Reader], object], str, str]] = [
    (lambda r: r.string(), "5", 'expected a text, found the number 5 (write "5")'),
    (lambda r: r.string(), "1.10", 'found the number 1.10 (write "1.10")'),
    (lambda r: r.string(), "true", 'found the boolean true (write "true")'),
    (lambda r: r.string(), "[a]", "expected a text, found a list"),
    (lambda r: r.string(choices=("alpha", "beta")), "alhpa", '(did you mean "alpha"?)'),
    (lambda r: r.string(choices=("alpha", "beta")), "zzz", "known are alpha, beta"),
    (lambda r: r.integer(), "x", 'expected a whole number, found the text "x"'),
    (lambda r: r.integer(), "'5'", "(remove the quotes)"),
    (lambda r: r.integer(), "5.5", "expected a whole number, found the number 5.5"),
    (lambda r: r.integer(), "true", "expected a whole number, found the boolean true"),
    (lambda r: r.integer(), "1e300", "expected a whole number"),
    (lambda r: r.integer(1), "0", "0 is less than 1"),
    (lambda r: r.integer(1, 3), "4", "4 is more than 3"),
    (lambda r: r.number(), ".nan", "expected a number"),
    (lambda r: r.number(), ".inf", "expected a number"),
    (lambda r: r.boolean(), "'true'", "(remove the quotes)"),
    (lambda r: r.boolean(), "'yes'", "expected true or false"),
    (lambda r: r.boolean(), "1", "expected true or false, found the number 1"),
    (lambda r: r.elements(), "x", "expected a list"),
    (lambda r: r.elements(), "{a: b}", "(write - before it)"),
    (lambda r: r.field("a"), "x", "expected a mapping"),
    (lambda r: list(r.items()), "[x]", "expected a mapping, found a list"),
    (
        lambda r: r.go_duration(),
        "5",
        "expected a duration such as 1.5s or 200ms, found the number 5 (write 5s)",
    ),
    (lambda r: r.go_duration(), "'5'", "the unit is missing"),
    (lambda r: r.go_duration(), "5 s", "is not a duration"),
    (lambda r: r.go_duration(), "5d", "is not a duration"),
    (lambda r: r.go_duration(), "0s", "is too short, the least is 1ms"),
    (lambda r: r.go_duration(), "-1s", "is too short"),
    (lambda r: r.go_duration(allow_zero=True), "-1s", "is too short"),
    (lambda r: r.go_duration(), "1.5ms", "durations are whole milliseconds"),
    (lambda r: r.go_duration(), "9999999h", "longer than 292 years"),
    (lambda r: r.go_duration(1.0), "500ms", "the least is 1s"),
]


@pytest.mark.parametrize(("read", "text", "expected"), BAD)
def test_bad_values(read: Callable[[Reader], object], text: str, expected: str) -> None:
    r = field(text)
    assert read(r) in (None, [])
    (found,) = problems(r)
    assert found.startswith("f.yaml:1:4: error: k: ")
    assert expected in found


def test_a_wrong_type_is_reported_once() -> None:
    r = field("x")
    r.field("a")
    r.field("b")
    r.elements()
    assert len(problems(r)) == 1


def test_paths_and_positions_of_children() -> None:
    r = reader("spec:\n  http:\n  - retries: {attempts: x}\n  odd key/x: 1", "VirtualService a/b")
    spec = r.field("spec")
    assert spec is not None
    http = spec.field("http")
    assert http is not None
    retries = http.elements()[0].field("retries")
    assert retries is not None
    attempts = retries.field("attempts")
    assert attempts is not None
    assert attempts.path == "spec.http[0].retries.attempts"
    assert attempts.source == Source("f.yaml", 3, 25, "VirtualService a/b")
    assert [p.path for _, p in spec.items()] == ["spec.http", 'spec["odd key/x"]']


def test_children_are_made_once() -> None:
    r = reader("a: {b: 1}\nl: [1]")
    assert r.field("a") is r.field("a")
    listed = r.field("l")
    assert listed is not None
    assert listed.elements()[0] is listed.elements()[0]


def test_absent_and_null_are_the_same() -> None:
    r = reader("a: null\nb: 1")
    assert r.field("a") is None
    assert r.field("zzz") is None
    assert r.has("a")
    r.field("b")
    r.finish()
    assert problems(r) == []


def test_aliases_of_a_name_exclude_each_other() -> None:
    r = reader("a_b: 1\naB: 2")
    first = r.field("aB", "a_b")
    assert first is not None
    assert first.integer() == 2
    assert '"a_b" and "aB" are the same setting' in problems(r)[0]


def test_unknown_keys_name_key_position_and_suggestion() -> None:
    r = reader("timeout: 1s\ntimout: 1s\nzzz: 1")
    r.field("timeout")
    r.field("retries")
    r.ignore("status")
    r.finish("route")
    assert problems(r) == [
        'f.yaml:2:1: error: timout: unknown field "timout" in route (did you mean "timeout"?)',
        'f.yaml:3:1: error: zzz: unknown field "zzz" in route '
        "(known here: retries, status, timeout)",
    ]


def test_items_and_raw_make_all_keys_known() -> None:
    r = reader("a: 1\nb: null")
    assert [k for k, _ in r.items()] == ["a", "b"]
    r.finish()
    assert problems(r) == []


def test_not_honoured_is_recorded_and_returned() -> None:
    r = field("{a: 1}")
    note = r.not_honoured("circuit breaker")
    assert note in list(r.sink)
    assert (note.severity, note.code, note.field) == ("info", NOT_HONOURED, "k")


def test_severities() -> None:
    r = field("x")
    r.warning("odd", suggestion="try y")
    r.info("by the way")
    assert [d.severity for d in r.sink] == ["warning", "info"]
    assert not r.sink.has_errors
    r.error("bad")
    assert r.sink.has_errors


def test_named_gives_the_document_another_name() -> None:
    assert reader("a: 1").named("Pod x/y").source == Source("f.yaml", 1, 1, "Pod x/y")


def test_repeats_are_dropped_and_errors_are_bounded() -> None:
    sink = Diagnostics()
    for i in range(5000):
        sink.append(Diagnostic("error", "x", f"e{i}"))
        sink.append(Diagnostic("info", "x", f"n{i}"))
        sink.append(Diagnostic("info", "x", "same"))
    errors = [d for d in sink if d.severity == "error"]
    assert len(errors) == MAX_ERRORS
    assert "rest is not shown" in errors[-1].message
    assert len(sink) == MAX_ERRORS + 5001


def test_surrogates_in_parsed_data_are_an_error_not_a_crash() -> None:
    sink = Diagnostics()
    node = from_python({"a": "\ud800", "\udfff": 1}, "", sink)
    assert node is not None
    r = Reader.root(node, "", sink)
    child = r.field("a")
    assert child is not None
    assert child.string() is None
    r.finish()
    assert [d.message for d in sink] == [
        "not valid Unicode text",
        'unknown field "\\udfff"',
    ]


def test_long_values_are_cut_in_messages() -> None:
    r = field("x" * 10_000)
    r.integer()
    assert len(problems(r)[0]) < 250


def test_wire_text_is_utf8_as_latin1() -> None:
    assert wire_text("abc") == "abc"
    assert wire_text("é") == "Ã©"


def test_kinds() -> None:
    r = reader("a: x\nb: 1\nc: true\nd: [1]\ne: {f: 1}\ng: null")
    facts = {
        k: [v.is_string, v.is_number, v.is_boolean, v.is_list, v.is_mapping, v.is_null, v.is_scalar]
        for k, v in r.items()
    }
    assert facts == {
        "a": [True, False, False, False, False, False, True],
        "b": [False, True, False, False, False, False, True],
        "c": [False, False, True, False, False, False, True],
        "d": [False, False, False, True, False, False, False],
        "e": [False, False, False, False, True, False, False],
        "g": [False, False, False, False, False, True, True],
    }
    assert repr(r) == "<Reader (root) mapping f.yaml:1:1>"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+5s", 5 * 10**9),
        ("-1.5h", -5400 * 10**9),
        ("1µs", 1000),
        ("1μs", 1000),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("1h1m1s1ms1us1ns", 3661001001001),
        ("0.000000001s", 1),
    ],
)
def test_go_durations(text: str, nanoseconds: int) -> None:
    assert parse_ns(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    ["", "+", "s", ".s", "1", "1.5", "1 s", "1S", "1s ", "x1s", "1s\n", "9" * 99 + "s", "١s"],
)
def test_not_go_durations(text: str) -> None:
    with pytest.raises(DurationError):
        parse_ns(text)


@given(st.integers(1, 10**9))
def test_durations_round_trip(milliseconds: int) -> None:
    assert parse_ns(f"{milliseconds}ms") == milliseconds * 1_000_000
    assert parse_ns(f"{milliseconds / 1000:.3f}s") == milliseconds * 1_000_000


def test_durations_are_written_for_people() -> None:
    assert [format_s(s) for s in (0.25, 2.0, 1.5, 0.0)] == ["250ms", "2s", "1.5s", "0s"]


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("timout", ["timeout", "retries"], "timeout"),
        ("timeOut", ["timeout"], "timeout"),
        ("loadBalancer", ["load_balancing"], "load_balancing"),
        ("circuitBreaker", ["connectionPool", "outlierDetection"], "outlierDetection"),
        ("retryOn", ["on", "attempts"], "on"),
        ("qqq", ["timeout"], ""),
        ("x" * 5000, ["timeout"], ""),
    ],
)
def test_suggestions(word: str, known: list[str], meant: str) -> None:
    assert closest(word, known) == meant


def test_suggestions_never_repeat_the_word_itself() -> None:
    assert did_you_mean("host", ["host"]) == "known here: host"


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_suggestions_take_any_word(word: str) -> None:
    assert closest(word, ["timeout", "retries"]) in ("", "timeout", "retries")
