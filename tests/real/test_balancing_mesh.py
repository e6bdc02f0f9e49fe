"""Where calls go, as a user sees it: policy documents, real servers, httpx sync and async."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from life_support import wait_for
from servers.http import HttpServer, Recorded, Reply

import meshclient.context
from meshclient import Mesh

HOST = "svc.test"


def named(name: str) -> Callable[[Recorded], Reply]:
    return lambda _request: Reply(200, name)


@contextmanager
def servers(names: str) -> Iterator[list[HttpServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(HttpServer(named(name), name=name)) for name in names]


def native(running: Sequence[HttpServer], *placed: dict[str, Any], **fields: Any) -> Any:
    """A service on ``running``; ``placed`` says more of its endpoints, one by one."""
    more = placed or ({},) * len(running)
    endpoints = [{"address": s.authority, **extra} for s, extra in zip(running, more, strict=True)]
    return [{"version": 1, "services": {HOST: {"endpoints": endpoints, **fields}}}]


def istio(running: Sequence[HttpServer], localities: Sequence[str], **policy: Any) -> Any:
    """The same as a ServiceEntry with a DestinationRule."""
    endpoints: list[dict[str, Any]] = [
        {
            "address": "127.0.0.1",
            "ports": {"http": s.port},
            **({"locality": where} if where else {}),
        }
        for s, where in zip(running, localities, strict=True)
    ]
    return [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "e", "namespace": "default"},
            "spec": {
                "hosts": [HOST],
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "resolution": "STATIC",
                "endpoints": endpoints,
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "d", "namespace": "default"},
            "spec": {"host": HOST, "trafficPolicy": policy},
        },
    ]


def asked(mesh: Mesh, how: str, requests: Sequence[dict[str, Any]]) -> list[str]:
    """The bodies of ``requests``, by a client that keeps no cookies of its own."""
    if how == "sync":
        with mesh.client(trust_env=False) as client:
            return [_send(client, request).text for request in requests]

    async def run() -> list[str]:
        async with mesh.async_client(trust_env=False) as client:
            found = []
            for request in requests:
                client.cookies.clear()
                found.append((await client.get(**_where(request))).text)
            return found

    return asyncio.run(run())


def _send(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    client.cookies.clear()
    return client.get(**_where(request))


def _where(request: dict[str, Any]) -> dict[str, Any]:
    return {"url": f"http://{HOST}/", **request}


HASHED = {
    "native ring": lambda s: native(
        s, load_balancing={"policy": "ring_hash", "hash_on": {"header": "x-user"}}
    ),
    "native maglev": lambda s: native(
        s, load_balancing={"policy": "maglev", "hash_on": {"header": "x-user"}}
    ),
    "istio": lambda s: istio(
        s, [""] * 3, loadBalancer={"consistentHash": {"httpHeaderName": "x-user"}}
    ),
}


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("form", HASHED)
def test_a_user_stays_with_an_endpoint_and_users_spread(form: str, how: str) -> None:
    requests = [{"headers": {"x-user": f"u{n % 30}"}} for n in range(90)]
    with servers("abc") as running, Mesh.from_documents(HASHED[form](running)) as mesh:
        found = asked(mesh, how, requests)
        said = mesh.explain("GET", f"http://{HOST}/", headers={"x-user": "u7"})
        at = running["abc".index(found[7])].authority
    assert found[:30] == found[30:60] == found[60:]
    assert set(found) == set("abc")
    assert f"-> {at}" in str(said), "explain names the endpoint that the hash means"


@pytest.mark.parametrize("form", ["native", "istio"])
def test_a_cookie_is_made_and_brings_its_caller_back(form: str) -> None:
    with servers("abc") as running:
        cookie = {"name": "home", "ttl": "60s", "path": "/"}
        documents = (
            istio(running, [""] * 3, loadBalancer={"consistentHash": {"httpCookie": cookie}})
            if form == "istio"
            else native(
                running,
                load_balancing={
                    "policy": "ring_hash",
                    "hash_on": {"cookie": "home", "ttl": "60s", "path": "/"},
                },
            )
        )
        with Mesh.from_documents(documents) as mesh:
            homes = set()
            for _ in range(25):
                with mesh.client(trust_env=False) as client:
                    first = client.get(f"http://{HOST}/")
                    assert "Max-Age=60; Path=/; HttpOnly" in first.headers["set-cookie"]
                    again = client.get(f"http://{HOST}/")
                    assert "set-cookie" not in again.headers
                    assert again.text == first.text
                    homes.add(first.text)
    assert homes == set("abc")


@pytest.mark.parametrize("how", ["sync", "async"])
def test_functions_are_hashed_by_what_their_caller_put_into_the_context(how: str) -> None:
    settings = {"policy": "maglev", "hash_on": {"context": "tenant"}}
    with (
        servers("abc") as running,
        Mesh.from_documents(native(running, load_balancing=settings)) as mesh,
    ):

        @mesh.call(HOST)
        def blocking(endpoint: Any = None) -> int:
            return int(endpoint.port)

        @mesh.call(HOST)
        async def loop(endpoint: Any = None) -> int:
            return int(endpoint.port)

        def ports() -> list[int]:
            found = []
            for tenant in [f"t{n}" for n in range(20)] * 2:
                with meshclient.context.values({"tenant": tenant}):
                    found.append(blocking() if how == "sync" else asyncio.run(loop()))
            return found

        found = ports()
        with meshclient.context.values({"tenant": "t3"}):
            same = set(asked(mesh, "sync", [{}] * 4))
    assert found[:20] == found[20:]
    assert set(found) == {server.port for server in running}
    assert same == {"abc"[[server.port for server in running].index(found[3])]}


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_session_by_header_goes_back_where_it_came_from(how: str) -> None:
    with servers("abc") as running:
        settings = {"policy": "round_robin", "session": {"header": "x-home"}}
        with Mesh.from_documents(native(running, load_balancing=settings)) as mesh:
            with mesh.client(trust_env=False) as client:
                first = client.get(f"http://{HOST}/")
            home = {"headers": {"x-home": first.headers["x-home"]}}
            assert set(asked(mesh, how, [home] * 9)) == {first.text}
            assert set(asked(mesh, how, [{}] * 9)) == set("abc")


def test_labels_of_a_route_choose_a_subset_and_nothing_fits_is_503() -> None:
    stages = [{"labels": {"stage": s}} for s in ("prod", "prod", "dev")]
    routes = [
        {"match": {"path": "/prod"}, "subset": {"stage": "prod"}},
        {"match": {"path": "/dev"}, "subset": {"stage": "dev"}},
        {"match": {"path": "/none"}, "subset": {"stage": "none"}},
        {},
    ]
    subsets = {"subset_selectors": [{"keys": ["stage"]}], "fallback_policy": "any_endpoint"}
    strict = {
        "subset_selectors": [{"keys": ["stage"], "fallback_policy": "no_fallback"}],
        "fallback_policy": "any_endpoint",
    }
    with servers("abc") as running:
        for selection, nothing in ((subsets, set("abc")), (strict, {"no healthy upstream"})):
            settings = {"policy": "round_robin", "subsets": selection}
            documents = native(running, *stages, load_balancing=settings, routes=routes)
            with Mesh.from_documents(documents, local_replies="respond") as mesh:

                def go(path: str, mesh: Mesh = mesh) -> set[str]:
                    url = f"http://{HOST}{path}"
                    return set(asked(mesh, "sync", [{"url": url}] * 9))

                assert go("/prod") == {"a", "b"}
                assert go("/dev") == {"c"}
                assert go("/other") == set("abc")
                assert go("/none") == nothing


def weights(mesh: Mesh) -> list[int]:
    (rows,) = mesh.dump()["endpoints"].values()
    return [row["weight"] for row in rows]


NODE = {"locality": "eu/b/1"}


def test_istio_keeps_calls_near_and_fails_over_when_the_near_ones_fail() -> None:
    outlier = {"consecutive5xxErrors": 1, "interval": "100ms", "maxEjectionPercent": 100}
    policy = {
        "outlierDetection": {**outlier, "baseEjectionTime": "60s"},
        "loadBalancer": {"simple": "ROUND_ROBIN", "localityLbSetting": {"enabled": True}},
    }
    with servers("abc") as running:
        documents = istio(running, ["us/a/1", "eu/b/1", "eu/b/1"], **policy)
        documents.append({"version": 1, "node": NODE, "services": {}})
        with Mesh.from_documents(documents) as mesh:
            assert Counter(asked(mesh, "sync", [{}] * 10)) == {"b": 5, "c": 5}
            for server in running[1:]:
                server.handler = lambda _request: Reply(500)
            asked(mesh, "sync", [{}] * 4)
            wait_for(lambda: ejected(mesh) == 2, "both near ones are ejected")
            assert set(asked(mesh, "async", [{}] * 10)) == {"a"}
            text = str(mesh.explain("GET", f"http://{HOST}/"))
    assert "failed_outlier_check" in text
    assert "ejected for" in text


def ejected(mesh: Mesh) -> int:
    found = mesh.dump()["health"]["outlier_detection"].values()
    return sum(stats["ejections_active"] for stats in found)


DISTRIBUTED = {
    "native": lambda s, places: native(
        s,
        *({"locality": place} for place in places),
        load_balancing={
            "policy": "round_robin",
            "distribute": [{"from": "eu/b/*", "to": {"us/a/*": 80, "eu/b/*": 20}}],
        },
    ),
    "istio": lambda s, places: istio(
        s,
        places,
        loadBalancer={
            "simple": "ROUND_ROBIN",
            "localityLbSetting": {
                "distribute": [{"from": "eu/b/*", "to": {"us/a/*": 80, "eu/b/*": 20}}]
            },
        },
    ),
}


@pytest.mark.parametrize("form", DISTRIBUTED)
def test_places_share_as_the_policy_distributes(form: str) -> None:
    places = ["us/a/1", "eu/b/1", "ap/c/1"]
    with servers("abc") as running:
        documents = DISTRIBUTED[form](running, places)
        documents.append({"version": 1, "node": NODE, "services": {}})
        with Mesh.from_documents(documents) as mesh:
            found = Counter(asked(mesh, "sync", [{}] * 100))
            rows = next(r for r in mesh.dump()["endpoints"].values() if r)
    assert abs(found["a"] - 80) <= 1
    assert abs(found["b"] - 20) <= 1
    # As in Istio, the endpoints of other places are not there at all.
    assert [round(row["locality_load"]) for row in rows] == [80, 20]
