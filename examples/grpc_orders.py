"""gRPC through the mesh, blocking and asyncio: run it, no network and no file is needed.

Three servers on this machine, of which one is unwell for its first calls; the policy sends
each call where it is due and repeats what failed. A generated stub takes these channels as
it takes any other: ``OrdersStub(channel)``.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from concurrent import futures
from typing import Any

import grpc

import meshclient


def serialize(message: Any) -> bytes:
    return json.dumps(message).encode()


class Orders(grpc.GenericRpcHandler):
    """The service ``shop.Orders``, by hand; the unwell one fails its first calls."""

    def __init__(self, name: str, failures: int = 0) -> None:
        self._name = name
        self._failures = failures

    def service(self, details: Any) -> Any:
        methods = {
            "/shop.Orders/Get": (grpc.unary_unary_rpc_method_handler, self.get),
            "/shop.Orders/List": (grpc.unary_stream_rpc_method_handler, self.list),
        }
        if details.method not in methods:
            return None
        make, action = methods[details.method]
        return make(action, request_deserializer=json.loads, response_serializer=serialize)

    def get(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self._failures:
            self._failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return {"id": request["id"], "from": self._name}

    def list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        for number in range(request["count"]):
            yield {"id": number, "from": self._name}


class OrdersStub:
    """What protoc generates, by hand: it knows a channel, and nothing of the mesh."""

    def __init__(self, channel: Any) -> None:
        words: Any = {"request_serializer": serialize, "response_deserializer": json.loads}
        self.get = channel.unary_unary("/shop.Orders/Get", **words)
        self.list = channel.unary_stream("/shop.Orders/List", **words)


def serve(name: str, failures: int = 0) -> tuple[Any, str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Orders(name, failures),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def blocking(mesh: meshclient.Mesh) -> None:
    with mesh.grpc_channel("orders:50051") as channel:
        orders = OrdersStub(channel)
        seen = Counter(orders.get({"id": number}, timeout=2)["from"] for number in range(30))
        print("blocking:", dict(sorted(seen.items())))
        answer, call = orders.get.with_call({"id": 7})
        print(f"order {answer['id']} came from {call.report.endpoint}")
        print("a stream of", len(list(orders.list({"count": 5}))), "orders")


async def asynchronous(mesh: meshclient.Mesh) -> None:
    async with mesh.grpc_aio_channel("orders:50051") as channel:
        orders = OrdersStub(channel)
        answers = await asyncio.gather(*(orders.get({"id": number}) for number in range(30)))
        print("asyncio:", len(answers), "of 30 calls answered")
        print("a stream of", len([order async for order in orders.list({"count": 5})]), "orders")


def main() -> None:
    servers, endpoints = zip(serve("a"), serve("b"), serve("c", failures=3), strict=True)
    policy = {
        "version": 1,
        "services": {
            "orders": {
                "endpoints": list(endpoints),
                "load_balancing": "round_robin",
                "retries": {"attempts": 3, "on": ["unavailable", "connect-failure"]},
            }
        },
    }
    with meshclient.Mesh.from_documents([policy]) as mesh:
        blocking(mesh)
        asyncio.run(asynchronous(mesh))
    for server in servers:
        server.stop(None)


if __name__ == "__main__":
    main()
