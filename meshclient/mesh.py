"""``Mesh``: the one object a user holds.

Ties the control side (files, discovery, snapshots) to the drivers. Nothing is
decided here, and nothing heavy is imported before it is used.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from meshclient import errors
from meshclient.clients.runtime import Runtime
from meshclient.control import Controller, after_fork
from meshclient.model.endpoint import Locality, labels_of
from meshclient.model.request import head_of
from meshclient.model.snapshot import MeshConfig, Node, OutboundMode, Snapshot
from meshclient.model.source import Diagnostic
from meshclient.plane import PASSTHROUGH, Plane, build_plane, forked_plane

if TYPE_CHECKING:
    import httpx

    from meshclient.explain import Explanation
    from meshclient.model.events import Event
    from meshclient.resilience import RetryStrategy

LocalReplies = Literal["raise", "respond"]

#: Where ``from_env`` looks for policy files (separated as in ``PATH``).
CONFIG_VARIABLE = "MESHCLIENT_CONFIG"
_XDS_VARIABLES = ("GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG")


def _random64() -> int:
    return _draw(64)


# Not a secret: load balancing and jitter.
_generator = random.Random()  # noqa: S311
_draw = _generator.getrandbits
# A child must not repeat its parent's choices.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_generator.seed)


class Mesh:
    """Discovery, load balancing, retries and routing for the clients of one process.

    Make one per process with :meth:`from_file`, :meth:`from_documents` or
    :meth:`from_env`; it is safe to share between threads and event loops, and
    it survives a fork. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        load: Callable[[], MeshConfig],
        *,
        watch: Iterable[str | os.PathLike[str]] = (),
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], int] = _random64,
    ) -> None:
        """Prefer the class methods. ``load`` is called now, and again when a
        path of ``watch`` changes; it raises :class:`~meshclient.errors.ConfigError`.

        ``clock`` (monotonic seconds) and ``rand`` (unsigned 64-bit numbers) are for tests.
        """
        if local_replies not in ("raise", "respond"):
            raise ValueError(f'local_replies is "raise" or "respond", not {local_replies!r}')
        strategies = _checked(retry_strategies)
        self._lock = threading.Lock()
        self._engines: dict[str, Any] = {}
        self._plane: Plane  # the last one built; set by the controller through _build
        self._controller: Controller[Plane] = Controller(
            load, self._build, watch=tuple(os.fspath(path) for path in watch) or None
        )
        self._publisher = self._controller.publisher
        self._runtime = Runtime(
            self._publisher,
            clock,
            rand,
            respond=local_replies == "respond",
            strategies=strategies,
        )
        after_fork.register(self)

    # -- construction --------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        *paths: str | os.PathLike[str],
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        locality: str | None = None,
        outbound: OutboundMode | None = None,
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
        watch: bool = True,
    ) -> Self:
        """A mesh from policy files and directories, reloaded when they change.

        ``namespace``, ``labels`` and ``locality`` (``region/zone/sub_zone``) say
        who is calling; each that is given takes the place of what the files' own
        ``node`` says of it. ``outbound`` overrides what the files say.
        ``local_replies``: ``"raise"`` (default) or ``"respond"``.
        ``retry_strategies``: by the name of the virtual host. ``watch=False``
        reads once.

        Raises :class:`~meshclient.errors.ConfigError` with every error of every
        file, ValueError for arguments that mean nothing.
        """
        from meshclient.config import load_paths

        if not paths:
            raise ValueError("from_file needs at least one file or directory")
        texts = [os.fspath(path) for path in paths]

        def load(node: Node | None = None) -> MeshConfig:
            return load_paths(texts, namespace=namespace, node=node, outbound=outbound)

        return cls(
            _with_caller(load, labels, locality),
            watch=texts if watch else (),
            local_replies=local_replies,
            retry_strategies=retry_strategies,
        )

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Mapping[str, Any]],
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        locality: str | None = None,
        outbound: OutboundMode | None = None,
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
    ) -> Self:
        """A mesh from parsed documents, for tests and notebooks. See :meth:`from_file`."""
        from meshclient.config import load_documents

        given = documents if isinstance(documents, Mapping) else list(documents)

        def load(node: Node | None = None) -> MeshConfig:
            return load_documents(given, namespace=namespace, node=node, outbound=outbound)

        config = _with_caller(load, labels, locality)()
        return cls(lambda: config, local_replies=local_replies, retry_strategies=retry_strategies)

    @classmethod
    def from_config(
        cls,
        config: MeshConfig,
        *,
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
    ) -> Self:
        """A mesh from model values; for programs that make their own policy."""
        return cls(lambda: config, local_replies=local_replies, retry_strategies=retry_strategies)

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A mesh from the paths in ``MESHCLIENT_CONFIG`` (separated like ``PATH``).

        ``options`` are those of :meth:`from_file`. Raises
        :class:`~meshclient.errors.ConfigError` where the variable is not set.
        """
        value = os.environ.get(CONFIG_VARIABLE, "")
        paths = [path for path in value.split(os.pathsep) if path]
        if paths:
            return cls.from_file(*paths, **options)
        raise errors.ConfigError([_no_environment()])

    # -- life ----------------------------------------------------------------

    def wait_ready(self, timeout: float = 5.0) -> None:
        """Block until every source of endpoints has answered once.

        Calls need not wait for it. Raises :class:`~meshclient.errors.NotReadyError`
        after ``timeout`` seconds.
        """
        if not self._publisher.wait(timeout):
            raise errors.NotReadyError(self._pending(timeout))

    async def async_wait_ready(self, timeout: float = 5.0) -> None:
        """:meth:`wait_ready` for asyncio."""
        if not await self._publisher.async_wait(timeout):
            raise errors.NotReadyError(self._pending(timeout))

    def _pending(self, timeout: float) -> str:
        waiting = sorted(
            f"{cluster.name} ({cluster.discovery_error})"
            for cluster in self.snapshot.clusters.values()
            if cluster.discovery_error
        )
        return f"no first answer within {timeout:g} s: {', '.join(waiting) or 'the control thread'}"

    def close(self) -> None:
        """Stop the control thread and close every connection. Idempotent.

        Calls in flight on other threads end with an error; new ones raise
        :class:`~meshclient.errors.ClosedError`.
        """
        self._runtime.closed = True
        self._controller.close()
        engines = self._take_engines()
        if "sync" in engines:
            engines["sync"].close()
        if "async" in engines:
            engines["async"].close()

    async def aclose(self) -> None:
        """:meth:`close` for asyncio; the event loop is not blocked by the joining."""
        self._runtime.closed = True
        engines = self._take_engines()
        if "async" in engines:
            await engines["async"].aclose()
        await self._controller.aclose()
        if "sync" in engines:
            engines["sync"].close()

    def _take_engines(self) -> dict[str, Any]:
        with self._lock:
            engines, self._engines = self._engines, {}
        return engines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # -- clients -------------------------------------------------------------

    def client(self, *, family: str = "httpx", **options: Any) -> httpx.Client:
        """An ``httpx.Client`` whose calls follow the policy.

        ``options`` are httpx's own. ``verify``, ``cert`` and ``trust_env`` hold for the
        ``https`` connections that are made; ``limits`` has no effect, the policy's
        limits hold. ``family="httpx2"`` makes a client of that library.

        Raises TypeError for a ``transport``, ValueError for ``http2``, ``proxy`` and
        an unknown ``family``, :class:`~meshclient.errors.ClosedError` once the mesh is closed.
        """
        library = _library(family)
        transport = self._transport_for(options, "sync")
        return library.Client(transport=transport, **options)  # type: ignore[no-any-return]

    def async_client(self, *, family: str = "httpx", **options: Any) -> httpx.AsyncClient:
        """:meth:`client` for asyncio."""
        library = _library(family)
        transport = self._transport_for(options, "async")
        return library.AsyncClient(transport=transport, **options)  # type: ignore[no-any-return]

    def transport(
        self, *, verify: Any = True, cert: Any = None, trust_env: bool = True
    ) -> httpx.BaseTransport:
        """A transport for an ``httpx.Client`` (or ``httpx2.Client``) of your own."""
        return self._make_transport("sync", verify, cert, trust_env, unstated_yields=False)  # type: ignore[no-any-return]

    def async_transport(
        self, *, verify: Any = True, cert: Any = None, trust_env: bool = True
    ) -> httpx.AsyncBaseTransport:
        """A transport for an ``httpx.AsyncClient`` (or ``httpx2.AsyncClient``) of your own."""
        return self._make_transport("async", verify, cert, trust_env, unstated_yields=False)  # type: ignore[no-any-return]

    def _transport_for(self, options: dict[str, Any], colour: str) -> Any:
        if "transport" in options:
            raise TypeError("the mesh brings its own transport; drop the transport argument")
        for name in ("http2", "proxy", "proxies"):
            if options.get(name):
                raise ValueError(f"{name} is not supported by mesh clients yet; drop it")
            options.pop(name, None)
        if options.pop("limits", None) is not None:
            raise ValueError("connections are the policy's business: see connection: in its file")
        unstated = "timeout" not in options
        return self._make_transport(
            colour,
            options.pop("verify", True),
            options.pop("cert", None),
            options.get("trust_env", True),
            unstated_yields=unstated,
        )

    def _make_transport(
        self, colour: str, verify: Any, cert: Any, trust_env: bool, unstated_yields: bool
    ) -> Any:
        from meshclient.transport.tls import default_context

        # Built at the first https call: reading the roots costs milliseconds.
        context = partial(default_context, verify, cert, trust_env=trust_env)
        engine = self._engine(colour)
        if colour == "sync":
            from meshclient.clients.httpx_sync import MeshTransport

            return MeshTransport(self._runtime, engine, context, unstated_yields)
        from meshclient.clients.httpx_async import AsyncMeshTransport

        return AsyncMeshTransport(self._runtime, engine, context, unstated_yields)

    def _engine(self, colour: str) -> Any:
        with self._lock:
            # Inside the lock: an engine made after close() took them would stay open.
            if self._runtime.closed:
                raise errors.ClosedError("the mesh is closed; make a new one")
            engine = self._engines.get(colour)
            if engine is None:
                engine = self._engines[colour] = _new_engine(colour)
        return engine

    # -- look inside ---------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """What new calls decide on. Immutable; keep it as long as you like."""
        return self._publisher.current()

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Have ``callback`` told of reloads, rejections and endpoint changes.

        Events come in order, on a thread of the mesh. Returns a function that
        ends the subscription.
        """
        return self._controller.subscribe(callback)

    def explain(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> Explanation:
        """What the policy would make of a request. Sends nothing.

        Raises ValueError for a URL without scheme or host.
        """
        from meshclient.explain import explain

        return explain(self._publisher.plane, head_of(method, url, headers))

    def dump(self) -> dict[str, Any]:
        """Snapshot version, endpoints with their in-flight counts, and pools; plain values.

        The hosts that no policy knows are under ``PassthroughCluster``.
        """
        plane = self._publisher.plane
        states = {**plane.clusters, PASSTHROUGH: plane.passthrough}
        clusters = {
            name: {str(s.endpoint): s.active for s in state.live_states()}
            for name, state in states.items()
        }
        return {
            "version": plane.snapshot.version,
            "clusters": clusters,
            "pools": {
                colour: {str(target): repr(stats) for target, stats in engine.stats().items()}
                for colour, engine in list(self._engines.items())
            },
        }

    def __repr__(self) -> str:
        state = "closed" if self._runtime.closed else "open"
        return f"<Mesh {state} {self.snapshot!r}>"

    # -- plumbing ------------------------------------------------------------

    def _build(self, snapshot: Snapshot, previous: Plane | None) -> Plane:
        plane = self._plane = build_plane(snapshot, previous, _random64, time.time)
        if previous is not None:
            gone = _addresses(previous) - _addresses(plane)
            for engine in list(self._engines.values()) if gone else ():
                # Endpoints that left are drained; everything else, the hosts
                # without policy included, keeps its connections.
                engine.retain([t for t in engine.stats() if (t.address, t.port) not in gone])
        return plane

    def after_fork_in_child(self) -> None:
        """The parent's locks, connections and in-flight counts are not ours."""
        self._lock = threading.Lock()
        for engine in self._engines.values():
            engine.after_fork_in_child()
        self._plane = forked_plane(self._plane, _random64)
        self._publisher.replace_in_child(self._plane)


def _new_engine(colour: str) -> Any:
    if colour == "sync":
        from meshclient.transport.sync_engine import SyncEngine

        return SyncEngine()
    from meshclient.transport.async_engine import AsyncEngine

    return AsyncEngine()


def _addresses(plane: Plane) -> set[tuple[str, int]]:
    return {
        (state.endpoint.address, state.endpoint.port)
        for cluster in plane.clusters.values()
        for state in cluster.states
    }


def _library(family: str) -> Any:
    import importlib

    if family not in ("httpx", "httpx2"):
        raise ValueError(f'family is "httpx" or "httpx2", not {family!r}')
    try:
        return importlib.import_module(family)
    except ImportError as error:
        raise ImportError(
            f'{family} is not installed: pip install "meshclient[{family}]"'
        ) from error


def _with_caller(
    load: Callable[[Node | None], MeshConfig],
    labels: Mapping[str, str] | None,
    locality: str | None,
) -> Callable[[], MeshConfig]:
    """``load`` under the documents' own ``node`` with what the program says put in.

    What the documents say is known only after reading them, so where the
    program says something else they are read a second time.
    """
    changes: dict[str, Any] = {}
    if labels is not None:
        changes["labels"] = labels_of(dict(labels))
    if locality is not None:
        changes["locality"] = _locality(locality)

    def load_as_caller() -> MeshConfig:
        config = load(None)
        node = replace(config.node, **changes)
        return config if node == config.node else load(node)

    return load_as_caller


def _locality(text: str) -> Locality:
    parts = text.split("/")
    if len(parts) > 3:
        raise ValueError(f"locality is region/zone/sub_zone, not {text!r}")
    return Locality(*parts)


def _checked(strategies: Mapping[str, RetryStrategy] | None) -> dict[str, RetryStrategy]:
    """A typing error here would show at the first failure of a call only."""
    from meshclient.resilience import RetryStrategy

    for name, strategy in (strategies or {}).items():
        if not isinstance(name, str) or not isinstance(strategy, RetryStrategy):
            raise TypeError(
                "retry_strategies maps names of virtual hosts to RetryStrategy objects, "
                f"not {name!r} to {strategy!r}"
            )
    return dict(strategies or {})


def _no_environment() -> Diagnostic:
    if any(os.environ.get(name) for name in _XDS_VARIABLES):
        message = "an xDS bootstrap is set, but this version reads policy files only"
    else:
        message = f"{CONFIG_VARIABLE} is not set"
    return Diagnostic(
        "error",
        "no-configuration",
        message,
        suggestion=f"set {CONFIG_VARIABLE} to the policy files or directories",
    )


__all__ = ["CONFIG_VARIABLE", "Mesh"]
