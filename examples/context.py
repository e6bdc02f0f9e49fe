"""Two ASGI services in one file: the trace of a request and its deadline go along with its calls.

``front`` calls ``back`` for each request. The first request is followed by its trace; the second
comes from a caller who waits 300 ms only, while ``back`` takes its time.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

import meshclient
from meshclient.server import ASGIMiddleware

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def policy(endpoint: str) -> dict[str, Any]:
    return {
        "version": 1,
        "propagation": {"headers": ["end-user"]},
        "services": {"back": {"endpoints": [endpoint], "timeout": "5s"}},
    }


async def answer(send: Any, status: int, value: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def back(scope: Any, _receive: Any, send: Any) -> None:
    """Tells which headers it got; slow under /slow."""
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    await answer(send, 200, {n.decode(): v.decode() for n, v in scope["headers"]})


def front(client: httpx.AsyncClient) -> Any:
    """Knows nothing of traces, users or deadlines, and loses none of them."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        try:
            response = await client.get(f"http://back{scope['path']}")
            await answer(send, response.status_code, response.json())
        except meshclient.DeadlineExceeded as error:
            left = meshclient.context.remaining()
            await answer(send, 504, {"error": str(error), "left": left})

    return app


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells by this alone
            await asyncio.sleep(0.01)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


async def main() -> None:
    async with (
        serving(back) as back_at,
        meshclient.Mesh.from_documents([policy(back_at)]) as mesh,
        mesh.async_client() as to_back,
        serving(ASGIMiddleware(front(to_back), mesh)) as front_at,
        httpx.AsyncClient(base_url=f"http://{front_at}", timeout=10) as user,
    ):
        headers = {"traceparent": TRACE, "end-user": "jason"}
        seen = (await user.get("/", headers=headers)).json()
        for name in ("traceparent", "end-user", "x-request-id", "x-envoy-expected-rq-timeout-ms"):
            print(f"back got {name}: {seen[name]}")

        headers["x-envoy-expected-rq-timeout-ms"] = "300"
        response = await user.get("/slow", headers=headers)
        print(f"with 300 ms: {response.status_code} after {response.elapsed.total_seconds():.1f} s")
        print(response.json()["error"])


if __name__ == "__main__":
    asyncio.run(main())
