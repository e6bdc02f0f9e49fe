"""A service's policy around plain functions: run it, no network and no file is needed.

Two servers on this machine, of which one refuses every second connection; the policy
finds the other one, for a blocking function and for an async one.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import meshclient

ANSWER = b"42\n"


def serve(failing: bool) -> int:
    """A server that writes a number; a failing one hangs up on every second caller."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        for number in range(1_000_000):
            connection, _ = listener.accept()
            with connection:
                if not (failing and number % 2):
                    connection.sendall(ANSWER)

    threading.Thread(target=work, daemon=True).start()
    return int(listener.getsockname()[1])


POLICY = {
    "version": 1,
    "services": {
        "numbers": {
            "endpoints": [f"127.0.0.1:{serve(False)}", f"127.0.0.1:{serve(True)}"],
            "load_balancing": "round_robin",
            "timeout": "2s",
            "retries": {"attempts": 3, "on": ["connect-failure", "reset"]},
        }
    },
}

mesh = meshclient.Mesh.from_documents([POLICY])
tries: list[str] = []


@mesh.call("numbers", idempotent=True)
def fetch(endpoint=None) -> int:  # type: ignore[no-untyped-def]
    """One number, over a plain socket."""
    tries.append(str(endpoint))
    with socket.create_connection((endpoint.address, endpoint.port), timeout=1.0) as connection:
        data = connection.recv(16)
    if not data:
        raise ConnectionResetError("the server hung up")
    return int(data)


@mesh.call("numbers", idempotent=True)
async def fetch_async(endpoint=None) -> int:  # type: ignore[no-untyped-def]
    """The same for asyncio."""
    tries.append(str(endpoint))
    reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
    try:
        data = await reader.read(16)
    finally:
        writer.close()
        await writer.wait_closed()
    if not data:
        raise ConnectionResetError("the server hung up")
    return int(data)


async def main() -> list[int]:
    """Twenty calls at once."""
    return list(await asyncio.gather(*(fetch_async() for _ in range(20))))


if __name__ == "__main__":
    with mesh:
        blocking = [fetch() for _ in range(20)]
        waiting = asyncio.run(main())
        right = (blocking + waiting).count(42)
        print(f"{right} of 40 calls answered, after {len(tries)} tries")
