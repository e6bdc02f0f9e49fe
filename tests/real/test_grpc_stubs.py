"""Generated stubs through the mesh: health checks and server reflection, both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_support import in_flight, policy

import meshclient

health = pytest.importorskip("grpc_health.v1.health")
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    servicer = health.HealthServicer()
    servicer.set("shop.Orders", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        from grpc_reflection.v1alpha import reflection

        names = (health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    except ImportError:
        pass
    bound = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield bound
    server.stop(None)


@pytest.fixture
def mesh(port: int) -> Iterator[Any]:
    with meshclient.Mesh.from_documents([policy(port)]) as made:
        yield made


SERVING = health_pb2.HealthCheckResponse.SERVING
ASK = health_pb2.HealthCheckRequest(service="shop.Orders")


def test_a_health_probe(mesh: Any) -> None:
    with mesh.grpc_channel("orders") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(ASK, timeout=5).status == SERVING
        watch = stub.Watch(ASK)
        assert next(watch).status == SERVING
        watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert in_flight(mesh) == 0


def test_aio_a_health_probe(mesh: Any) -> None:
    async def go() -> None:
        async with mesh.grpc_aio_channel("orders") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(ASK, timeout=5)).status == SERVING
            watch = stub.Watch(ASK)
            assert (await watch.read()).status == SERVING
            watch.cancel()

    asyncio.run(go())
    assert in_flight(mesh) == 0


def test_server_reflection(mesh: Any) -> None:
    database = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    with mesh.grpc_channel("orders") as channel:
        known = database.ProtoReflectionDescriptorDatabase(channel)
        assert "grpc.health.v1.Health" in known.get_services()
