"""A web service in front of a gRPC service: a generated stub, both colours, one deadline.

An ASGI application asks gRPC servers for each request; with FastAPI it is the same, with
``app.add_middleware(ASGIMiddleware, mesh=mesh)``. The stub is the one that protoc generated for
``grpc.health.v1``, out of ``pip install grpcio-health-checking``. The second request comes from a
caller who waits 300 ms only, while the server takes its time.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent import futures
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

import meshclient
from meshclient.server import ASGIMiddleware


class Slow(health_pb2_grpc.HealthServicer):
    """Knows two services, one of which takes long to look at."""

    def Check(self, request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.service == "warehouse":
            time.sleep(1)
        return health_pb2.HealthCheckResponse(status="SERVING")


def serve() -> tuple[Any, str]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    health_pb2_grpc.add_HealthServicer_to_server(Slow(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def front(channel: grpc.aio.Channel) -> Any:
    """Knows nothing of deadlines, endpoints or retries."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        request = health_pb2.HealthCheckRequest(service=scope["path"].strip("/"))
        try:
            answer = await stub.Check(request)
            status, body = 200, {"answer": answer.status}
        except grpc.aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            status, body = 504 if late else 503, {"error": error.code().name}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    return app


async def requests(mesh: meshclient.Mesh) -> None:
    async with mesh.grpc_aio_channel("stock:50051") as channel:
        transport = httpx.ASGITransport(ASGIMiddleware(front(channel), mesh))
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as browser:
            answer = await browser.get("/orders")
            print("in time:", answer.status_code, answer.text)
            limit = {"x-envoy-expected-rq-timeout-ms": "300"}
            answer = await browser.get("/warehouse", headers=limit)
            print("too late:", answer.status_code, answer.text)


def main() -> None:
    servers, endpoints = zip(serve(), serve(), strict=True)
    policy = {
        "version": 1,
        "services": {
            "stock": {
                "endpoints": list(endpoints),
                "retries": {"attempts": 2, "on": ["unavailable", "connect-failure"]},
            }
        },
    }
    with meshclient.Mesh.from_documents([policy]) as mesh:
        asyncio.run(requests(mesh))
        with mesh.grpc_channel("stock:50051") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            print("blocking:", answer.status)
    for server in servers:
        server.stop(None)


if __name__ == "__main__":
    main()
