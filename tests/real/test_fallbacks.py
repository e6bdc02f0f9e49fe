"""Fallbacks over real connections: blocking, asyncio, decorated; and what they leave behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import meshclient
from meshclient import errors

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine_support import HttpServer, Recorded, Reply


class Servers:
    """The service ``a``, whose answers are scripted, and ``b``."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.a = HttpServer(self._answer)
        self.b = HttpServer(lambda _request: Reply(200, b"from b"))

    def _answer(self, _request: Recorded) -> Reply:
        return self.replies.pop(0) if self.replies else Reply(500, b"broken")


@contextmanager
def servers() -> Iterator[Servers]:
    both = Servers()
    with both.a, both.b:
        yield both


def mesh_of(both: Servers, fallback: Any, **options: Any) -> meshclient.Mesh:
    a: dict[str, Any] = {
        "endpoints": [{"address": both.a.authority, "labels": {"v": "1"}},
                      {"address": both.b.authority, "labels": {"v": "2"}}],
        "subsets": {"v1": {"labels": {"v": "1"}}, "v2": {"labels": {"v": "2"}}},
        "routes": [{"to": "v1"}],
        "retries": {"attempts": 0},
    }  # fmt: skip
    if fallback is not None:
        a["fallback"] = fallback
    a |= options.pop("service", {})
    b = {"endpoints": [both.b.authority]} | options.pop("b", {})
    return meshclient.Mesh.from_documents([{"version": 1, "services": {"a": a, "b": b}}], **options)


Call = Callable[..., httpx.Response]


def blocking(mesh: meshclient.Mesh, method: str, url: str, **options: Any) -> httpx.Response:
    with mesh.client(trust_env=False, timeout=5) as client:
        return client.request(method, url, **options)


