"""A request's headers to what its calls carry on; and what a caller's own headers win over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage as otel_baggage
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from meshclient import context
from meshclient.model.headers import HeaderMap
from meshclient.model.inbound import Inbound
from meshclient.model.propagation import DeadlineHeader, Propagation
from meshclient.model.request import RequestHead
from meshclient.telemetry import otel, propagation
from meshclient.telemetry.capture import capture
from meshclient.telemetry.propagation import INBOUND, carry, current, outgoing, withhold

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
EVERYTHING = {
    "traceparent": PARENT,
    "tracestate": "congo=t61rcWkgMzE",
    "b3": f"{TRACE}-{SPAN}-1",
    "x-b3-traceid": TRACE,
    "x-b3-spanid": SPAN,
    "x-b3-sampled": "1",
    "x-ot-span-context": "opaque",
    "x-cloud-trace-context": f"{TRACE}/1;o=1",
    "baggage": "lane=canary",
    "x-request-id": "abc",
    "x-tenant": "acme",
    "end-user": "jason",
}
OURS = Propagation(headers=("x-tenant", "end-user"))


@pytest.fixture(autouse=True, params=["OpenTelemetry loaded", "not loaded"])
def loaded(request, monkeypatch):
    """A program without OpenTelemetry takes a shorter way, to the same result."""
    if request.param == "not loaded" and "span" not in request.fixturenames:
        monkeypatch.setattr(propagation, "_modules", {})
        monkeypatch.setattr(otel, "_modules", {})


def take_in(headers, settings=OURS, now=100.0, unix_now=1_000_100.0) -> Inbound:
    raw = [(n.encode(), v.encode()) for n, v in dict(headers).items()]
    return capture(raw, settings, now, unix_now)


def head(**headers) -> RequestHead:
    pairs = [("Host", "a"), *((n.replace("_", "-"), v) for n, v in headers.items())]
    return RequestHead("GET", "http", "a", 80, "/", HeaderMap.of(pairs))


def sent(inbound: Inbound | None, **headers) -> dict[str, str]:
    """What goes out besides Host, while ``inbound`` is handled."""
    request = head(**headers)
    token = INBOUND.set(inbound)
    try:
        assert outgoing(request) is inbound
    finally:
        INBOUND.reset(token)
    found = {n.lower(): v for n, v in request.headers}
    assert len(found) == len(request.headers.raw)  # nothing twice
    return {n: v for n, v in found.items() if n != "host"}


# -- in -------------------------------------------------------------------------


def test_everything_is_carried_on_unchanged():
    assert sent(take_in(EVERYTHING)) == EVERYTHING


def test_names_are_found_in_any_case_and_other_headers_stay():
    inbound = take_in({"TraceParent": PARENT, "X-TENANT": "acme", "Cookie": "secret"})
    carried = sent(inbound)
    assert carried.pop("x-request-id")
    assert carried == {"traceparent": PARENT, "x-tenant": "acme"}


def test_values_for_hash_policies_and_code():
    inbound = take_in(EVERYTHING)
    assert dict(inbound.values) == {
        "x-tenant": "acme",
        "end-user": "jason",
        "baggage.lane": "canary",
        "x-request-id": "abc",
        "trace-id": TRACE,
    }
    assert inbound.request_id == "abc"
    assert inbound.trace is not None
    assert inbound.trace.format == "w3c"


def test_a_request_id_is_made_where_there_is_none():
    inbound = take_in({})
    assert len(inbound.request_id) == 36
    assert sent(inbound) == {"x-request-id": inbound.request_id}


@pytest.mark.parametrize(
    ("setting", "gone"),
    [
        ("trace", {n for n in EVERYTHING if n not in ("baggage", "x-request-id")}),
        ("baggage", {"baggage"}),
        ("request_id", {"x-request-id"}),
    ],
)
def test_each_part_can_be_switched_off(setting, gone):
    inbound = take_in(EVERYTHING, Propagation(headers=("x-tenant", "end-user"), **{setting: False}))
    gone = gone - {"x-tenant", "end-user"}
    assert sent(inbound) == {n: v for n, v in EVERYTHING.items() if n not in gone}


def test_a_malformed_format_is_left_out_alone():
    broken = {**EVERYTHING, "traceparent": "00-zz", "b3": "rubbish", "baggage": "no pairs"}
    carried = sent(take_in(broken))
    assert set(EVERYTHING) - set(carried) == {"traceparent", "tracestate", "b3", "baggage"}


def test_several_lines_of_a_configured_header_are_all_carried():
    inbound = capture([(b"x-tenant", b"a"), (b"x-tenant", b"b")], OURS, 0.0, 0.0)
    request = head()
    INBOUND.set(inbound)
    outgoing(request)
    INBOUND.set(None)
    assert request.headers.get_all("x-tenant") == ["a", "b"]


def test_which_try_of_an_outer_hop_it_is():
    assert take_in({"x-envoy-attempt-count": "3"}).marks.attempt == 3
    for nothing in ("", "x", "9" * 12):
        assert take_in({"x-envoy-attempt-count": nothing}).marks.attempt == 0
    assert "x-envoy-attempt-count" not in sent(take_in({"x-envoy-attempt-count": "3"}))


def test_deadlines_become_monotonic():
    assert take_in({"grpc-timeout": "2S"}).deadline == 102.0
    own = Propagation(deadline_header=DeadlineHeader("x-due", "unix_seconds"))
    assert take_in({"x-due": "1000105.5"}, own).deadline == pytest.approx(105.5)
    assert take_in({"grpc-timeout": "2S"}, Propagation(deadline=False)).deadline is None


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ("milliseconds", b"1500"),
        ("seconds", b"1.500"),
        ("unix_milliseconds", b"1000102000"),
        ("unix_seconds", b"1000102.000"),
    ],
)
def test_the_organisations_own_deadline_header_says_what_is_left(format_, expected):
    own = Propagation(deadline_header=DeadlineHeader("x-due", format_))
    inbound = take_in({"grpc-timeout": "2S"}, own)
    assert inbound.deadline_line(100.5) == (b"x-due", expected)


def test_a_deadline_that_has_passed_says_zero_and_never_less():
    own = Propagation(deadline_header=DeadlineHeader("x-due"))
    assert take_in({"grpc-timeout": "2S"}, own).deadline_line(200.0) == (b"x-due", b"0")
    assert take_in({}, own).deadline_line(0.0) is None


@given(st.lists(st.tuples(st.sampled_from([n.encode() for n in EVERYTHING]), st.binary())))
def test_nothing_that_comes_in_breaks_the_capture(lines):
    inbound = capture(lines, OURS, 0.0, 0.0)
    for name, value in (*inbound.trace_lines, *inbound.lines):
        assert name == name.lower()
        assert not set(value) & {0, 10, 13}


# -- out: what the caller sets wins -----------------------------------------------


@pytest.mark.parametrize("name", ["traceparent", "B3", "X-B3-TraceId", "x-ot-span-context"])
def test_a_trace_of_the_callers_own_replaces_the_whole_inbound_one(name):
    request = RequestHead("GET", "http", "a", 80, "/", HeaderMap.of([(name, "mine")]))
    INBOUND.set(take_in(EVERYTHING))
    outgoing(request)
    INBOUND.set(None)
    found = {n.lower(): v for n, v in request.headers}
    kept = {n: EVERYTHING[n] for n in ("baggage", "x-request-id", "x-tenant", "end-user")}
    assert found == {name.lower(): "mine", **kept}


def test_every_other_header_of_the_callers_own_wins_by_itself():
    carried = sent(take_in(EVERYTHING), X_Tenant="mine", X_Request_Id="mine", Baggage="a=1")
    expected = {**EVERYTHING, "x-tenant": "mine", "x-request-id": "mine", "baggage": "a=1"}
    assert carried == expected


def test_without_a_request_nothing_is_touched():
    request = head()
    headers = request.headers
    assert outgoing(request) is None
    assert request.headers is headers


def test_the_callers_list_is_never_changed():
    raw = [(b"Host", b"a")]
    request = RequestHead("GET", "http", "a", 80, "/", HeaderMap(raw))
    INBOUND.set(take_in(EVERYTHING))
    outgoing(request)
    INBOUND.set(None)
    assert raw == [(b"Host", b"a")]


@pytest.mark.parametrize(
    ("mode", "stays"),
    [
        ("all", set(EVERYTHING)),
        ("trace", set(EVERYTHING) - {"baggage", "x-tenant", "end-user"}),
        ("none", set()),
    ],
)
def test_what_unknown_hosts_are_told(mode, stays):
    request = head(cookie="own")
    given_lines = request.headers.raw
    INBOUND.set(take_in(EVERYTHING))
    outgoing(request)
    INBOUND.set(None)
    withhold(request, given_lines, mode)
    assert {n.lower() for n, _ in request.headers} == stays | {"host", "cookie"}


# -- OpenTelemetry ------------------------------------------------------------------


@pytest.fixture
def span():
    """A current span of the program's own."""
    known = SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=TraceFlags(1))
    token = otel_context.attach(otel_trace.set_span_in_context(NonRecordingSpan(known)))
    yield f"00-{0x1234:032x}-{0x5678:016x}-01"
    otel_context.detach(token)


