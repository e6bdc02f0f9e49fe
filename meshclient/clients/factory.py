"""From a mesh's client options to a transport: engines, TLS defaults, proxies and the library.

The one place that reads httpx's ``http2``, ``proxy``, ``verify``, ``cert``,
``trust_env`` and ``limits``, and that knows which engine serves what. It sends
nothing, and no policy is read here.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Collection, ValuesView
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from meshclient import errors
from meshclient.clients.proxies import Forwarding, proxies_for

if TYPE_CHECKING:
    from meshclient.clients.places import Place
    from meshclient.clients.runtime import Runtime

EngineName = Literal["meshclient", "httpcore", "httpx"]
ENGINES = ("meshclient", "httpcore", "httpx")

#: sync or async, and whether it offers HTTP/2 wherever TLS is spoken.
_Key = tuple[str, bool]


class Engines:
    """The engines of one mesh, each made when the first client needs it. Thread-safe.

    ``name``: ``"meshclient"`` (default) is the mesh's own wire; ``"httpcore"`` and
    ``"httpx"`` put that library underneath, for comparison.
    """

    def __init__(self, name: EngineName = "meshclient") -> None:
        if name not in ENGINES:
            raise ValueError(f"engine is one of {', '.join(ENGINES)}, not {name!r}")
        self.name = name
        self._lock = threading.Lock()
        self._made: dict[_Key, Any] = {}
        self._closed = False

    def get(self, colour: str, *, http2: bool = False) -> Any:
        """The engine for ``colour`` (``"sync"`` or ``"async"``).

        Raises :class:`~meshclient.errors.ClosedError` after ``close``.
        """
        # Ours speaks both, as the target says: its clients share connections.
        http2 = http2 and self.name != "meshclient"
        with self._lock:
            # Inside the lock: an engine made after close() took them would stay open.
            if self._closed:
                raise errors.ClosedError("the mesh is closed; make a new one")
            engine = self._made.get((colour, http2))
            if engine is None:
                engine = self._made[colour, http2] = _new_engine(self.name, colour, http2)
        return engine

    def values(self) -> ValuesView[Any]:
        """The engines that exist at this moment."""
        with self._lock:
            return dict(self._made).values()

    def stats(self) -> dict[str, dict[str, str]]:
        """Pools as text, by engine (``sync``, ``async``, ``sync http2`` ...) and target."""
        with self._lock:
            made = dict(self._made)
        return {
            f"{colour} http2" if http2 else colour: {
                str(target): repr(stats) for target, stats in engine.stats().items()
            }
            for (colour, http2), engine in made.items()
        }

    def drain(self, before: Collection[Place], after: Collection[Place]) -> None:
        """Let go of what calls dialled before and do not any more; the rest keeps its
        connections."""
        from meshclient.clients.places import lets_go

        gone = frozenset(before) - frozenset(after)
        for engine in self.values() if gone else ():
            engine.retain([t for t in engine.stats() if not lets_go(t, gone, after)])

    def close(self) -> None:
        """End every connection; calls in flight fail. Idempotent, from any thread."""
        for _, engine in self._take():
            engine.close()

    async def aclose(self) -> None:
        """:meth:`close`, and wait for the sockets of the running loop to be gone."""
        for (colour, _), engine in self._take():
            if colour in ("async", "grpc async"):
                await engine.aclose()
            else:
                engine.close()

    def _take(self) -> list[tuple[_Key, Any]]:
        with self._lock:
            self._closed = True
            made, self._made = self._made, {}
        return list(made.items())

    def after_fork_in_child(self) -> None:
        """The parent's lock and connections are not ours."""
        self._lock = threading.Lock()
        for engine in self._made.values():
            engine.after_fork_in_child()


def _new_engine(name: str, colour: str, http2: bool) -> Any:
    if colour in ("grpc", "grpc async"):  # whatever carries HTTP
        from meshclient.clients.grpc_engines import GrpcAioEngine, GrpcEngine

        return GrpcEngine() if colour == "grpc" else GrpcAioEngine()
    if name == "httpx":
        from meshclient.transport.httpx_engine import HttpxAsyncEngine, HttpxSyncEngine

        return (HttpxSyncEngine if colour == "sync" else HttpxAsyncEngine)(http2=http2)
    if name == "httpcore":
        from meshclient.transport.fallback import HttpcoreAsyncEngine, HttpcoreSyncEngine

        return (HttpcoreSyncEngine if colour == "sync" else HttpcoreAsyncEngine)(http2=http2)
    if colour == "sync":
        from meshclient.transport.sync_engine import SyncEngine

        return SyncEngine()
    from meshclient.transport.async_engine import AsyncEngine

    return AsyncEngine()


def library_of(family: str) -> Any:
    """The client library by name; raises ValueError, or ImportError that says what to install."""
    if family not in ("httpx", "httpx2"):
        raise ValueError(f'family is "httpx" or "httpx2", not {family!r}')
    try:
        return importlib.import_module(family)
    except ImportError as error:
        raise ImportError(
            f'{family} is not installed: pip install "meshclient[{family}]"'
        ) from error


def make_client(
    runtime: Runtime, engines: Engines, colour: str, family: str, options: dict[str, Any]
) -> Any:
    """A client of ``family`` over the mesh; ``options`` are what its user gave."""
    library = library_of(family)
    if "transport" in options:
        raise TypeError("the mesh brings its own transport; drop the transport argument")
    if options.pop("proxies", None):
        raise ValueError("proxies is not supported by mesh clients; use proxy, or mounts")
    if options.pop("limits", None) is not None:
        raise ValueError("connections are the policy's business: see connection: in its file")
    transport = make_transport(
        runtime,
        engines,
        colour,
        verify=options.pop("verify", True),
        cert=options.pop("cert", None),
        trust_env=options.get("trust_env", True),
        http2=bool(options.pop("http2", False)),
        proxy=options.pop("proxy", None),
        unstated_yields="timeout" not in options,
    )
    make = library.Client if colour == "sync" else library.AsyncClient
    return make(transport=transport, **options)


def make_transport(
    runtime: Runtime,
    engines: Engines,
    colour: str,
    *,
    verify: Any,
    cert: Any,
    trust_env: bool,
    http2: bool,
    proxy: Any,
    unstated_yields: bool = False,
) -> Any:
    """The mesh's transport for httpx's own options."""
    engine = engines.get(colour, http2=http2)
    proxies = proxies_for(proxy, trust_env)
    if proxies is not None:
        engine = Forwarding(engine)
    # Built at the first https call: reading the roots costs milliseconds.
    context = partial(_context, verify, cert, trust_env, http2)
    if colour == "sync":
        from meshclient.clients.httpx_sync import MeshTransport

        return MeshTransport(
            runtime, engine, context, unstated_yields, proxies=proxies, http2=http2
        )
    from meshclient.clients.httpx_async import AsyncMeshTransport

    return AsyncMeshTransport(
        runtime, engine, context, unstated_yields, proxies=proxies, http2=http2
    )


def _context(verify: Any, cert: Any, trust_env: bool, http2: bool) -> Any:
    from meshclient.transport.tls import default_context

    return default_context(verify, cert, trust_env=trust_env, http2=http2)


__all__ = ["ENGINES", "EngineName", "Engines", "library_of", "make_client", "make_transport"]
