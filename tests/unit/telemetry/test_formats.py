"""Each header format: what is valid, what is not, and that valid lines are carried unchanged."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.inbound import TraceContext
from meshclient.model.propagation import DeadlineHeader
from meshclient.telemetry import (
    b3,
    baggage,
    cloud_trace,
    deadlines,
    header_lines,
    ot_span,
    request_id,
    w3c_trace,
)
from meshclient.telemetry.grpc_timeout import format_grpc_timeout, parse_grpc_timeout

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

hex_digits = st.sampled_from("0123456789abcdef")


def ids(length: int) -> st.SearchStrategy[str]:
    return st.text(hex_digits, min_size=length, max_size=length).filter(lambda t: t.strip("0"))


def seen(context: TraceContext | None) -> tuple[str, str, bool | None] | None:
    return None if context is None else (context.trace_id, context.span_id, context.sampled)


# -- W3C ----------------------------------------------------------------------

PARENTS = [
    (f"00-{TRACE}-{SPAN}-01", (TRACE, SPAN, True)),
    (f"00-{TRACE}-{SPAN}-00", (TRACE, SPAN, False)),
    (f"00-{TRACE}-{SPAN}-03", (TRACE, SPAN, True)),
    (f"cc-{TRACE}-{SPAN}-01-what-the-future-adds", (TRACE, SPAN, True)),
    (f"cc-{TRACE}-{SPAN}-01", (TRACE, SPAN, True)),
    (f"00-{TRACE}-{SPAN}-01-more", None),
    (f"ff-{TRACE}-{SPAN}-01", None),
    (f"cc-{TRACE}-{SPAN}-01.more", None),
    (f"00-{'0' * 32}-{SPAN}-01", None),
    (f"00-{TRACE}-{'0' * 16}-01", None),
    (f"00-{TRACE.upper()}-{SPAN}-01", None),
    (f"00-{TRACE[:-1]}-{SPAN}-01", None),
    (f"00-{TRACE}-{SPAN}-1", None),
    (f"0-{TRACE}-{SPAN}-01", None),
    (f"00-{TRACE}-{SPAN}", None),
    (f"00_{TRACE}_{SPAN}_01", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), PARENTS)
def test_traceparent(text, expected):
    assert seen(w3c_trace.parse_traceparent(text.encode())) == expected


@given(ids(32), ids(16), st.integers(0, 255))
def test_every_traceparent_that_is_written_is_read_and_carried_unchanged(trace, span, flags):
    value = f"00-{trace}-{span}-{flags:02x}".encode()
    found = w3c_trace.read({b"traceparent": [value]})
    assert found is not None
    assert seen(found[0]) == (trace, span, bool(flags & 1))
    assert found[1] == [(b"traceparent", value)]


STATES = [
    (["congo=t61rcWkgMzE"], True),
    (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], True),
    (["rojo=1", "congo=2"], True),
    (["fw529a3039@dt=FfD3zDU4"], True),
    (["a=1,,b=2"], True),
    (["a=1, b=2"], True),
    ([",".join(f"k{n}=v" for n in range(32))], True),
    ([",".join(f"k{n}=v" for n in range(33))], False),
    (["Upper=1"], False),
    (["a"], False),
    (["a="], False),
    (["a=b=c"], False),
    (["=1"], False),
    ([","], False),
    ([], False),
    (["a=" + "x" * 256], True),
    (["a=" + "x" * 257], False),
]


@pytest.mark.parametrize(("values", "valid"), STATES)
def test_tracestate(values, valid):
    """A malformed one is left out alone; the parent goes on."""
    raw = [value.encode() for value in values]
    assert w3c_trace.valid_tracestate(raw) is valid
    parent = PARENTS[0][0].encode()
    found = w3c_trace.read({b"traceparent": [parent], b"tracestate": raw})
    assert found is not None
    expected = [(b"tracestate", value) for value in raw] if valid else []
    assert found[1] == [(b"traceparent", parent), *expected]


def test_a_tracestate_without_a_valid_parent_means_nothing():
    assert w3c_trace.read({b"tracestate": [b"a=1"]}) is None
    assert w3c_trace.read({b"traceparent": [b"nonsense"], b"tracestate": [b"a=1"]}) is None


def test_two_parents_are_none():
    parent = PARENTS[0][0].encode()
    assert w3c_trace.read({b"traceparent": [parent, parent]}) is None


# -- B3 -------------------------------------------------------------------------

SINGLES = [
    (f"{TRACE}-{SPAN}-1", (TRACE, SPAN, True)),
    (f"{TRACE}-{SPAN}-0", (TRACE, SPAN, False)),
    (f"{TRACE}-{SPAN}-d", (TRACE, SPAN, True)),
    (f"{TRACE}-{SPAN}", (TRACE, SPAN, None)),
    (f"{TRACE[16:]}-{SPAN}-1", (TRACE[16:], SPAN, True)),
    (f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90", (TRACE, SPAN, True)),
    ("0", ("", "", False)),
    ("1", ("", "", True)),
    ("d", ("", "", True)),
    ("2", None),
    (TRACE, None),
    (f"{TRACE}-{SPAN}-2", None),
    (f"{TRACE}-{SPAN}-1-short", None),
    (f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90-", None),
    (f"{'0' * 32}-{SPAN}-1", None),
    (f"{TRACE}-{'0' * 16}-1", None),
    (f"{TRACE[1:]}-{SPAN}-1", None),
]


@pytest.mark.parametrize(("text", "expected"), SINGLES)
def test_b3_in_one_header(text, expected):
    assert seen(b3.parse_single(text.encode())) == expected


IDS = {"x-b3-traceid": TRACE, "x-b3-spanid": SPAN}
SEVERAL = [
    (IDS, (TRACE, SPAN, None)),
    ({**IDS, "x-b3-sampled": "1"}, (TRACE, SPAN, True)),
    ({**IDS, "x-b3-sampled": "0"}, (TRACE, SPAN, False)),
    ({**IDS, "x-b3-sampled": "true"}, (TRACE, SPAN, True)),
    ({**IDS, "x-b3-flags": "1"}, (TRACE, SPAN, True)),
    ({**IDS, "x-b3-flags": "0"}, (TRACE, SPAN, None)),
    ({**IDS, "x-b3-traceid": TRACE.upper()}, (TRACE, SPAN, None)),
    ({**IDS, "x-b3-parentspanid": SPAN, "x-b3-sampled": "0"}, (TRACE, SPAN, False)),
    ({"x-b3-sampled": "0"}, ("", "", False)),
    ({"x-b3-flags": "1"}, ("", "", True)),
    ({"x-b3-flags": "0"}, None),
    ({"x-b3-traceid": TRACE}, None),
    ({"x-b3-spanid": SPAN}, None),
    ({**IDS, "x-b3-sampled": "maybe"}, None),
    ({**IDS, "x-b3-flags": "2"}, None),
    ({**IDS, "x-b3-parentspanid": "zz"}, None),
    ({**IDS, "x-b3-traceid": "0" * 32}, None),
    ({"x-b3-parentspanid": SPAN, "x-b3-sampled": "1"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "expected"), SEVERAL)
def test_b3_in_several_headers(headers, expected):
    found = {name.encode(): [value.encode()] for name, value in headers.items()}
    assert seen(b3.parse_multi(found)) == expected


@given(ids(32) | ids(16), ids(16), st.sampled_from(["0", "1", "d", None]))
def test_every_b3_that_is_written_is_read_and_carried_unchanged(trace, span, decision):
    value = "-".join(part for part in (trace, span, decision) if part).encode()
    found = b3.read({b"b3": [value]})
    assert found is not None
    assert found[0].trace_id == trace
    assert found[1] == [(b"b3", value)]


def test_a_valid_form_is_carried_although_the_other_is_not():
    found = b3.read({b"b3": [b"rubbish"], b"x-b3-sampled": [b"1"]})
    assert found is not None
    assert found[1] == [(b"x-b3-sampled", b"1")]


def test_a_repeated_b3_header_is_none():
    assert b3.parse_multi({b"x-b3-sampled": [b"1", b"0"]}) is None


# -- the others -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{TRACE}/1;o=1", (TRACE, "0000000000000001", True)),
        (f"{TRACE}/18446744073709551615;o=0", (TRACE, "f" * 16, False)),
        (f"{TRACE}", (TRACE, "", None)),
        (f"{TRACE}/5", (TRACE, "0000000000000005", None)),
        (f"{TRACE}/18446744073709551616", None),
        (f"{TRACE}/x", None),
        (f"{'0' * 32}/1", None),
        (f"{TRACE[1:]}/1", None),
    ],
)
def test_cloud_trace(text, expected):
    assert seen(cloud_trace.parse(text.encode())) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["userId=alice,serverNode=DF%2028"], {"userId": "alice", "serverNode": "DF 28"}),
        (["a=1;property;p2=v, b = 2 ;x"], {"a": "1", "b": "2"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=1,a=2"], {"a": "1"}),
        (["a="], {"a": ""}),
        (["a"], None),
        (["a=1,"], None),
        (["a=with space"], None),
        (['a="quoted"'], None),
        ([",".join(f"k{n}=v" for n in range(64))], {f"k{n}": "v" for n in range(64)}),
        ([",".join(f"k{n}=v" for n in range(65))], None),
        (["a=" + "x" * 8000, "b=" + "x" * 8000], None),
    ],
)
def test_baggage(values, expected):
    assert baggage.parse([value.encode() for value in values]) == expected


def test_opaque_span_contexts_are_bounded():
    assert ot_span.read({ot_span.NAME: [b"opaque"]}) == [(ot_span.NAME, b"opaque")]
    assert ot_span.read({ot_span.NAME: [b"x" * 1025]}) == []
    assert ot_span.read({ot_span.NAME: [b"a", b"b"]}) == []
    assert ot_span.read({}) == []


def test_request_ids_are_kept_in_any_form_and_made_in_envoys():
    assert request_id.read({request_id.NAME: [b"what you like"]}) == b"what you like"
    assert request_id.read({request_id.NAME: [b"x" * 257]}) is None
    assert request_id.read({request_id.NAME: [b"a", b"b"]}) is None
    form = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(form, request_id.make())
    assert request_id.make() != request_id.make()


# -- deadlines --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600.0),
        ("2M", 120.0),
        ("3S", 3.0),
        ("250m", 0.25),
        ("100u", 1e-4),
        ("5n", 5e-9),
        ("0n", 0.0),
        ("99999999H", 99999999 * 3600.0),
        ("100000000S", None),
        ("1", None),
        ("S", None),
        ("-1S", None),
        ("1.5S", None),
        ("1s", None),
        ("", None),
    ],
)
def test_grpc_timeout(text, seconds):
    assert parse_grpc_timeout(text.encode()) == pytest.approx(seconds)


@given(st.floats(1e-9, 1e11))
def test_a_grpc_timeout_that_is_written_is_never_longer_and_hardly_shorter(seconds):
    text = format_grpc_timeout(seconds)
    assert len(text) <= 9
    read = parse_grpc_timeout(text)
    assert read is not None
    assert read <= seconds * (1 + 1e-6) + 1e-15
    # 8 digits, the first of them not 0, unless a nanosecond is the finest there is.
    assert read >= seconds * 0.9 - 2e-9 or seconds > 1e7


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_time_that_is_over_is_written_as_none(seconds):
    assert format_grpc_timeout(seconds) == b"0n"


def test_a_round_time_stays_round():
    assert format_grpc_timeout(0.05) == b"50000000n"
    assert format_grpc_timeout(0.1) == b"100000u"
    assert format_grpc_timeout(1e12) == b"99999999H"


UNIX = 1_700_000_000.0
OWN = "x-request-deadline"


@pytest.mark.parametrize(
    ("headers", "format_", "expected"),
    [
        ({}, "milliseconds", None),
        ({"grpc-timeout": "2S"}, "milliseconds", 2.0),
        ({"x-envoy-expected-rq-timeout-ms": "1500"}, "milliseconds", 1.5),
        ({"x-envoy-expected-rq-timeout-ms": "0"}, "milliseconds", None),
        ({"x-envoy-expected-rq-timeout-ms": "-5"}, "milliseconds", None),
        ({"x-envoy-expected-rq-timeout-ms": "soon"}, "milliseconds", None),
        ({"x-envoy-expected-rq-timeout-ms": "9" * 21}, "milliseconds", None),
        ({"grpc-timeout": "2S", "x-envoy-expected-rq-timeout-ms": "1500"}, "seconds", 1.5),
        ({OWN: "250"}, "milliseconds", 0.25),
        ({OWN: "2.5"}, "seconds", 2.5),
        ({OWN: "0"}, "seconds", 0.0),
        ({OWN: "-1"}, "seconds", -1.0),
        ({OWN: "1700000003"}, "unix_seconds", 3.0),
        ({OWN: "1700000003500"}, "unix_milliseconds", 3.5),
        ({OWN: "1699999999"}, "unix_seconds", -1.0),
        ({OWN: "nan"}, "seconds", None),
        ({OWN: "inf"}, "seconds", None),
        ({OWN: "soon"}, "seconds", None),
        ({OWN: "250", "grpc-timeout": "1S"}, "milliseconds", 0.25),
    ],
)
def test_what_a_caller_grants(headers, format_, expected):
    found = {name.encode(): [value.encode()] for name, value in headers.items()}
    left = deadlines.left_s(found, DeadlineHeader(OWN, format_), UNIX)
    assert left == pytest.approx(expected)


# -- lines ------------------------------------------------------------------------


def test_lines_that_no_header_may_have_are_left_out():
    lines = [
        (b"X-Tenant", b" acme\t"),
        (b"x-tenant", b"two\r\nX-Evil: 1"),
        (b"x-tenant", b"nul\x00"),
        (b"x-tenant", b""),
        (b"x-tenant", b"x" * 8193),
        (b"x-tenant", b"caf\xe9"),
        (b"x-other", b"1"),
    ]
    assert header_lines.gather(lines, {b"x-tenant"}) == {b"x-tenant": [b"acme", b"caf\xe9"]}


def test_the_lines_of_one_name_are_bounded():
    found = header_lines.gather([(b"a", b"%d" % n) for n in range(100)], {b"a"})
    assert len(found[b"a"]) == header_lines.MAX_LINES


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=60)), max_size=20))
def test_no_bytes_whatever_upset_a_reader(pairs):
    names = [*w3c_trace.NAMES, *b3.NAMES, baggage.NAME, ot_span.NAME, cloud_trace.NAME]
    lines = [(names[i % len(names)], value) for i, (_, value) in enumerate(pairs)] + pairs
    found = header_lines.gather(lines, frozenset(names))
    for read in (w3c_trace.read, b3.read, cloud_trace.read, baggage.read, ot_span.read):
        read(found)