def test_the_current_span_takes_the_place_of_the_inbound_trace(span):
    carried = sent(take_in(EVERYTHING))
    kept = {n: EVERYTHING[n] for n in ("baggage", "x-request-id", "x-tenant", "end-user")}
    assert carried == {"traceparent": span, **kept}


def test_the_current_span_is_carried_without_a_request(span):
    assert sent(None) == {"traceparent": span}


def test_what_the_caller_sets_wins_over_the_span(span):
    assert sent(None, traceparent=PARENT) == {"traceparent": PARENT}


def test_opentelemetrys_baggage_takes_the_place_of_the_inbound_one(span):
    token = otel_context.attach(otel_baggage.set_baggage("lane", "own"))
    try:
        assert sent(take_in(EVERYTHING))["baggage"] == "lane=own"
        assert sent(take_in(EVERYTHING), baggage="a=1")["baggage"] == "a=1"
    finally:
        otel_context.detach(token)


def test_without_a_span_the_inbound_trace_goes_on():
    assert sent(take_in(EVERYTHING))["traceparent"] == PARENT


def test_opentelemetry_is_never_loaded_for_that():
    program = (
        "import sys, meshclient\n"
        "with meshclient.context.enter({'traceparent': '" + PARENT + "'}):\n"
        "    assert meshclient.context.outbound_headers()['traceparent']\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'grpc', 'httpx'))])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout.strip() == "[]"


# -- where it is known ------------------------------------------------------------


def test_tasks_of_asyncio_have_each_their_own():
    async def handle(tenant):
        with context.enter({"x-request-id": tenant}):
            await asyncio.sleep(0)
            inner = await asyncio.create_task(asyncio.to_thread(current))
            return current().request_id, inner.request_id

    async def main():
        return await asyncio.gather(*(handle(f"t{n}") for n in range(50)))

    assert asyncio.run(main()) == [(f"t{n}", f"t{n}") for n in range(50)]


def test_executors_know_it_through_carry_alone():
    with ThreadPoolExecutor(1) as pool, context.enter({"x-request-id": "one"}):
        carried = carry(lambda: current().request_id)
        assert pool.submit(current).result() is None
        assert pool.submit(carried).result() == "one"
        assert pool.submit(current).result() is None  # nothing is left behind


def test_a_carried_function_may_run_many_times_at_once():
    barrier = threading.Barrier(8)

    def work(number):
        barrier.wait(10)
        return current().request_id, number

    with ThreadPoolExecutor(8) as pool, context.enter({"x-request-id": "one"}):
        results = list(pool.map(carry(work), range(8)))
    assert results == [("one", n) for n in range(8)]


def test_a_carried_function_keeps_its_name_and_result():
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    assert carry(add).__name__ == "add"
    assert carry(add)(1, b=2) == 3