def on_a_loop(mesh: meshclient.Mesh, method: str, url: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with mesh.async_client(trust_env=False, timeout=5) as client:
            return await client.request(method, url, **options)

    return asyncio.run(run())


both_ways = pytest.mark.parametrize("call", [blocking, on_a_loop])


def at_rest(mesh: meshclient.Mesh) -> bool:
    dump = mesh.dump()
    return not any(n for endpoints in dump["clusters"].values() for n in endpoints.values())


@both_ways
def test_a_static_answer_after_a_status_and_after_no_response(call: Call) -> None:
    block = {"respond": {"status": 203, "headers": {"content-type": "text/x"}, "body": "plan b"}}
    with servers() as both, mesh_of(both, block) as mesh:
        both.replies = [Reply(502), Reply(hang_up=True)]
        for flags in ((), ("UC",)):
            response = call(mesh, "GET", "http://a/")
            assert (response.status_code, response.text) == (203, "plan b")
            assert response.headers["x-meshclient-fallback"] == "static"
            assert response.headers["content-type"] == "text/x"
            report = response.extensions["meshclient"]
            assert (report.fallback, report.flags) == ("static", flags)
            assert len(report.attempts) == 1
        assert at_rest(mesh)


@both_ways
def test_good_answers_and_client_errors_pass(call: Call) -> None:
    with servers() as both, mesh_of(both, {"respond": {"status": 200}}) as mesh:
        both.replies = [Reply(200, b"good"), Reply(404, b"none")]
        for status, body in ((200, "good"), (404, "none")):
            response = call(mesh, "GET", "http://a/")
            assert (response.status_code, response.text) == (status, body)
            assert "x-meshclient-fallback" not in response.headers
            assert response.extensions["meshclient"].fallback == ""


@both_ways
def test_only_the_failures_that_are_named(call: Call) -> None:
    block = {"on": [429], "respond": {"status": 200}}
    with servers() as both, mesh_of(both, block) as mesh:
        both.replies = [Reply(503), Reply(429), Reply(hang_up=True)]
        assert call(mesh, "GET", "http://a/").status_code == 503
        assert call(mesh, "GET", "http://a/").status_code == 200
        with pytest.raises(errors.UpstreamReset):
            call(mesh, "GET", "http://a/")


@both_ways
@pytest.mark.parametrize("to", ["b", "v2"])
def test_another_service_or_subset_answers(call: Call, to: str) -> None:
    with servers() as both, mesh_of(both, {"to": to}) as mesh:
        response = call(mesh, "GET", "http://a/x?y=1", headers={"x-t": "1"})
        assert (response.status_code, response.text) == (200, "from b")
        assert response.headers["x-meshclient-fallback"] == "service"
        report = response.extensions["meshclient"]
        assert report.fallback == "service"
        assert f"fallback to {'b' if to == 'b' else 'a/v2'}" in report.notes
        (request,) = both.b.requests
        assert (request.target, request.header("x-t")) == ("/x?y=1", "1")
        assert request.header("host") == ("b" if to == "b" else "a")
        assert at_rest(mesh)


@both_ways
def test_the_other_service_has_its_own_policy_and_no_further_fallback(call: Call) -> None:
    """The response of the first stands where the second fails, too."""
    b = {"fallback": {"respond": {"status": 200}}, "retries": {"attempts": 2, "on": [500]}}
    with servers() as both, mesh_of(both, {"to": "b"}, b=b) as mesh:
        both.b.handler = lambda _request: Reply(500, b"b is broken")
        response = call(mesh, "GET", "http://a/")
        assert response.status_code == 500
        assert len(both.b.requests) == 3, "retried as its own policy says"
        assert response.headers["x-meshclient-fallback"] == "service"
        both.b.stop()
        response = call(mesh, "GET", "http://a/")
        assert (response.status_code, response.text) == (500, "broken")
        notes = response.extensions["meshclient"].notes
        assert any(note.startswith("the fallback failed, too") for note in notes)
        assert at_rest(mesh)


@both_ways
def test_two_services_that_stand_in_for_each_other_do_not_loop(call: Call) -> None:
    with servers() as both, mesh_of(both, {"to": "b"}, b={"fallback": {"to": "a"}}) as mesh:
        both.b.handler = lambda _request: Reply(500)
        call(mesh, "GET", "http://a/")
        assert (len(both.a.requests), len(both.b.requests)) == (1, 1)


@both_ways
def test_a_post_goes_elsewhere_only_when_no_server_has_seen_it(call: Call) -> None:
    with servers() as both, mesh_of(both, {"to": "b"}) as mesh:
        assert call(mesh, "POST", "http://a/", content=b"x").status_code == 500
        assert both.b.requests == []
        both.a.stop()
        assert call(mesh, "POST", "http://a/", content=b"x").text == "from b"
        assert both.b.requests[0].body == b"x"
    with servers() as both, mesh_of(both, {"to": "b", "methods": "any"}) as mesh:
        assert call(mesh, "POST", "http://a/", content=b"x").text == "from b"


@both_ways
@pytest.mark.parametrize("streamed", [False, True])
def test_the_last_good_answer(call: Call, streamed: bool) -> None:
    with servers() as both, mesh_of(both, {"last_good": True}) as mesh:
        body: Any = iter([b"go", b"od"]) if streamed else b"good"
        both.replies = [Reply(200, body, [("etag", "7")]), Reply(500), Reply(hang_up=True)]
        assert call(mesh, "GET", "http://a/x").text == "good"
        for _ in range(2):
            response = call(mesh, "GET", "http://a/x")
            assert (response.status_code, response.text) == (200, "good")
            assert response.headers["x-meshclient-fallback"] == "last-good"
            assert (response.headers["etag"], response.headers["age"]) == ("7", "0")
            assert response.headers["content-length"] == "4"
        assert call(mesh, "GET", "http://a/other").status_code == 500
        assert call(mesh, "HEAD", "http://a/x").status_code == 500
        assert at_rest(mesh)


def test_under_trio() -> None:
    """Connections belong to the run, which therefore closes the mesh."""

    async def run(both: Servers) -> None:
        block = {"last_good": True, "to": "v2"}
        async with (
            mesh_of(both, block) as mesh,
            mesh.async_client(trust_env=False, timeout=5) as client,
        ):
            both.replies = [Reply(200, iter([b"go", b"od"])), Reply(500), Reply(500)]
            assert (await client.get("http://a/x")).text == "good"
            for path, body in (("x", "good"), ("y", "from b")):
                assert (await client.get(f"http://a/{path}")).text == body
            assert at_rest(mesh)

    with servers() as both:
        trio.run(run, both)


@both_ways
def test_what_must_not_be_kept_is_not(call: Call) -> None:
    with servers() as both, mesh_of(both, {"last_good": {"max_entry_bytes": 100}}) as mesh:
        both.replies = [
            Reply(200, b"cookie", [("set-cookie", "a=b")]),
            Reply(200, b"x" * 101),
            Reply(200, b"private"),
        ]
        call(mesh, "GET", "http://a/1")
        call(mesh, "GET", "http://a/2")
        call(mesh, "GET", "http://a/3", headers={"authorization": "me"})
        for path in "123":
            assert call(mesh, "GET", f"http://a/{path}").status_code == 500


def test_a_body_that_was_not_read_to_its_end_is_not_kept() -> None:
    with servers() as both, mesh_of(both, {"last_good": True}) as mesh:
        both.replies = [Reply(200, iter([b"a" * 70_000, b"b" * 70_000]))]
        with (
            mesh.client(trust_env=False) as client,
            client.stream("GET", "http://a/") as response,
        ):
            next(response.iter_raw(10))
        assert blocking(mesh, "GET", "http://a/").status_code == 500
        assert at_rest(mesh)


@both_ways
def test_a_function_is_asked_first_and_may_pass(call: Call) -> None:
    seen: list[Any] = []

    def stand_in(request: httpx.Request, failure: Any) -> httpx.Response | None:
        seen.append(failure)
        return None if request.url.path == "/pass" else httpx.Response(202, json={"a": 1})

    block = {"respond": {"status": 204}}
    with servers() as both, mesh_of(both, block, fallbacks={"a": stand_in}) as mesh:
        response = call(mesh, "GET", "http://a/")
        assert (response.status_code, response.json()) == (202, {"a": 1})
        assert response.headers["x-meshclient-fallback"] == "function"
        assert call(mesh, "GET", "http://a/pass").status_code == 204
        both.a.stop()
        assert call(mesh, "GET", "http://a/").status_code == 202
        assert [type(failure).__name__ for failure in seen] == [
            "Response",
            "Response",
            "ConnectFailed",
        ]
        assert at_rest(mesh)


def test_an_async_function_serves_async_clients() -> None:
    async def stand_in(_request: httpx.Request, failure: httpx.Response) -> httpx.Response:
        await asyncio.sleep(0)
        return httpx.Response(203, content=await failure.aread())

    with servers() as both, mesh_of(both, None, fallbacks={"a": stand_in}) as mesh:
        assert on_a_loop(mesh, "GET", "http://a/").text == "broken"
        with pytest.raises(TypeError, match="blocking client"):
            blocking(mesh, "GET", "http://a/")
        assert at_rest(mesh)


@both_ways
def test_what_a_function_raises_is_raised(call: Call) -> None:
    def stand_in(_request: httpx.Request, _failure: Any) -> httpx.Response:
        raise LookupError("degraded")

    with servers() as both, mesh_of(both, None, fallbacks={"a": stand_in}) as mesh:
        with pytest.raises(LookupError, match="degraded"):
            call(mesh, "GET", "http://a/")
        both.a.stop()
        with pytest.raises(LookupError) as caught:
            call(mesh, "GET", "http://a/")
        assert isinstance(caught.value.__context__, errors.ConnectFailed)
        assert at_rest(mesh)


@both_ways
def test_a_function_that_gives_no_response_is_told_so(call: Call) -> None:
    fallbacks: Any = {"a": lambda _request, _failure: "text"}
    with (
        servers() as both,
        mesh_of(both, None, fallbacks=fallbacks) as mesh,
        pytest.raises(TypeError, match=r"httpx\.Response or None"),
    ):
        call(mesh, "GET", "http://a/")


@both_ways
def test_an_open_breaker_has_the_fallback(call: Call) -> None:
    service = {"circuit_breaker": {"consecutive_failures": 1}}
    with servers() as both, mesh_of(both, {"respond": {"status": 200}}, service=service) as mesh:
        for flags in ((), ("UO",)):
            response = call(mesh, "GET", "http://a/")
            assert (response.status_code, response.extensions["meshclient"].flags) == (200, flags)
        assert len(both.a.requests) == 1


@both_ways
def test_local_replies_count_as_local_failures(call: Call) -> None:
    block = {"on": ["local"], "respond": {"status": 200, "body": "static"}}
    with servers() as both, mesh_of(both, block, local_replies="respond") as mesh:
        assert call(mesh, "GET", "http://a/").status_code == 500, "an answer of the service's"
        both.a.stop()
        assert call(mesh, "GET", "http://a/").text == "static"


@both_ways
def test_an_injected_fault_shows_the_fallback(call: Call) -> None:
    service = {"fault": {"abort": {"status": 503}}}
    with servers() as both, mesh_of(both, {"to": "v2"}, service=service) as mesh:
        assert call(mesh, "GET", "http://a/").text == "from b"


@both_ways
def test_the_callers_patience_covers_both(call: Call) -> None:
    """The time that the first took is not there for the second."""
    with servers() as both, mesh_of(both, {"to": "b"}, service={"timeout": "250ms"}) as mesh:
        both.a.handler = both.b.handler = lambda _request: Reply(delay_s=2.0)
        with pytest.raises(httpx.ReadTimeout) as caught:
            call(mesh, "GET", "http://a/", timeout=0.4)
        assert isinstance(caught.value, errors.RouteTimeout), "that of the first"
        assert any("too" in note for note in caught.value.report.notes)
        assert at_rest(mesh)


def test_names_and_functions_are_checked() -> None:
    wrong: Any = {"a": 5}
    with pytest.raises(TypeError, match="fallbacks maps names"):
        meshclient.Mesh.from_documents([{"version": 1}], fallbacks=wrong)


def test_kept_answers_are_not_the_childs() -> None:
    """A fork may come while another thread holds their lock."""
    with servers() as both, mesh_of(both, {"last_good": True}) as mesh:
        both.replies = [Reply(200, b"good")]
        assert blocking(mesh, "GET", "http://a/").text == "good"
        (kept,) = mesh._runtime._last_good.values()
        kept._lock.acquire()
        try:
            child = os.fork()
            if child == 0:
                os._exit(0 if not mesh._runtime._last_good else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            kept._lock.release()


# -- decorated functions ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["blocking", "async", "mixed"])
def test_a_decorated_function_has_its_fallback(kind: str) -> None:
    seen: list[Any] = []

    def stand_in(failure: Any, order: int, *, fast: bool = False) -> str:
        seen.append((failure, order, fast))
        return "stand-in"

    async def async_stand_in(failure: Any, order: int, *, fast: bool = False) -> str:
        return stand_in(failure, order, fast=fast)

    def broken(order: int, *, fast: bool = False) -> str:
        raise ConnectionResetError(f"{order} {fast}")

    async def async_broken(order: int, *, fast: bool = False) -> str:
        return broken(order, fast=fast)

    with servers() as both, mesh_of(both, None) as mesh:
        fallback = async_stand_in if kind == "async" else stand_in
        function = broken if kind == "blocking" else async_broken
        policy = mesh.call("a", fallback=fallback)
        for run in (policy(function), lambda *a, **k: _one(policy, function, *a, **k)):
            result: Any = run(7, fast=True)
            if inspect.isawaitable(result):

                async def wait(result: Any = result) -> Any:
                    return await result

                result = asyncio.run(wait())
            assert result == "stand-in"
        assert [(type(failure), *rest) for failure, *rest in seen] == [
            (ConnectionResetError, 7, True)
        ] * 2
        assert at_rest(mesh)


def _one(policy: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
    single = policy.arun if inspect.iscoroutinefunction(function) else policy.run
    return single(function, *args, **kwargs)


def test_a_result_that_is_a_failure_and_a_refusal_have_the_fallback_too() -> None:
    with servers() as both, mesh_of(both, None) as mesh:
        failures: list[Any] = []

        def stand_in(failure: Any) -> str:
            failures.append(failure)
            return "stand-in"

        policy = mesh.call("a", fallback=stand_in)
        broken: Callable[[], Any] = lambda: httpx.Response(503)  # noqa: E731
        assert policy.run(broken) == "stand-in"
        assert policy.run(lambda: "good") == "good"
        nobody = mesh.call("http://a:1/", fallback=lambda failure: type(failure).__name__)
        assert nobody.run(lambda: "good") == "good"
        assert failures[0].status_code == 503


def test_a_mistake_of_the_functions_own_has_none() -> None:
    with servers() as both, mesh_of(both, None) as mesh:
        policy = mesh.call("a", fallback=lambda _failure: "stand-in")
        with pytest.raises(ZeroDivisionError):
            policy.run(lambda: 1 / 0)
        with pytest.raises(TypeError, match="function of the failure"):
            mesh.call("a", fallback=5)
