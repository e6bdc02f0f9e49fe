"""Scenarios without failures: responses, uploads, and what httpx itself does on top."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from servers.http import Recorded, Reply

from .bodies import BIG, WHOLE
from .scenario import Ask, Expected, Scenario, ok


def _drip(request: Recorded) -> Reply:
    """Chunks, one by one."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(300):
            yield b"line %d\n" % number

    return Reply(200, pieces())


def _echo(request: Recorded) -> Reply:
    return Reply(200, request.body)


_LINES = "|".join(f"line {n}" for n in range(300)).encode()

RESPONSES = (
    Scenario("plain"),
    Scenario(
        "kept-alive: a second request finds the connection",
        asks=(Ask(), Ask(), Ask()),
        expected=(ok(), ok(), ok()),
        received=("a GET /x",) * 3,
        sees=lambda all_: _equal({r.connection for r in all_}, {all_[0].connection}),
    ),
    Scenario("empty body", script=(Reply(200, b""),), expected=(ok(b""),)),
    Scenario("big body, read whole", script=(Reply(200, BIG),), expected=(ok(BIG),)),
    Scenario(
        "big body, streamed",
        asks=(Ask(reading="stream"),),
        script=(Reply(200, BIG),),
        expected=(ok(BIG),),
    ),
    Scenario(
        "big body, closed early",
        asks=(Ask(reading="early"), Ask(reading="untouched"), Ask()),
        script=(Reply(200, BIG), Reply(200, BIG), Reply(200, b"next")),
        expected=(ok(None), ok(b""), ok(b"next")),
        received=("a GET /x",) * 3,
    ),
    Scenario(
        "chunks, line by line",
        asks=(Ask(reading="lines"),),
        script=(_drip,),
        expected=(ok(_LINES),),
    ),
    Scenario(
        "body until the connection closes",
        script=(
            Reply(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", close=True),
        ),
        expected=(ok(b"until the end"),),
    ),
    Scenario(
        "HEAD has a length and no body",
        asks=(Ask("HEAD"),),
        script=(Reply(200, b"12345"),),
        expected=(ok(b"", headers={"content-length": "5"}),),
        received=("a HEAD /x",),
    ),
    Scenario(
        "204 and 304 have no body",
        asks=(Ask(), Ask()),
        script=(Reply(204), Reply(304, headers=[("ETag", '"e"')])),
        expected=(
            Expected(204, b"", attempts=("a success 204",)),
            Expected(304, b"", attempts=("a success 304",), headers={"etag": '"e"'}),
        ),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "a 404 is an answer like any other",
        script=(Reply(404, b"no"),),
        expected=(Expected(404, b"no", attempts=("a success 404",), note="covers status 404"),),
    ),
    Scenario(
        "early hints before the answer",
        script=(
            Reply(
                raw=b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n"
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            ),
        ),
        expected=(ok(headers={"link": None}),),
    ),
    Scenario(
        "two endpoints in turn",
        asks=(Ask(), Ask()),
        endpoints=("a", "b"),
        service={"load_balancing": "random"},
        expected=(ok(attempts=("b success 200",)), ok(attempts=("b success 200",))),
        received=("b GET /x",) * 2,
    ),
)

SENT = {
    "bytes": WHOLE,
    "big": BIG,
    "generator": WHOLE,
    "list": WHOLE,
    "file": WHOLE,
    "json": b'{"k":[1,null,"\xc3\xbc"]}',
    "form": b"k=v+w&l=1&l=2",
    "multipart": (
        b'--frontier\r\nContent-Disposition: form-data; name="k"\r\n\r\nv\r\n'
        b'--frontier\r\nContent-Disposition: form-data; name="f"; filename="n.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\n" + WHOLE + b"\r\n--frontier--\r\n"
    ),
}

UPLOADS = tuple(
    Scenario(
        f"upload: {body}",
        asks=(Ask("PUT", body=body),),
        script=(_echo,),
        expected=(ok(sent),),
        received=("a PUT /x",),
        sees=lambda all_, sent=sent: _equal([r.body for r in all_], [sent]),  # type: ignore[misc]
    )
    for body, sent in SENT.items()
)


def _equal(found: object, wanted: object) -> None:
    assert found == wanted


# What httpx does above its transport.


def _digest(request: Recorded) -> Reply:
    if (request.header("authorization") or "").startswith("Digest "):
        return Reply(200, b"in")
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    return Reply(401, b"who?", [("WWW-Authenticate", challenge)])


def _token(request: Recorded) -> Reply:
    if request.path == "/token":
        return Reply(200, b"t0k3n")
    return Reply(200, (request.header("authorization") or "none").encode())


def _token_auth(library: Any, colour: str) -> dict[str, Any]:
    class TokenAuth(library.Auth):  # type: ignore[misc]
        """Asks for a token with a request of its own, and reads the answer."""

        requires_response_body = True

        def auth_flow(self, request: Any) -> Any:
            answer = yield library.Request("GET", "http://svc/token")
            request.headers["Authorization"] = "Bearer " + answer.text
            yield request

    return {"auth": TokenAuth()}


def _hooks(library: Any, colour: str) -> dict[str, Any]:
    def on_request(request: Any) -> None:
        request.headers["X-Hook"] = "seen"

    def on_response(response: Any) -> None:
        response.headers["X-Attempts"] = str(len(response.extensions["meshclient"].attempts))

    async def on_request_async(request: Any) -> None:
        on_request(request)

    async def on_response_async(response: Any) -> None:
        on_response(response)

    if colour == "sync":
        return {"event_hooks": {"request": [on_request], "response": [on_response]}}
    return {"event_hooks": {"request": [on_request_async], "response": [on_response_async]}}


def _headers_are(**wanted: str | None) -> Any:
    """Of the last request; None: it must not be there."""

    def check(all_: list[Recorded]) -> None:
        for name, value in wanted.items():
            assert all_[-1].header(name.replace("_", "-")) == value, name

    return check


_OLD_TO_NEW = {"routes": [{"match": {"path": "/old"}, "redirect": {"path": "/new"}}]}

CLIENT_FEATURES = (
    Scenario(
        "cookies come back",
        asks=(Ask(), Ask()),
        script=(Reply(200, b"ok", [("Set-Cookie", "s=1; Path=/"), ("Set-Cookie", "t=2")]),),
        expected=(ok(), ok()),
        received=("a GET /x",) * 2,
        sees=_headers_are(cookie="s=1; t=2"),
    ),
    Scenario(
        "digest authentication",
        client=lambda library, _: {"auth": library.DigestAuth("u", "p")},
        script=(_digest,),
        expected=(ok(b"in", history=(401,)),),
        received=("a GET /x", "a GET /x"),
    ),
    Scenario(
        "an auth flow with a request of its own",
        client=_token_auth,
        script=(_token,),
        expected=(ok(b"Bearer t0k3n", history=(200,)),),
        received=("a GET /token", "a GET /x"),
    ),
    Scenario(
        "event hooks",
        client=_hooks,
        expected=(ok(headers={"x-attempts": "1"}),),
        sees=_headers_are(x_hook="seen"),
    ),
    Scenario(
        "base_url, default headers and parameters",
        client=lambda *_: {
            "base_url": "http://svc/api/",
            "headers": {"X-Team": "web"},
            "params": {"p": "1"},
        },
        asks=(Ask(url="items"),),
        received=("a GET /api/items?p=1",),
        sees=_headers_are(x_team="web", host="svc"),
    ),
    Scenario(
        "redirect of an upstream, followed",
        asks=(Ask(options={"follow_redirects": True}),),
        script=(Reply(302, headers=[("Location", "http://svc/y")]), Reply(200, b"y")),
        expected=(ok(b"y", history=(302,)),),
        received=("a GET /x", "a GET /y"),
    ),
    Scenario(
        "redirect by policy",
        asks=(Ask(url="http://svc/old"),),
        service=_OLD_TO_NEW,
        expected=(Expected(301, b"", attempts=(), headers={"location": "http://svc/new"}),),
        received=(),
    ),
    Scenario(
        "redirect by policy, followed",
        asks=(Ask(url="http://svc/old?q=1", options={"follow_redirects": True}),),
        service=_OLD_TO_NEW,
        expected=(ok(history=(301,)),),
        received=("a GET /new?q=1",),
    ),
    Scenario(
        "direct response",
        service={"routes": [{"respond": {"status": 418, "body": "short"}}]},
        expected=(Expected(418, b"short", attempts=()),),
        received=(),
    ),
    Scenario(
        "header edits, host and path rewrites",
        asks=(Ask(url="http://svc/v1/x?q=1", options={"headers": {"X-Drop": "1"}}),),
        script=(Reply(200, b"ok", [("X-Secret", "s"), ("X-Old", "o")]),),
        service={
            "routes": [
                {
                    "match": {"prefix": "/v1/"},
                    "rewrite": {"prefix": "/", "host": "inner.example"},
                    "request_headers": {"set": {"X-New": "n"}, "remove": ["X-Drop"]},
                    "response_headers": {"set": {"X-Old": "new"}, "remove": ["X-Secret"]},
                }
            ]
        },
        expected=(ok(headers={"x-old": "new", "x-secret": None}),),
        received=("a GET /x?q=1",),
        sees=_headers_are(x_new="n", x_drop=None, host="inner.example"),
    ),
)

SCENARIOS = RESPONSES + UPLOADS + CLIENT_FEATURES
