"""The WSGI middleware with applications and servers made of a few lines."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from meshclient import context
from meshclient.server import WSGIMiddleware
from meshclient.telemetry.propagation import current

MARK = ("x-meshclient-retries-exhausted", "true")
ENVIRON = {"REQUEST_METHOD": "GET", "HTTP_X_REQUEST_ID": "one", "HTTP_BAGGAGE": "a=1,b=2"}


def serve(app, environ=ENVIRON):
    """Status, headers and body of one request, as a server would take them."""
    heads = []

    def start_response(status, headers, exc_info=None):
        heads.append((status, headers))
        return lambda data: None

    body = WSGIMiddleware(app)(dict(environ), start_response)
    try:
        pieces = list(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    assert current() is None
    return *heads[-1], pieces


def answering(status, exhausted=""):
    def app(environ, start_response):
        current().marks.exhausted = exhausted
        start_response(status, [("a", "b")])
        return [b"x"]

    return app


def test_the_application_sees_the_request():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [current().request_id.encode(), context.outbound_headers()["baggage"].encode()]

    assert serve(app)[2] == [b"one", b"a=1,b=2"]


@pytest.mark.parametrize(
    ("status", "exhausted", "marked"),
    [
        ("200 OK", "", False),
        ("200 OK", "payments", False),
        ("503 Service Unavailable", "", False),
        ("503 Service Unavailable", "payments", True),
        ("429 Too Many Requests", "payments", True),
    ],
)
def test_only_failing_answers_after_retries_in_vain_are_marked(status, exhausted, marked):
    assert serve(answering(status, exhausted)) == (
        status,
        [("a", "b")] + ([MARK] if marked else []),
        [b"x"],
    )


def test_a_generator_and_its_close_run_for_the_request():
    seen = []

    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            for _ in range(2):
                seen.append(current().request_id)
                yield b"x"
        finally:
            seen.append(f"closed {current().request_id}")

    assert serve(app)[2] == [b"x", b"x"]
    assert seen == ["one", "one", "closed one"]


def test_an_answer_that_is_left_early_is_closed():
    seen = []

    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            yield b"x"
            yield b"y"
        finally:
            seen.append(current().request_id)

    body = WSGIMiddleware(app)(dict(ENVIRON), lambda *a: None)
    assert next(iter(body)) == b"x"
    body.close()
    assert seen == ["one"]


def test_an_error_of_the_application_passes_and_leaves_nothing():
    def app(environ, start_response):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(app)
    assert current() is None


def test_requests_on_many_threads_do_not_mix():
    def app(environ, start_response):
        start_response("200 OK", [])
        for _ in range(20):
            time.sleep(0)
            assert current().request_id == environ["HTTP_X_REQUEST_ID"]
            yield current().request_id.encode()

    def one(number):
        return serve(app, {"HTTP_X_REQUEST_ID": str(number)})[2] == [str(number).encode()] * 20

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))


def test_what_the_application_sets_does_not_reach_the_next_request():
    own: ContextVar[str] = ContextVar("own", default="")

    def app(environ, start_response):
        start_response("200 OK", [("was", own.get())])
        own.set("left over")
        return []

    assert serve(app)[1] == serve(app)[1] == [("was", "")]
